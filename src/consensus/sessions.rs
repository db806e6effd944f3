//! Sessions: what makes a submission that is proposed twice apply once.
//!
//! The state machine keeps, for each node that takes writes, the results of its current boot's
//! submissions that it has not settled yet. They are rows of the table, written in the batch of
//! the writes themselves, and part of every snapshot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Session, WriteResult};

/// How many submissions an origin may leave unsettled; one that leaves more has its oldest treated
/// as settled. An origin has a few under way, so this leaves room for some that are stuck. More
/// would make the row that holds their results, which every batch writes again, a large one.
pub const MAX_UNSETTLED: usize = 128;

/// What is remembered of one origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    boot: u64,
    settled: u64,
    results: BTreeMap<u64, Vec<WriteResult>>,
}

/// What to do with a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Apply it, and [`Origin::keep`] its results.
    Fresh,
    /// It was applied before, with these results.
    Known(Vec<WriteResult>),
    /// It must not be applied any more.
    Settled,
}

impl Origin {
    /// Takes note of the session and decides on its submission.
    pub(super) fn admit(&mut self, session: Session) -> Verdict {
        if session.boot < self.boot {
            return Verdict::Settled;
        }
        if session.boot > self.boot {
            *self = Origin { boot: session.boot, ..Origin::default() };
        }
        if session.settled > self.settled {
            self.settled = session.settled;
            self.results = self.results.split_off(&session.settled.saturating_add(1));
        }
        if session.sequence <= self.settled {
            return Verdict::Settled;
        }
        match self.results.get(&session.sequence) {
            Some(results) => Verdict::Known(results.clone()),
            None => Verdict::Fresh,
        }
    }

    /// Remembers the results of a submission that was applied.
    pub(super) fn keep(&mut self, sequence: u64, results: Vec<WriteResult>) {
        self.results.insert(sequence, results);
        while self.results.len() > MAX_UNSETTLED {
            if let Some((oldest, _)) = self.results.pop_first() {
                self.settled = self.settled.max(oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn session(boot: u64, sequence: u64, settled: u64) -> Session {
        Session { origin: NodeId(1), boot, sequence, settled }
    }

    #[test]
    fn a_submission_is_fresh_once_then_known_until_it_is_settled() {
        let mut origin = Origin::default();
        let results = vec![WriteResult::PreconditionFailed { current: None }];
        assert_eq!(origin.admit(session(1, 1, 0)), Verdict::Fresh);
        origin.keep(1, results.clone());
        assert_eq!(origin.admit(session(1, 1, 0)), Verdict::Known(results));
        assert_eq!(origin.admit(session(1, 2, 1)), Verdict::Fresh);
        origin.keep(2, Vec::new());
        assert_eq!(origin.admit(session(1, 1, 0)), Verdict::Settled);
        assert_eq!(origin.admit(session(1, 2, 0)), Verdict::Known(Vec::new()));
    }

    #[test]
    fn a_sequence_that_arrives_late_is_fresh_as_long_as_it_is_not_settled() {
        let mut origin = Origin::default();
        assert_eq!(origin.admit(session(1, 2, 0)), Verdict::Fresh);
        origin.keep(2, Vec::new());
        assert_eq!(origin.admit(session(1, 1, 0)), Verdict::Fresh);
    }

    #[test]
    fn a_higher_boot_ends_the_lower() {
        let mut origin = Origin::default();
        assert_eq!(origin.admit(session(1, 7, 3)), Verdict::Fresh);
        origin.keep(7, Vec::new());
        assert_eq!(origin.admit(session(2, 1, 0)), Verdict::Fresh);
        assert_eq!(origin.admit(session(1, 7, 3)), Verdict::Settled);
        assert_eq!(origin.admit(session(1, 8, 3)), Verdict::Settled);
    }

    #[test]
    fn results_are_bounded_and_the_oldest_count_as_settled() {
        let mut origin = Origin::default();
        let last = MAX_UNSETTLED as u64 + 5;
        for sequence in 1..=last {
            assert_eq!(origin.admit(session(1, sequence, 0)), Verdict::Fresh);
            origin.keep(sequence, Vec::new());
        }
        assert_eq!(origin.results.len(), MAX_UNSETTLED);
        assert_eq!(origin.admit(session(1, 5, 0)), Verdict::Settled);
        assert_eq!(origin.admit(session(1, 6, 0)), Verdict::Known(Vec::new()));
    }
}
