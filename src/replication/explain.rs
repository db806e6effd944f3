//! Explaining a key: what each replica holds of it, who is behind, and what reads would return now.
//!
//! **Why it exists.** Who wonders why a read returned what it did, or whether a replica that was away
//! has caught up, should not have to guess. This asks every replica and changes nothing: no repair
//! follows from it.
//!
//! **Guarantees.** Each replica says what its own table holds, at one moment of its own. A replica
//! that does not answer within a second is named, with the reason.
//!
//! **Does not guarantee** one moment for all replicas: beside writes the answers may be from before
//! and after one of them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use crate::peer::{Lane, Request, Service, SharedTransport};
use crate::runtime::{Instant, Runtime};
use crate::storage::encoding::{self, DecodeError};
use crate::types::{Content, Epoch, Key, NodeId, Partition, Version};

/// How long a replica is waited for: well above a round trip, well below what a person waits.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// What a node's table holds of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// `None` where it never had a record, or has forgotten a tombstone.
    pub head: Option<Head>,
    /// The log index up to which the node has applied the data's log; leader mode alone.
    pub applied_index: Option<u64>,
}

/// A record without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub version: Version,
    pub tombstone: bool,
    /// When it expires, in milliseconds since 1970; a record past it counts as a tombstone.
    pub expires_at_ms: Option<u64>,
    /// Bytes of the value.
    pub size: u64,
    /// Two records under one version differ in it.
    pub digest: u64,
}

impl Head {
    /// Whether a read would find nothing, at this time of the wall clock.
    pub fn is_gone(&self, now_ms: u64) -> bool {
        self.tombstone || self.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }

    /// What decides which of two records is newer.
    fn rank(&self) -> (Version, u64) {
        (self.version, self.digest)
    }
}

/// One replica's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    pub node: NodeId,
    /// What it holds, or why that is not known.
    pub holding: Result<Holding, String>,
}

/// What a read at a level would return now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextRead {
    /// The level, as `Quorate-Consistency` says it.
    pub level: String,
    /// The versions that it may return, the newest first; `None` is *not found by any replica asked*.
    /// More than one where it depends on which replicas answer first.
    pub may_return: Vec<Option<Version>>,
    /// Why it would fail, where it would.
    pub error: Option<String>,
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub partition: Partition,
    /// Every replica, by id.
    pub replicas: Vec<ReplicaView>,
    pub reads: Vec<NextRead>,
    /// This node's wall clock when it looked, in milliseconds since 1970.
    pub now_ms: u64,
}

impl Explanation {
    /// The newest record that any replica told of.
    pub fn newest(&self) -> Option<&Head> {
        newest(&self.replicas)
    }

    /// Whether a replica lacks the newest record; `None` where that is not known.
    pub fn is_behind(&self, replica: &ReplicaView) -> Option<bool> {
        let holding = replica.holding.as_ref().ok()?;
        let newest = self.newest().map(Head::rank);
        Some(holding.head.as_ref().map(Head::rank) < newest)
    }

    /// By how many milliseconds of version time a replica's record is older than the newest; `None`
    /// where it holds none, or did not answer.
    pub fn lag_ms(&self, replica: &ReplicaView) -> Option<u64> {
        let held = replica.holding.as_ref().ok()?.head.as_ref()?;
        let newest = self.newest()?;
        Some(newest.version.millis().saturating_sub(held.version.millis()))
    }

    /// How many entries of the log a replica has still to apply that another has applied; leader
    /// mode alone.
    pub fn lag_entries(&self, replica: &ReplicaView) -> Option<u64> {
        let applied = |view: &ReplicaView| view.holding.as_ref().ok()?.applied_index;
        let furthest = self.replicas.iter().filter_map(applied).max()?;
        Some(furthest.saturating_sub(applied(replica)?))
    }
}

/// The newest record that any of these told of.
pub fn newest(replicas: &[ReplicaView]) -> Option<&Head> {
    let heads = replicas.iter().filter_map(|view| view.holding.as_ref().ok()?.head.as_ref());
    heads.max_by_key(|head| head.rank())
}

/// Describes a row.
pub fn head(row: &Bytes) -> Result<Head, DecodeError> {
    let record = encoding::decode(row)?;
    let (tombstone, expires_at_ms, size) = match &record.content {
        Content::Tombstone => (true, None, 0),
        Content::Value { bytes, expires_at_ms, .. } => (false, *expires_at_ms, bytes.len() as u64),
    };
    let (version, digest) = encoding::rank(row)?;
    Ok(Head { version, tombstone, expires_at_ms, size, digest })
}

/// The key that a peer asks about, as [`Asking::all`] sends it.
pub fn key(body: &[u8]) -> Result<Key, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    // What comes over a link is bounded by it.
    Key::new(text, usize::MAX).map_err(|error| error.to_string())
}

/// The answer to a peer that asks what this node holds.
pub fn encode(holding: &Holding) -> Result<Bytes, String> {
    postcard::to_allocvec(holding).map(Bytes::from).map_err(|error| error.to_string())
}

