//! Deleted keys stay deleted.

use std::collections::BTreeMap;

use super::sights::{Seen, Sight};
use super::{
    Action, Finding, History, Key, Keys, Op, Tally, Version, is_weak_write, promises_freshness,
};

const LOOKS_FOR: &str = "an older value of a key whose newest write is an acknowledged delete";

/// Sights of a value older than an acknowledged delete, begun after the delete was acknowledged.
///
/// A superseded delete promises nothing: its key was told to hold something newer. A weaker level
/// may show a replica that the delete has not reached, until everything has settled.
pub fn deleted_keys_that_came_back(
    history: &History,
    keys: &Keys,
    sights: &[(&Key, Sight)],
) -> Vec<Finding> {
    let deleted = newest_deletes(history, keys);
    let mut levels: BTreeMap<(String, bool), Tally> = BTreeMap::new();
    for (key, sight) in sights {
        let Some((delete, version)) = deleted.get(key).copied() else { continue };
        let op = sight.op;
        if op.invoked_us <= delete.answered_us || op.action.is_write() {
            continue;
        }
        let fresh = promises_freshness(history.header.mode, op) && !is_weak_write(delete);
        let settled = op.readback && !fresh;
        let at = if settled { ", once settled" } else { "" };
        let tally = levels.entry((format!("{}{at}", op.asked()), fresh || settled));
        let tally = tally.or_insert_with_key(|(level, promised)| {
            Tally::new("deleted-key-came-back", LOOKS_FOR, level, *promised)
        });
        tally.examined();
        let came_back = match sight.seen {
            Seen::Nothing | Seen::Not(_) => false,
            Seen::Held { version: shown, .. } => shown.is_some_and(|shown| shown < version),
        };
        if came_back {
            tally.found(|| format!("{}, after its delete at {version}", sight.describe(key)));
        }
    }
    levels.into_values().map(Tally::done).collect()
}

/// The keys whose newest acknowledged write is a delete that was not superseded, and its
/// version.
fn newest_deletes<'a>(history: &'a History, keys: &Keys) -> BTreeMap<&'a Key, (&'a Op, Version)> {
    let mut deleted = BTreeMap::new();
    for op in &history.ops {
        let is_delete = op.action == Action::Delete && op.is_acknowledged_write();
        let Some(version) = op.version.filter(|_| is_delete && op.superseded.is_none()) else {
            continue;
        };
        let newest =
            keys.get(&op.key).and_then(|writes| writes.acknowledged.newest_before(u64::MAX));
        if newest == Some(version) {
            deleted.insert(&op.key, (op, version));
        }
    }
    deleted
}
