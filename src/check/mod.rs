//! Checks of whole histories: did anything happen that was promised not to?
//!
//! Each check is a plain pass over one [`History`] and says, for every level that it looked at,
//! whether what it looks for is **promised** not to happen there or is merely **counted**, how many
//! operations it looked at, and what it found. A promise is never inferred from the absence of
//! findings, and a check that could not look says so (`unverified`).
//!
//! | check | what it looks for | promised at | counted at |
//! | --- | --- | --- | --- |
//! | `lost-write` | a read after everything settled shows less than an acknowledged write | each mode's default level | weaker levels are not looked at |
//! | `value-from-nowhere` | a read shows what nobody had asked to write to that key | every level | |
//! | `shown-after-not-applied` | a read shows a write that was answered `not_applied` | every level | |
//! | `applied-twice` | one write shows under two versions | every level | |
//! | `stale-read` | a read begun after a write was acknowledged shows less than it | `linearizable`; `quorum` with R + W > N | `local`, R + W ≤ N |
//! | `read-went-back` | a client sees less of a key than it saw or wrote before | `linearizable` (any node); `quorum` with R + W > N (same coordinator) | other levels; `quorum` across coordinators |
//! | `level-not-served` | an answer served below the level asked for | `linearizable`, `quorum` | |
//!
//! *Less* means an older version, or nothing at all where no delete explains it.
//!
//! Does not prove linearizability: a checker that does comes with a later issue. It finds every
//! stale read, which is the half that people notice.

mod rules;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::history::{Action, Ended, History, Op, Value};
use crate::types::{EffectiveLevel, Key, Level, Mode, Version};

/// How many findings are written out in words.
const EXAMPLES: usize = 3;

/// What one check found at one level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The name of the check.
    pub check: String,
    /// What it looks for, in words.
    pub looks_for: String,
    /// The level it looked at, or `every level`.
    pub level: String,
    /// Whether it is promised not to happen at this level.
    pub promised: bool,
    /// How many operations it looked at.
    pub examined: u64,
    /// How many of them show what it looks for.
    pub found: u64,
    /// How many it should have looked at and could not.
    pub unverified: u64,
    /// The first few, in words.
    pub examples: Vec<String>,
}

impl Finding {
    /// Whether a promise was broken.
    pub fn is_broken(&self) -> bool {
        self.promised && self.found > 0
    }

    /// Whether nothing can be said of a promise.
    pub fn is_unverified(&self) -> bool {
        self.promised && self.unverified > 0
    }
}

/// Runs every check over `history`.
pub fn check(history: &History) -> Vec<Finding> {
    let keys = Keys::of(history);
    let mut findings = vec![
        rules::lost_writes(history, &keys),
        rules::values_from_nowhere(history, &keys),
        rules::shown_after_not_applied(history, &keys),
        rules::applied_twice(history, &keys),
    ];
    findings.extend(rules::stale_reads(history, &keys));
    findings.extend(session::reads_that_went_back(history, &keys));
    findings.extend(rules::levels_not_served(history));
    findings
}

/// Whether a read promises to show every write acknowledged before it began. What the answer says
/// was served decides; where it does not say, what was asked for.
fn promises_freshness(mode: Mode, op: &Op) -> bool {
    match op.served.map(|served| served.0) {
        Some(EffectiveLevel::Linearizable) => true,
        Some(EffectiveLevel::Quorum { r, w, n }) => u32::from(r) + u32::from(w) > u32::from(n),
        Some(EffectiveLevel::Lease | EffectiveLevel::Local | EffectiveLevel::Eventual { .. }) => {
            false
        }
        None => match (mode, op.level) {
            (Mode::Leader, Level::Linearizable | Level::Quorum) => true,
            (Mode::Leaderless, Level::Quorum) => op.r.is_none(),
            _ => false,
        },
    }
}

/// The writes of every key, in a form that checks can ask.
struct Keys<'a>(BTreeMap<&'a Key, KeyWrites<'a>>);

#[derive(Default)]
struct KeyWrites<'a> {
    /// Every write of a value, by the value.
    by_value: BTreeMap<String, &'a Op>,
    /// Deletes that may have happened.
    deletes: Vec<&'a Op>,
    /// When a write was acknowledged, and the newest version acknowledged by then.
    acknowledged: Vec<(u64, Version)>,
}

impl<'a> Keys<'a> {
    fn of(history: &'a History) -> Keys<'a> {
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
                writes.acknowledged.push((op.answered_us, version));
            }
        }
        for writes in keys.values_mut() {
            writes.acknowledged.sort_by_key(|(answered_us, _)| *answered_us);
            let mut newest = Version::ZERO;
            for (_, version) in &mut writes.acknowledged {
                newest = newest.max(*version);
                *version = newest;
            }
        }
        Keys(keys)
    }

    fn get(&self, key: &Key) -> Option<&KeyWrites<'a>> {
        self.0.get(key)
    }

    /// The write that the read `op` shows, where its value was written to its key.
    fn shown_by(&self, op: &Op) -> Option<&'a Op> {
        let value: &Value = op.value.as_ref()?;
        self.get(&op.key)?.by_value.get(&value.to_string()).copied()
    }
}

impl KeyWrites<'_> {
    /// The newest version acknowledged before `instant_us`.
    fn newest_before(&self, instant_us: u64) -> Option<Version> {
        let before = self.acknowledged.partition_point(|(at, _)| *at < instant_us);
        before.checked_sub(1).map(|last| self.acknowledged[last].1)
    }

    /// Whether the read `op` shows less than `expected`: an older version, or nothing where no
    /// delete explains it.
    fn shows_less(&self, op: &Op, expected: Version) -> bool {
        match op.version {
            Some(version) => version < expected,
            None if op.value.is_some() => true,
            None => !self.deletes.iter().any(|delete| {
                delete.invoked_us <= op.answered_us
                    && delete.version.is_none_or(|version| version >= expected)
            }),
        }
    }
}

/// Counts findings of one check at one level.
struct Tally {
    finding: Finding,
}

impl Tally {
    fn new(check: &str, looks_for: &str, level: &str, promised: bool) -> Tally {
        let finding = Finding {
            check: check.to_owned(),
            looks_for: looks_for.to_owned(),
            level: level.to_owned(),
            promised,
            examined: 0,
            found: 0,
            unverified: 0,
            examples: Vec::new(),
        };
        Tally { finding }
    }

    fn examined(&mut self) {
        self.finding.examined += 1;
    }

    fn unverified(&mut self) {
        self.finding.unverified += 1;
    }

    fn found(&mut self, example: impl FnOnce() -> String) {
        self.finding.found += 1;
        if self.finding.examples.len() < EXAMPLES {
            self.finding.examples.push(example());
        }
    }
}

/// A read in words, for examples.
fn describe(op: &Op) -> String {
    let shown = match (&op.value, op.version) {
        (Some(value), Some(version)) => format!("value {value} at {version}"),
        (Some(value), None) => format!("value {value} without a version"),
        (None, _) => "nothing".to_owned(),
    };
    format!(
        "client {} read {} of {} from node {} at {} ({} to {} µs)",
        op.client,
        shown,
        op.key,
        op.node,
        op.asked(),
        op.invoked_us,
        op.answered_us
    )
}
