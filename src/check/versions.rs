//! The checks of versions: one a write, and none of no write.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::sights::Sight;
use super::{Ended, Finding, History, Key, Keys, Op, Tally, Value, Version};

/// Values that show under a version other than the one their write was acknowledged with, or under
/// two versions where its outcome is unknown.
pub fn applied_twice(keys: &Keys, sights: &[(&Key, Sight)]) -> Finding {
    let looks_for = "one write that shows up under two versions";
    let mut tally = Tally::new("applied-twice", looks_for, "every level", true);
    let mut first_seen: BTreeMap<(&Key, String), Version> = BTreeMap::new();
    for (key, sight) in sights {
        let Some((Some(value @ Value::Named(_)), Some(version))) = sight.held() else { continue };
        let Some(write) = keys.shown_by(key, sight) else { continue };
        tally.examined();
        let first = first_seen.entry((key, value.to_string())).or_insert_with(|| {
            write.version.filter(|_| write.ended == Ended::Ok).unwrap_or(version)
        });
        if *first != version {
            tally.found(|| format!("{}, which also had version {first}", sight.describe(key)));
        }
    }
    tally.done()
}

/// Two writes under one version: the one that a write was acknowledged with, or that an answer shows
/// it with.
pub fn versions_used_twice(history: &History, keys: &Keys, sights: &[(&Key, Sight)]) -> Finding {
    let looks_for = "two writes under one version";
    let mut tally = Tally::new("version-used-twice", looks_for, "every level", true);
    let acknowledged = history.ops.iter().filter(|op| op.is_acknowledged_write());
    let acknowledged = acknowledged.filter_map(|op| Some((op.version?, op)));
    let shown = sights.iter().filter_map(|(key, sight)| {
        let write = keys.shown_by(key, sight)?;
        Some((sight.held()?.1?, write))
    });
    let mut used: HashMap<Version, &Op> = HashMap::new();
    for (version, op) in acknowledged.chain(shown) {
        tally.examined();
        if let Some(other) = used.insert(version, op).filter(|other| !std::ptr::eq(*other, op)) {
            tally.found(|| format!("{} and {}, both at {version}", in_words(other), in_words(op)));
        }
    }
    tally.done()
}

fn in_words(write: &Op) -> String {
    match &write.value {
        Some(value) => format!("value {value} of {}", write.key),
        None => {
            format!("client {}'s delete of {} ({} µs)", write.client, write.key, write.invoked_us)
        }
    }
}

/// Versions that answers show without a value, and that no write can have been given: more of them
/// than there are writes whose versions are not known.
pub fn versions_from_nowhere(keys: &Keys, sights: &[(&Key, Sight)]) -> Finding {
    let looks_for = "a version of a key that no write of it can have been given";
    let mut tally = Tally::new("version-from-nowhere", looks_for, "every level", true);
    let mut with_value: BTreeMap<&Key, BTreeMap<&Value, Version>> = BTreeMap::new();
    let mut without: BTreeMap<&Key, BTreeMap<Version, &Sight>> = BTreeMap::new();
    for (key, sight) in sights {
        match sight.held() {
            Some((Some(value), Some(version))) => {
                with_value.entry(key).or_default().insert(value, version);
            }
            Some((None, Some(version))) => {
                tally.examined();
                without.entry(key).or_default().entry(version).or_insert(sight);
            }
            _ => {}
        }
    }
    for (key, shown) in without {
        let Some(writes) = keys.get(key) else { continue };
        let by_value = with_value.get(key);
        let known: BTreeSet<Version> = writes
            .by_value
            .values()
            .filter_map(|write| write.version.filter(|_| write.ended == Ended::Ok))
            .chain(by_value.into_iter().flat_map(|shown| shown.values().copied()))
            .collect();
        let unclear = writes.by_value.values().filter(|write| {
            let is_shown = || {
                by_value.is_some_and(|s| write.value.as_ref().is_some_and(|v| s.contains_key(v)))
            };
            let is_told = write.ended == Ended::Ok && write.version.is_some();
            write.ended != Ended::Failed && !is_told && !is_shown()
        });
        let strange = shown.iter().filter(|(version, _)| !known.contains(version));
        for (_, sight) in strange.skip(unclear.count()) {
            tally.found(|| sight.describe(key));
        }
    }
    tally.done()
}
