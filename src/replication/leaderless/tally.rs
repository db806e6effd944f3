//! Counting the answers to a replicated write: pure, so that every order of answers can be tried.
//!
//! **Guarantees.** A write is said to be *not applied* only where every replica is known not to have
//! taken it, and never will. A verdict, once given, never turns into a contradicting one.

use crate::planted::{self, Bug};
use crate::types::{NodeId, Version};

/// What a replica said of one write it holds durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is the newest record of its key there.
    Newest,
    /// A newer version was there already.
    SupersededBy(Version),
}

/// What became of the write at one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The replica took it.
    Ack(Taken),
    /// The replica did not take it, and will not.
    NotApplied,
    /// The replica may have taken it, or may yet.
    Unknown,
}

/// What may be concluded so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More answers are needed, and may come.
    Pending,
    /// Enough replicas took it.
    Reached,
    /// No replica took it, and none will.
    NotApplied,
    /// Too few replicas will say that they took it, but some may have.
    Unknown,
}

/// The answers of a write's replicas.
#[derive(Clone, Debug)]
pub struct Tally {
    needed: u16,
    outstanding: u16,
    acks: u16,
    unknown: u16,
    superseded_by: Option<Version>,
}

impl Tally {
    /// A write sent to `replicas`, of which `needed` must take it.
    pub fn new(replicas: u16, needed: u16) -> Tally {
        Tally { needed, outstanding: replicas, acks: 0, unknown: 0, superseded_by: None }
    }

    /// Counts what was heard of one replica.
    pub fn count(&mut self, heard: Heard) {
        self.outstanding = self.outstanding.saturating_sub(1);
        match heard {
            Heard::Ack(taken) => {
                self.acks += 1;
                if let Taken::SupersededBy(version) = taken {
                    self.superseded_by = self.superseded_by.max(Some(version));
                }
            }
            Heard::NotApplied => {}
            Heard::Unknown => self.unknown += 1,
        }
    }

    /// What may be concluded so far.
    pub fn verdict(&self) -> Verdict {
        let trace_left = self.acks > 0 || self.unknown > 0;
        let believed = u16::from(planted::is(Bug::AckedAtWMinusOne) && self.acks > 0);
        if self.acks + believed >= self.needed {
            Verdict::Reached
        } else if self.acks + self.outstanding >= self.needed {
            Verdict::Pending
        } else if trace_left {
            Verdict::Unknown
        } else if self.outstanding > 0 {
            // Out of reach, but the rest may still show that nothing happened at all.
            Verdict::Pending
        } else {
            Verdict::NotApplied
        }
    }

    /// How many replicas took it.
    pub fn acks(&self) -> u16 {
        self.acks
    }

    /// How many acknowledgements are missing.
    pub fn missing(&self) -> u16 {
        self.needed.saturating_sub(self.acks)
    }

    /// The newest version that the write lost to at a replica.
    pub fn superseded_by(&self) -> Option<Version> {
        self.superseded_by
    }
}

/// The answers of a write that needs a quorum of one set of replicas, or of each of two.
#[derive(Clone, Debug)]
pub struct Tallies<'a> {
    sets: Vec<(&'a [NodeId], Tally)>,
    acks: u16,
}

