//! The checks that look at one read at a time.

use std::collections::BTreeMap;

use super::{
    Action, Ended, Finding, History, Key, Keys, Level, Mode, Tally, Value, Version, describe,
    promises_freshness,
};
use crate::types::EffectiveLevel;

/// Acknowledged writes that the reads at the end do not show, nor anything newer.
pub fn lost_writes(history: &History, keys: &Keys) -> Finding {
    let level = Level::default_for(history.header.mode);
    let looks_for = "an acknowledged write that reads no longer show, nor anything newer";
    let mut tally = Tally::new("lost-write", looks_for, level.as_str(), true);
    let mut read_back: BTreeMap<&Key, bool> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| op.readback && op.action == Action::Get) {
        let answered = op.ended == Ended::Ok && op.level == level && op.r.is_none();
        *read_back.entry(&op.key).or_default() |= answered;
        let expected = keys.get(&op.key).and_then(|w| Some((w, w.newest_before(u64::MAX)?)));
        let Some((writes, expected)) = expected.filter(|_| answered) else { continue };
        tally.examined();
        if writes.shows_less(op, expected) {
            tally.found(|| format!("{}, after {expected} was acknowledged", describe(op)));
        }
    }
    for (key, writes) in &keys.0 {
        let acknowledged = !writes.acknowledged.is_empty();
        if acknowledged && !read_back.get(key).copied().unwrap_or(false) {
            tally.unverified();
        }
    }
    tally.finding
}

/// Reads that show what nobody had asked to write to that key by then.
pub fn values_from_nowhere(history: &History, keys: &Keys) -> Finding {
    let looks_for = "a read of a value that nobody ever asked to write to that key";
    let mut tally = Tally::new("value-from-nowhere", looks_for, "every level", true);
    for op in history.ops.iter().filter(|op| op.is_answered_read() && op.value.is_some()) {
        tally.examined();
        let written = keys.shown_by(op);
        if written.is_none_or(|write| write.invoked_us > op.answered_us) {
            tally.found(|| describe(op));
        }
    }
    tally.finding
}

/// Reads that show a write which was answered `not_applied`.
pub fn shown_after_not_applied(history: &History, keys: &Keys) -> Finding {
    let looks_for = "a read of a write that was reported as definitely not applied";
    let mut tally = Tally::new("shown-after-not-applied", looks_for, "every level", true);
    for op in history.ops.iter().filter(|op| op.is_answered_read()) {
        let Some(write) = keys.shown_by(op) else { continue };
        tally.examined();
        if write.ended == Ended::Failed {
            tally.found(|| {
                format!("{}, written with answer {} (failed)", describe(op), write.status)
            });
        }
    }
    tally.finding
}

/// Values that show under a version other than the one their write was acknowledged with, or under
/// two versions where its outcome is unknown.
pub fn applied_twice(history: &History, keys: &Keys) -> Finding {
    let looks_for = "one write that shows up under two versions";
    let mut tally = Tally::new("applied-twice", looks_for, "every level", true);
    let mut first_seen: BTreeMap<(&Key, String), Version> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| op.is_answered_read()) {
        let (Some(write), Some(version)) = (keys.shown_by(op), op.version) else { continue };
        let Some(value @ Value::Named(_)) = &op.value else { continue };
        tally.examined();
        let first = first_seen.entry((&op.key, value.to_string())).or_insert_with(|| {
            write.version.filter(|_| write.ended == Ended::Ok).unwrap_or(version)
        });
        if *first != version {
            tally.found(|| format!("{}, which also had version {first}", describe(op)));
        }
    }
    tally.finding
}

/// Reads that began after a write was acknowledged and show less than it, for each level asked for.
pub fn stale_reads(history: &History, keys: &Keys) -> Vec<Finding> {
    let looks_for = "a read that missed a write acknowledged before the read began";
    let mut levels: BTreeMap<(String, bool), Tally> = BTreeMap::new();
    // A client's own writes came before its reads even where the clock shows one microsecond.
    let mut own: BTreeMap<(u32, &Key), Version> = BTreeMap::new();
    for op in &history.ops {
        if let Some(version) = op.version.filter(|_| op.is_acknowledged_write()) {
            let newest = own.entry((op.client, &op.key)).or_insert(version);
            *newest = (*newest).max(version);
        }
        let Some(writes) = keys.get(&op.key).filter(|_| op.is_answered_read()) else { continue };
        let others = writes.newest_before(op.invoked_us);
        let expected = others.max(own.get(&(op.client, &op.key)).copied());
        let Some(expected) = expected else { continue };
        let promised = promises_freshness(history.header.mode, op);
        let tally = levels
            .entry((op.asked(), promised))
            .or_insert_with(|| Tally::new("stale-read", looks_for, &op.asked(), promised));
        tally.examined();
        if writes.shows_less(op, expected) {
            tally.found(|| format!("{}, after {expected} was acknowledged", describe(op)));
        }
    }
    levels.into_values().map(|tally| tally.finding).collect()
}

/// Answers that were served below the level asked for. `r=` asks for less on purpose.
pub fn levels_not_served(history: &History) -> Vec<Finding> {
    let looks_for = "an answer served below the level that was asked for";
    let mut levels: BTreeMap<Level, Tally> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| op.is_answered_read() && op.r.is_none()) {
        let Some(served) = op.served else { continue };
        let kept = match (op.level, history.header.mode) {
            (Level::Linearizable, _) | (Level::Quorum, Mode::Leader) => {
                served.0 == EffectiveLevel::Linearizable
            }
            (Level::Quorum, Mode::Leaderless) => {
                matches!(served.0, EffectiveLevel::Quorum { .. } | EffectiveLevel::Linearizable)
            }
            (Level::Lease | Level::Local, _) => continue,
        };
        let tally = levels
            .entry(op.level)
            .or_insert_with(|| Tally::new("level-not-served", looks_for, op.level.as_str(), true));
        tally.examined();
        if !kept {
            tally.found(|| format!("{}, served as {served}", describe(op)));
        }
    }
    levels.into_values().map(|tally| tally.finding).collect()
}