fn decode(body: &[u8]) -> Result<Holding, String> {
    postcard::from_bytes(body).map_err(|error| format!("an answer that makes no sense: {error}"))
}

/// Whom to ask, and how.
pub struct Asking<'a> {
    pub runtime: &'a Runtime,
    pub transport: &'a SharedTransport,
    pub own: NodeId,
    /// The layout that data requests name, where the mode has one.
    pub epoch: Option<Epoch>,
    pub deadline: Instant,
}

impl Asking<'_> {
    /// Asks every one of `replicas` what it holds of `key`, all at once. `own` is what this node
    /// holds.
    pub async fn all(
        &self,
        key: &Key,
        replicas: impl IntoIterator<Item = NodeId>,
        own: Result<Holding, String>,
    ) -> Vec<ReplicaView> {
        let views = replicas.into_iter().map(|node| {
            let own = (node == self.own).then(|| own.clone());
            async move {
                let holding = match own {
                    Some(own) => own,
                    None => self.one(node, key).await,
                };
                ReplicaView { node, holding }
            }
        });
        let mut views = join_all(views).await;
        views.sort_by_key(|view| view.node);
        views
    }

    async fn one(&self, to: NodeId, key: &Key) -> Result<Holding, String> {
        let deadline = self.deadline.min(self.runtime.now() + ASK_TIMEOUT);
        let call = self.transport.call(Request {
            to,
            lane: Lane::Bulk,
            service: Service::Inspect,
            epoch: self.epoch,
            deadline,
            body: Bytes::copy_from_slice(key.as_str().as_bytes()),
        });
        match self.runtime.deadline(deadline, call).await {
            Some(Ok(body)) => decode(&body),
            Some(Err(error)) => Err(error.to_string()),
            None => Err(format!("node {to} did not answer in time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Record;

    fn view(node: u16, time: Option<u64>) -> ReplicaView {
        let head = time.map(|time| Head {
            version: Version::new(time << 16, NodeId(1)),
            tombstone: false,
            expires_at_ms: None,
            size: 1,
            digest: 0,
        });
        ReplicaView { node: NodeId(node), holding: Ok(Holding { head, applied_index: None }) }
    }

    fn explanation(replicas: Vec<ReplicaView>) -> Explanation {
        Explanation { partition: Partition(0), replicas, reads: Vec::new(), now_ms: 0 }
    }

    #[test]
    fn who_lacks_the_newest_is_behind_and_who_has_nothing_too() {
        let silent = ReplicaView { node: NodeId(4), holding: Err("it is down".to_owned()) };
        let told = explanation(vec![view(1, Some(500)), view(2, Some(200)), view(3, None), silent]);
        let behind: Vec<_> = told.replicas.iter().map(|view| told.is_behind(view)).collect();
        assert_eq!(behind, [Some(false), Some(true), Some(true), None]);
        let lags: Vec<_> = told.replicas.iter().map(|view| told.lag_ms(view)).collect();
        assert_eq!(lags, [Some(0), Some(300), None, None]);
        let nothing = explanation(vec![view(1, None), view(2, None)]);
        assert_eq!(nothing.is_behind(&nothing.replicas[0]), Some(false), "all are equal");
    }

    #[test]
    fn of_two_records_under_one_version_the_one_that_loses_is_behind() {
        let mut told = explanation(vec![view(1, Some(5)), view(2, Some(5))]);
        told.replicas[1].holding = Ok(Holding {
            head: Some(Head { digest: 7, ..told.newest().expect("one").clone() }),
            applied_index: None,
        });
        assert_eq!(told.is_behind(&told.replicas[0]), Some(true));
        assert_eq!(told.is_behind(&told.replicas[1]), Some(false));
    }

    #[test]
    fn entries_not_applied_are_counted_against_who_applied_most() {
        let mut told = explanation(vec![view(1, None), view(2, None)]);
        for (view, applied) in told.replicas.iter_mut().zip([90, 70]) {
            view.holding = Ok(Holding { head: None, applied_index: Some(applied) });
        }
        assert_eq!(told.lag_entries(&told.replicas[1]), Some(20));
        assert_eq!(told.lag_entries(&told.replicas[0]), Some(0));
    }

    #[test]
    fn a_row_is_described_and_expiry_makes_it_gone() {
        let version = Version::new(9 << 16, NodeId(2));
        let content = Content::Value {
            bytes: Bytes::from_static(b"four"),
            content_type: None,
            expires_at_ms: Some(100),
        };
        let row = encoding::encode(&Record { version, content });
        let head = head(&row).expect("a record");
        assert_eq!((head.version, head.tombstone, head.size), (version, false, 4));
        assert!(!head.is_gone(99) && head.is_gone(100));
        let holding = Holding { head: Some(head), applied_index: Some(3) };
        assert_eq!(decode(&encode(&holding).expect("encodes")), Ok(holding));
        assert!(decode(b"\xff").is_err());
    }
}
