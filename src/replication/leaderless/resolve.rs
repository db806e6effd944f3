//! Choosing the newest of what replicas hold, and naming who is stale or missing: pure.
//!
//! **Guarantees.** The choice depends on the records alone, never on who was asked first: the higher
//! version wins, and of two different records under one version the one with the larger digest. A
//! replica that has nothing is behind wherever another has something; a tombstone is something.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::planted::{self, Bug};
use crate::storage::encoding::{DecodeError, compare, peek};
use crate::types::{NodeId, Version};

/// What one replica holds of a key, as an encoded record; `None` where it never had one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub node: NodeId,
    pub record: Option<Bytes>,
    /// The collection horizon that it had reached before it looked, in milliseconds since 1970.
    pub reached_ms: u64,
}

/// The newest record, and how the replicas stand to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// The newest record, encoded, tombstones included; `None` where no replica has one.
    pub newest: Option<Bytes>,
    /// The newest record's version.
    pub version: Option<Version>,
    /// The collection horizon that it is known to have survived: the highest of those who hold it.
    pub survived_ms: u64,
    /// The latest collection horizon that any of those asked has reached.
    pub reached_ms: u64,
    /// Who holds exactly that record. Everyone, where there is none.
    pub holders: Vec<NodeId>,
    /// Who holds an older one, or nothing.
    pub behind: Vec<NodeId>,
}

/// Chooses the newest record and sorts the replicas by it.
pub fn resolve(held: &[Held]) -> Result<Resolution, DecodeError> {
    let mut newest: Option<&Bytes> = None;
    for record in held.iter().filter_map(|held| held.record.as_ref()) {
        if planted::is(Bug::TombstoneFilteredBeforeMerging) && peek(record)?.1 {
            continue;
        }
        let wins = match newest {
            None => true,
            Some(newest) => compare(record, newest)? == Ordering::Greater,
        };
        if wins {
            newest = Some(record);
        }
    }
    let mut resolution = Resolution { newest: newest.cloned(), ..Resolution::default() };
    if let Some(newest) = newest {
        resolution.version = Some(peek(newest)?.0);
    }
    for Held { node, record, reached_ms } in held {
        resolution.reached_ms = resolution.reached_ms.max(*reached_ms);
        let holds = match (record, newest) {
            (Some(record), Some(newest)) => compare(record, newest)? == Ordering::Equal,
            (None, newest) => newest.is_none() || planted::is(Bug::MissingCountsAsAgreement),
            (Some(_), None) => false,
        };
        if holds {
            resolution.holders.push(*node);
            resolution.survived_ms = resolution.survived_ms.max(*reached_ms);
        } else {
            resolution.behind.push(*node);
        }
    }
    Ok(resolution)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::encoding::{encode, rank};
    use crate::types::{Content, Record};
    use proptest::prelude::*;

    fn value(ms: u64, node: u16, text: &'static str) -> Bytes {
        let bytes = Bytes::from_static(text.as_bytes());
        let content = Content::Value { bytes, content_type: None, expires_at_ms: None };
        encode(&Record { version: Version::new(ms << 16, NodeId(node)), content })
    }

    fn tombstone(ms: u64, node: u16) -> Bytes {
        let version = Version::new(ms << 16, NodeId(node));
        encode(&Record { version, content: Content::Tombstone })
    }

    fn held(records: &[Option<Bytes>]) -> Vec<Held> {
        let node = |at: usize| NodeId(at as u16 + 1);
        let held = |(at, record): (usize, &Option<Bytes>)| {
            let record = record.clone();
            Held { node: node(at), record, reached_ms: at as u64 }
        };
        records.iter().enumerate().map(held).collect()
    }

    #[test]
    fn a_replica_without_a_record_is_behind_one_that_has_it() {
        let found = resolve(&held(&[None, Some(value(1, 1, "a")), None])).expect("records");
        assert_eq!(found.newest, Some(value(1, 1, "a")));
        assert_eq!(found.holders, [NodeId(2)]);
        assert_eq!(found.survived_ms, 1, "its holder's, not the highest");
        assert_eq!(found.behind, [NodeId(1), NodeId(3)]);
    }

    #[test]
    fn a_newer_tombstone_wins_and_is_held_like_a_value() {
        let records = [Some(value(1, 1, "a")), Some(tombstone(2, 1)), None];
        let found = resolve(&held(&records)).expect("records");
        assert_eq!(found.newest, Some(tombstone(2, 1)));
        assert_eq!((found.holders.len(), found.behind.len()), (1, 2));
    }

    #[test]
    fn where_nobody_has_a_record_everybody_agrees() {
        let found = resolve(&held(&[None, None])).expect("no records");
        assert_eq!((found.newest, found.holders.len(), found.behind.len()), (None, 2, 0));
    }

    #[test]
    fn what_is_no_record_is_an_error_and_no_choice() {
        let nonsense = Some(Bytes::from_static(b"\xff\xffnonsense"));
        assert!(resolve(&held(&[nonsense, Some(tombstone(1, 1))])).is_err());
    }

    fn record() -> impl Strategy<Value = Option<Bytes>> {
        let text = prop_oneof![Just("a"), Just("b"), Just("c")];
        prop_oneof![
            Just(None),
            (1..4_u64, 1..3_u16, text).prop_map(|(ms, node, text)| Some(value(ms, node, text))),
            (1..4_u64, 1..3_u16).prop_map(|(ms, node)| Some(tombstone(ms, node))),
        ]
    }

    proptest! {
        #[test]
        fn the_choice_is_the_greatest_by_version_and_digest_in_whatever_order(
            records in proptest::collection::vec(record(), 0..6),
            turn in 0..6_usize,
        ) {
            let rank = |record: &Bytes| rank(record).expect("a record");
            let expected = records.iter().flatten().max_by_key(|record| rank(record)).cloned();
            let mut turned = held(&records);
            turned.rotate_left(turn.min(records.len()));
            let found = resolve(&turned).expect("records");
            prop_assert_eq!(&found.newest, &expected);
            prop_assert_eq!(found.version, expected.as_ref().map(|record| rank(record).0));
            for Held { node, record, .. } in held(&records) {
                let holds = record == expected;
                prop_assert_eq!(found.holders.contains(&node), holds);
                prop_assert_eq!(found.behind.contains(&node), !holds);
            }
        }
    }
}
