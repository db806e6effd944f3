//! A write that lost to a newer one says so.
//!
//! In leaderless mode the newest version wins, and a slow clock can give a later write a lower one.
//! Two writes whose W together exceed N share a replica. Where the first was acknowledged before
//! the second was asked for, that replica held the first when it took the second, so it said that
//! the second was superseded, and by which version at least; the coordinator waited for it, and
//! tells its client.

use std::collections::BTreeMap;

use super::{Finding, History, Key, Mode, Op, Tally, Version};
use crate::types::EffectiveLevel;

const LOOKS_FOR: &str =
    "an acknowledged write that was not told of a newer version acknowledged before it began";

/// When writes of a key were acknowledged, by how many replicas each waited for.
type Acknowledged = BTreeMap<u16, Vec<(u64, Version)>>;

/// Writes that lost to a version acknowledged before they were asked for, and were not told of it
/// or a newer one. Writes that do not say how many replicas took them are not looked at; a history
/// without any other has no finding, nor has one of leader mode, where no write loses.
pub fn superseded_not_told(history: &History) -> Option<Finding> {
    if history.header.mode == Mode::Leader {
        return None;
    }
    let mut by_key: BTreeMap<&Key, Acknowledged> = BTreeMap::new();
    for op in &history.ops {
        if let (Some(version), Some((w, _))) = (version_of(op), replicas_of(op)) {
            let of_key = by_key.entry(&op.key).or_default();
            of_key.entry(w).or_default().push((op.answered_us, version));
        }
    }
    if by_key.is_empty() {
        return None;
    }
    for acknowledged in by_key.values_mut().flat_map(BTreeMap::values_mut) {
        keep_the_newest_by_then(acknowledged);
    }
    let mut tally = Tally::new("superseded-not-told", LOOKS_FOR, "quorum", true);
    for op in &history.ops {
        let (Some(version), Some((w, n))) = (version_of(op), replicas_of(op)) else { continue };
        let Some(acknowledged) = by_key.get(&op.key) else { continue };
        let meeting = acknowledged.range(n.saturating_sub(w) + 1..).map(|(_, times)| times);
        let Some(before) = meeting.filter_map(|times| newest_before(times, op.invoked_us)).max()
        else {
            continue;
        };
        tally.examined();
        let told = op.superseded.is_some_and(|told| told >= before);
        if before > version && !told {
            tally.found(|| in_words(op, version, before));
        }
    }
    Some(tally.done())
}

/// The version that an acknowledged write was given.
fn version_of(op: &Op) -> Option<Version> {
    op.version.filter(|_| op.is_acknowledged_write())
}

/// How many replicas a write waited for, and of how many.
fn replicas_of(op: &Op) -> Option<(u16, u16)> {
    match op.served?.0 {
        EffectiveLevel::Quorum { w, n, .. } | EffectiveLevel::Eventual { w, n, .. } => Some((w, n)),
        EffectiveLevel::Linearizable
        | EffectiveLevel::Lease
        | EffectiveLevel::Local
        | EffectiveLevel::LocalWithin { .. } => None,
    }
}

fn keep_the_newest_by_then(acknowledged: &mut [(u64, Version)]) {
    acknowledged.sort_unstable();
    let mut newest = Version::ZERO;
    for (_, version) in acknowledged {
        newest = newest.max(*version);
        *version = newest;
    }
}

/// What was acknowledged in the microsecond of the question may have come after it.
fn newest_before(acknowledged: &[(u64, Version)], instant_us: u64) -> Option<Version> {
    let before = acknowledged.partition_point(|(at_us, _)| *at_us < instant_us);
    before.checked_sub(1).map(|last| acknowledged[last].1)
}

fn in_words(op: &Op, version: Version, before: Version) -> String {
    let what = op.value.as_ref().map_or(String::new(), |value| format!(" of {value}"));
    let told = op.superseded.map_or("that it was the newest".to_owned(), |told| {
        format!("that it was superseded by {told}")
    });
    format!(
        "client {}'s {}{what} on {} through node {} was acknowledged at {version} and told {told}, \
         although {before} had been acknowledged before ({} to {} µs)",
        op.client, op.action, op.key, op.node, op.invoked_us, op.answered_us
    )
}