impl<'a> Tallies<'a> {
    /// One for each set.
    pub fn new(sets: impl Iterator<Item = (&'a [NodeId], Tally)>) -> Tallies<'a> {
        Tallies { sets: sets.collect(), acks: 0 }
    }

    /// Counts what was heard of a replica, in each set that it is of.
    pub fn count(&mut self, node: NodeId, heard: Heard) {
        self.acks += u16::from(matches!(heard, Heard::Ack(_)));
        let of_it = self.sets.iter_mut().filter(|(set, _)| set.contains(&node));
        of_it.for_each(|(_, tally)| tally.count(heard));
    }

    /// What may be concluded so far: the write is done where each set has its quorum.
    pub fn verdict(&self) -> Verdict {
        let is = |wanted: Verdict| self.sets.iter().any(|(_, tally)| tally.verdict() == wanted);
        if is(Verdict::Unknown) {
            Verdict::Unknown
        } else if is(Verdict::Pending) {
            Verdict::Pending
        } else if is(Verdict::Reached) && is(Verdict::NotApplied) {
            // None of one set has it, and a quorum of the other does.
            Verdict::Unknown
        } else if is(Verdict::NotApplied) {
            Verdict::NotApplied
        } else {
            Verdict::Reached
        }
    }

    /// How many replicas took it.
    pub fn acks(&self) -> u16 {
        self.acks
    }

    /// How many acknowledgements are missing in the set that lacks most.
    pub fn missing(&self) -> u16 {
        self.sets.iter().map(|(_, tally)| tally.missing()).max().unwrap_or(0)
    }

    /// The newest version that the write lost to at a replica.
    pub fn superseded_by(&self) -> Option<Version> {
        self.sets.iter().filter_map(|(_, tally)| tally.superseded_by()).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Heard; 4] = [
        Heard::Ack(Taken::Newest),
        Heard::Ack(Taken::SupersededBy(Version::new(7 << 16, NodeId(2)))),
        Heard::NotApplied,
        Heard::Unknown,
    ];

    /// Every sequence of `length` answers.
    fn sequences(length: u32) -> impl Iterator<Item = Vec<Heard>> {
        (0..ALL.len().pow(length)).map(move |number| {
            (0..length).map(|at| ALL[number / ALL.len().pow(at) % ALL.len()]).collect()
        })
    }

    fn is_ack(heard: &Heard) -> bool {
        matches!(heard, Heard::Ack(_))
    }

    #[test]
    fn every_sequence_of_answers_ends_in_the_verdict_that_its_counts_call_for() {
        for n in 1..=5_u16 {
            for needed in 1..=n {
                for heard in sequences(u32::from(n)) {
                    let mut tally = Tally::new(n, needed);
                    heard.iter().for_each(|one| tally.count(*one));
                    let acks = heard.iter().filter(|one| is_ack(one)).count() as u16;
                    let expected = if acks >= needed {
                        Verdict::Reached
                    } else if heard.iter().all(|one| *one == Heard::NotApplied) {
                        Verdict::NotApplied
                    } else {
                        Verdict::Unknown
                    };
                    assert_eq!(tally.verdict(), expected, "n={n} w={needed} {heard:?}");
                    assert_eq!(tally.acks(), acks);
                    let lost = heard.contains(&ALL[1]);
                    assert_eq!(tally.superseded_by().is_some(), lost);
                }
            }
        }
    }

    #[test]
    fn an_early_verdict_holds_however_the_rest_answers() {
        for n in 1..=4_u16 {
            for needed in 1..=n {
                for heard in sequences(u32::from(n)) {
                    let mut tally = Tally::new(n, needed);
                    let mut early = tally.verdict();
                    for one in &heard {
                        tally.count(*one);
                        let now = tally.verdict();
                        match early {
                            Verdict::Pending => {}
                            // More acknowledgements than promised are no contradiction.
                            _ => assert_eq!(now, early, "n={n} w={needed} {heard:?}"),
                        }
                        early = now;
                    }
                    assert_ne!(early, Verdict::Pending, "all have answered: {heard:?}");
                }
            }
        }
    }

    #[test]
    fn the_newest_of_the_superseding_versions_is_told() {
        let [older, newer] = [3_u64, 4].map(|ms| Version::new(ms << 16, NodeId(1)));
        let mut tally = Tally::new(3, 3);
        tally.count(Heard::Ack(Taken::SupersededBy(newer)));
        tally.count(Heard::Ack(Taken::Newest));
        tally.count(Heard::Ack(Taken::SupersededBy(older)));
        assert_eq!(tally.superseded_by(), Some(newer));
    }

    #[test]
    fn of_two_sets_each_needs_its_quorum_whatever_the_order() {
        let [old, new] = [[1, 2, 3].map(NodeId), [3, 4, 5].map(NodeId)];
        let nodes = [1, 2, 3, 4, 5].map(NodeId);
        for heard in sequences(5) {
            let mut tallies =
                Tallies::new([&old, &new].map(|set| (&set[..], Tally::new(3, 2))).into_iter());
            nodes.iter().zip(&heard).for_each(|(node, heard)| tallies.count(*node, *heard));
            let acks = |set: &[NodeId]| {
                let of_set = nodes.iter().zip(&heard).filter(|(node, _)| set.contains(node));
                of_set.filter(|(_, heard)| is_ack(heard)).count()
            };
            let none = heard.iter().all(|one| *one == Heard::NotApplied);
            let expected = match (acks(&old) >= 2 && acks(&new) >= 2, none) {
                (true, _) => Verdict::Reached,
                (false, true) => Verdict::NotApplied,
                (false, false) => Verdict::Unknown,
            };
            assert_eq!(tallies.verdict(), expected, "{heard:?}");
            assert_eq!(usize::from(tallies.acks()), heard.iter().filter(|it| is_ack(it)).count());
        }
    }
}
