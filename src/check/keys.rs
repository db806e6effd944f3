//! The writes of every key, in a form that the checks can ask.

use std::collections::{BTreeMap, BTreeSet};

use super::sights::{Seen, Sight};
use super::{Action, Ended, History, Key, Op, Version, is_weak_write};

/// The writes of every key, in a form that checks can ask.
pub struct Keys<'a>(pub BTreeMap<&'a Key, KeyWrites<'a>>);

#[derive(Default)]
pub struct KeyWrites<'a> {
    /// Every write of a value, by the value.
    pub by_value: BTreeMap<String, &'a Op>,
    /// Deletes that may have happened.
    pub deletes: Vec<&'a Op>,
    /// Every acknowledged write.
    pub acknowledged: Acknowledged,
    /// Those that bind reads at `quorum`.
    pub firm: Acknowledged,
}

/// When a write was acknowledged, and the newest version acknowledged by then.
#[derive(Default)]
pub struct Acknowledged(Vec<(u64, Version)>);

impl<'a> Keys<'a> {
    pub fn of(history: &'a History) -> Keys<'a> {
        let mut keys: BTreeMap<&Key, KeyWrites> = BTreeMap::new();
        for op in history.ops.iter().filter(|op| op.action.is_write()) {
            let writes = keys.entry(&op.key).or_default();
            if let Some(value) = &op.value {
                writes.by_value.insert(value.to_string(), op);
            }
            if op.action == Action::Delete && op.ended != Ended::Failed {
                writes.deletes.push(op);
            }
            if let (Ended::Ok, Some(version)) = (op.ended, op.version) {
                writes.acknowledged.0.push((op.answered_us, version));
                if !is_weak_write(op) {
                    writes.firm.0.push((op.answered_us, version));
                }
            }
        }
        for writes in keys.values_mut() {
            writes.acknowledged.finish();
            writes.firm.finish();
        }
        Keys(keys)
    }

    pub fn get(&self, key: &Key) -> Option<&KeyWrites<'a>> {
        self.0.get(key)
    }

    /// The write that a sight shows, where its value was written to the key.
    pub fn shown_by(&self, key: &Key, sight: &Sight) -> Option<&'a Op> {
        let (value, _) = sight.held()?;
        self.get(key)?.by_value.get(&value?.to_string()).copied()
    }

    /// Everything that answers showed, in the order of the operations; of lists, every key that
    /// was written or shown.
    pub fn sights(&self, history: &'a History) -> Vec<(&'a Key, Sight<'a>)> {
        let mut listed: BTreeSet<&Key> = BTreeSet::new();
        if history.ops.iter().any(|op| op.action == Action::List) {
            listed.extend(self.0.keys().copied());
            let items = history.ops.iter().flat_map(|op| op.items.iter().flatten());
            listed.extend(items.map(|item| &item.key));
        }
        let mut sights = Vec::with_capacity(history.ops.len());
        for op in &history.ops {
            if op.action != Action::List {
                sights.extend(Sight::of(op, &op.key).map(|sight| (&op.key, sight)));
                continue;
            }
            let begun = listed.range::<Key, _>(&op.key..).copied();
            for key in begun.take_while(|key| key.as_str().starts_with(op.key.as_str())) {
                sights.extend(Sight::of(op, key).map(|sight| (key, sight)));
            }
        }
        sights
    }
}

impl Acknowledged {
    fn finish(&mut self) {
        self.0.sort_by_key(|(answered_us, _)| *answered_us);
        let mut newest = Version::ZERO;
        for (_, version) in &mut self.0 {
            newest = newest.max(*version);
            *version = newest;
        }
    }

    /// The newest version acknowledged before `instant_us`.
    pub fn newest_before(&self, instant_us: u64) -> Option<Version> {
        let before = self.0.partition_point(|(at, _)| *at < instant_us);
        before.checked_sub(1).map(|last| self.0[last].1)
    }

    /// When `version` was acknowledged, where nothing newer had been acknowledged before.
    pub fn acknowledged_us(&self, version: Version) -> Option<u64> {
        let older = self.0.partition_point(|(_, newest)| *newest < version);
        self.0.get(older).map(|(at, _)| *at)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl KeyWrites<'_> {
    /// The acknowledged writes that a read must show, where it promises freshness or not.
    pub fn binding(&self, fresh: bool) -> &Acknowledged {
        if fresh { &self.firm } else { &self.acknowledged }
    }

    /// Whether a sight shows less than `expected`: an older version, or nothing where no delete
    /// explains it.
    pub fn shows_less(&self, sight: &Sight, expected: Version) -> bool {
        match sight.seen {
            Seen::Held { version: Some(version), .. } => version < expected,
            Seen::Held { value, version: None } => value.is_some(),
            Seen::Not(_) => false,
            Seen::Nothing => !self.deletes.iter().any(|delete| {
                // One that took this version away came before anything above it.
                let took = delete.version.or(delete.if_match);
                delete.invoked_us <= sight.op.answered_us
                    && took.is_none_or(|version| version >= expected)
            }),
        }
    }
}
