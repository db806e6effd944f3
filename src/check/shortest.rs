//! The shortest history that still shows what a check found.
//!
//! First one key alone, then the shortest beginning, then without whole clients, without ever
//! smaller stretches, and without single operations (Zeller and Hildebrandt, "Simplifying and
//! Isolating Failure-Inducing Input", 2002), for as long as the same check finds the same.
//!
//! **Guarantees.** What is left breaks the same check at the same level, and only because the whole
//! history does: a write whose value or version something kept shows stays, and so does a delete
//! that may explain that something kept showed nothing.
//!
//! **Does not guarantee** the very shortest: it stops where no single step makes it shorter, or at
//! [`MOST_TRIES`].

use super::linearizability::{self, Answer, Budget};
use super::sights::{Seen, Sight};
use super::{Action, Ended, Finding, History, Key, Op, Version, cut, plain_checks};

/// How often the check may be run again; each run takes less than the one before.
const MOST_TRIES: usize = 4_000;

/// A step of the linearizability search is a microsecond, and this is tried often.
const BUDGET: Budget = Budget { steps_per_key: 100_000, steps: 200_000 };

/// The smallest part of `history` found in which `finding` is still found. Where nothing was found,
/// or the check's budget does not suffice, it is the whole history.
pub fn shortest(history: &History, finding: &Finding) -> History {
    let mut search = Search { finding, tries: 0, best: history.clone() };
    if finding.found == 0 {
        return search.best;
    }
    search.one_key(history);
    search.beginning();
    search.without_clients();
    let mut stretch = search.best.ops.len() / 2;
    while stretch > 1 {
        search.without_stretches(stretch);
        stretch /= 2;
    }
    while search.without_stretches(1) {}
    search.best
}

struct Search<'a> {
    finding: &'a Finding,
    tries: usize,
    best: History,
}

impl Search<'_> {
    /// Whether the check still finds the same in `part`.
    fn breaks(&mut self, part: &History) -> bool {
        self.tries += 1;
        if self.tries > MOST_TRIES {
            return false;
        }
        if self.finding.check == linearizability::NAME {
            let mut judged = linearizability::judge(part, BUDGET).into_iter();
            return judged.any(|key| key.answer == Answer::NotLinearizable);
        }
        let same = |other: &Finding| other.is_alike(self.finding) && other.found > 0;
        plain_checks(part).iter().any(same)
    }

    fn one_key(&mut self, history: &History) {
        for (key, ops) in cut::by_key(history) {
            let part = cut::of_key(history, key, &ops);
            if self.breaks(&part) {
                self.best = part;
                return;
            }
        }
    }

    fn beginning(&mut self) {
        let mut instants: Vec<u64> = self.best.ops.iter().map(|op| op.answered_us).collect();
        instants.sort_unstable();
        instants.dedup();
        let whole = self.best.clone();
        let end = instants.partition_point(|instant| !self.breaks(&cut::until(&whole, *instant)));
        if let Some(instant) = instants.get(end) {
            let part = cut::until(&whole, *instant);
            if self.breaks(&part) {
                self.best = part;
            }
        }
    }

    fn without_clients(&mut self) {
        let mut clients: Vec<u32> = self.best.ops.iter().map(|op| op.client).collect();
        clients.sort_unstable();
        clients.dedup();
        for client in clients {
            let of_client = self.best.ops.iter().map(|op| op.client == client).collect();
            self.try_without(of_client);
        }
    }

    /// Tries to do without every stretch of so many operations; whether any could go.
    fn without_stretches(&mut self, length: usize) -> bool {
        let mut shorter = false;
        let mut end = self.best.ops.len();
        while end > 0 {
            let start = end.saturating_sub(length);
            let places = 0..self.best.ops.len();
            shorter |= self.try_without(places.map(|at| (start..end).contains(&at)).collect());
            end = start.min(self.best.ops.len());
        }
        shorter
    }

    fn try_without(&mut self, mut dropped: Vec<bool>) -> bool {
        keep_what_is_needed(&self.best.ops, &mut dropped);
        if !dropped.contains(&true) {
            return false;
        }
        let kept = self.best.ops.iter().zip(&dropped).filter(|(_, dropped)| !**dropped);
        let ops = kept.map(|(op, _)| op.clone()).collect();
        let part = History { header: self.best.header.clone(), ops };
        let shorter = self.breaks(&part);
        if shorter {
            self.best = part;
        }
        shorter
    }
}

/// Takes back from `dropped` every write that something kept needs.
fn keep_what_is_needed(ops: &[Op], dropped: &mut [bool]) {
    loop {
        let kept: Vec<&Op> = ops
            .iter()
            .zip(dropped.iter())
            .filter(|(_, dropped)| !**dropped)
            .map(|(op, _)| op)
            .collect();
        let needed: Vec<usize> = (0..ops.len())
            .filter(|at| dropped[*at] && ops[*at].action.is_write())
            .filter(|at| kept.iter().any(|op| needs(op, &ops[*at], ops)))
            .collect();
        if needed.is_empty() {
            return;
        }
        for at in needed {
            dropped[at] = false;
        }
    }
}

/// Whether `kept` may show that `write` happened.
fn needs(kept: &Op, write: &Op, ops: &[Op]) -> bool {
    let key: &Key = &write.key;
    let seen = Sight::of(kept, key).map(|sight| sight.seen);
    let condition = kept.key == *key && kept.is_conditional() && kept.ended != Ended::Failed;
    // What was over before the write was asked for shows nothing of it.
    let late_enough = kept.ended == Ended::Unknown || kept.answered_us >= write.invoked_us;
    if write.action == Action::Delete {
        let absence = matches!(seen, Some(Seen::Nothing | Seen::Not(_)));
        let names = condition && kept.if_match.is_some() && kept.if_match == write.version;
        return late_enough && (absence || names || (condition && kept.if_absent));
    }
    let is_its_version = |version| match (write.ended, write.version) {
        (Ended::Ok, Some(own)) => own == version,
        (Ended::Failed, _) => false,
        // Its version is not known, so it may be any that is not known to be another's.
        _ => !ops.iter().any(|op| belongs_to_another(version, write, op)),
    };
    match seen {
        Some(Seen::Held { value: Some(value), version }) => {
            // A value that nobody wrote may have come with a version that somebody was given.
            write.value.as_ref() == Some(value)
                || (write.ended == Ended::Ok && version.is_some() && version == write.version)
        }
        Some(Seen::Held { value: None, version: Some(version) }) => is_its_version(version),
        Some(Seen::Held { value: None, version: None } | Seen::Not(_)) => {
            late_enough && write.ended != Ended::Failed
        }
        Some(Seen::Nothing) | None => condition && kept.if_match.is_some_and(is_its_version),
    }
}

/// Whether `op` tells that `version` is that of another write of the key than `write`.
fn belongs_to_another(version: Version, write: &Op, op: &Op) -> bool {
    if op.is_acknowledged_write() && op.version == Some(version) {
        return true;
    }
    let held = Sight::of(op, &write.key).and_then(|sight| sight.held());
    let Some((Some(value), shown)) = held else { return false };
    shown == Some(version) && write.value.as_ref() != Some(value)
}
