//! The checks that look at one read at a time.

use std::collections::BTreeMap;

use super::sights::Sight;
use super::{
    Action, Ended, Finding, History, Key, Keys, Level, Mode, Op, Tally, Version, describe,
    is_weak_write, promises_freshness,
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
        let expected =
            keys.get(&op.key).and_then(|w| Some((w, w.acknowledged.newest_before(u64::MAX)?)));
        let Some((writes, expected)) = expected.filter(|_| answered) else { continue };
        tally.examined();
        let shows_less =
            Sight::of(op, &op.key).is_some_and(|sight| writes.shows_less(&sight, expected));
        if shows_less {
            tally.found(|| format!("{}, after {expected} was acknowledged", describe(op)));
        }
    }
    for (key, writes) in &keys.0 {
        let acknowledged = !writes.acknowledged.is_empty();
        if acknowledged && !read_back.get(key).copied().unwrap_or(false) {
            tally.unverified();
        }
    }
    tally.done()
}

/// Answers that show what nobody had asked to write to that key by then.
pub fn values_from_nowhere(keys: &Keys, sights: &[(&Key, Sight)]) -> Finding {
    let looks_for = "a read of a value that nobody ever asked to write to that key";
    let mut tally = Tally::new("value-from-nowhere", looks_for, "every level", true);
    for (key, sight) in sights {
        let Some((value, _)) = sight.held() else { continue };
        tally.examined();
        let possible = |write: &Op| write.invoked_us <= sight.op.answered_us;
        let is_explained = match (value, keys.get(key)) {
            (_, None) => false,
            (Some(_), Some(_)) => keys.shown_by(key, sight).is_some_and(possible),
            (None, Some(writes)) => writes.by_value.values().any(|write| possible(write)),
        };
        if !is_explained {
            tally.found(|| sight.describe(key));
        }
    }
    tally.done()
}

/// Answers that show a write which was answered `not_applied`.
pub fn shown_after_not_applied(keys: &Keys, sights: &[(&Key, Sight)]) -> Finding {
    let looks_for = "a read of a write that was reported as definitely not applied";
    let mut tally = Tally::new("shown-after-not-applied", looks_for, "every level", true);
    for (key, sight) in sights {
        let Some(write) = keys.shown_by(key, sight) else { continue };
        tally.examined();
        if write.ended == Ended::Failed {
            let status = write.status;
            tally.found(|| {
                format!("{}, written with answer {status} (failed)", sight.describe(key))
            });
        }
    }
    tally.done()
}

/// Reads that began after a write was acknowledged and show less than it, for each level asked for,
/// and for how long it had been acknowledged.
pub fn stale_reads(history: &History, keys: &Keys, sights: &[(&Key, Sight)]) -> Vec<Finding> {
    let looks_for = "a read that missed a write acknowledged before the read began";
    let mut levels: BTreeMap<(String, bool), Tally> = BTreeMap::new();
    // A client's own writes came before its reads even where the clock shows one microsecond.
    let mut own: BTreeMap<(u32, &Key, bool), Version> = BTreeMap::new();
    let mut writes_before = history.ops.iter().peekable();
    for (key, sight) in sights.iter().filter(|(_, sight)| !sight.op.action.is_write()) {
        let op = sight.op;
        // Both are in the order of invocation.
        while let Some(before) = writes_before.next_if(|before| !std::ptr::eq(*before, op)) {
            if let Some(version) = before.version.filter(|_| before.is_acknowledged_write()) {
                // Reads that promise freshness are not bound by writes that reached too few.
                for fresh in [false, true].iter().filter(|fresh| !**fresh || !is_weak_write(before))
                {
                    let own = own.entry((before.client, &before.key, *fresh)).or_insert(version);
                    *own = (*own).max(version);
                }
            }
        }
        let Some(writes) = keys.get(key) else { continue };
        let promised = promises_freshness(history.header.mode, op);
        let (binding, own) = (writes.binding(promised), own.get(&(op.client, *key, promised)));
        let expected = binding.newest_before(op.invoked_us).max(own.copied());
        let Some(expected) = expected else { continue };
        let tally = levels
            .entry((op.asked(), promised))
            .or_insert_with(|| Tally::new("stale-read", looks_for, &op.asked(), promised));
        tally.examined();
        if writes.shows_less(sight, expected) {
            let since_us = binding.acknowledged_us(expected).unwrap_or(op.invoked_us);
            let age_us = op.invoked_us.saturating_sub(since_us);
            tally.aged(age_us);
            tally.found(|| {
                let sight = sight.describe(key);
                format!("{sight}, {age_us} µs after {expected} was acknowledged")
            });
        }
    }
    levels.into_values().map(Tally::done).collect()
}

/// Answers that were served below the level asked for, or under a name that they do not deserve.
/// `r=` asks for less on purpose, and must be told so.
pub fn levels_not_served(history: &History) -> Vec<Finding> {
    let looks_for = "an answer served below the level that was asked for, or said to be";
    let mut levels: BTreeMap<Level, Tally> = BTreeMap::new();
    let answered_read =
        |op: &&Op| op.ended == Ended::Ok && matches!(op.action, Action::Get | Action::List);
    for op in history.ops.iter().filter(answered_read) {
        let Some(served) = op.served else { continue };
        let kept = match (op.level, history.header.mode, served.0) {
            // The name of a quorum says that R + W > N.
            (_, _, EffectiveLevel::Quorum { r, w, n })
                if u32::from(r) + u32::from(w) <= u32::from(n) =>
            {
                false
            }
            (Level::Linearizable, _, level) | (Level::Quorum, Mode::Leader, level) => {
                level == EffectiveLevel::Linearizable
            }
            (Level::Quorum, Mode::Leaderless, level) => {
                let quorum =
                    matches!(level, EffectiveLevel::Quorum { .. } | EffectiveLevel::Linearizable);
                quorum || op.r.is_some()
            }
            (Level::Lease, _, level) => {
                matches!(level, EffectiveLevel::Lease | EffectiveLevel::Linearizable)
            }
            (Level::Local, _, EffectiveLevel::LocalWithin { staleness_ms }) => {
                op.max_staleness_ms.is_some_and(|bound_ms| staleness_ms <= bound_ms)
            }
            (Level::Local, ..) => op.max_staleness_ms.is_none(),
        };
        let tally = levels
            .entry(op.level)
            .or_insert_with(|| Tally::new("level-not-served", looks_for, op.level.as_str(), true));
        tally.examined();
        if !kept {
            tally.found(|| format!("{}, served as {served}", describe(op)));
        }
    }
    levels.into_values().map(Tally::done).collect()
}
