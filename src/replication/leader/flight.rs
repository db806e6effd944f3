//! Submissions of this node that are under way, and which of them are settled.
//!
//! **Guarantees.** A submission that may be in a log never changes and keeps its sequence until its
//! fate is known or given up; only then may `settled` pass it. One that is in no log may still lose
//! writes whose clients have left.

use std::collections::BTreeSet;
use std::time::Duration;

use super::queue::Pending;
use super::slot::Settled;
use crate::consensus::{MAX_UNSETTLED, Session, Submission, SubmissionResult, WriteResult};
use crate::error::{Refusal, WriteError};
use crate::runtime::Instant;
use crate::types::NodeId;

/// How long a client should wait before it tries a new idempotency key again where as many are
/// remembered as may be: keys expire by the second.
const KEYS_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The sequences of this boot.
pub struct Sessions {
    origin: NodeId,
    boot: u64,
    last: u64,
    outstanding: BTreeSet<u64>,
}

impl Sessions {
    /// The sessions of a node's boot, before its first submission.
    pub fn new(origin: NodeId, boot: u64) -> Sessions {
        Sessions { origin, boot, last: 0, outstanding: BTreeSet::new() }
    }

    /// Whether the group would remember the results of one more submission beside those that are
    /// not settled. Where it would not, new writes wait for the oldest submission's end.
    pub fn may_begin(&self) -> bool {
        self.outstanding.first().is_none_or(|oldest| self.last - oldest + 2 <= MAX_UNSETTLED as u64)
    }

    /// A sequence for a new submission.
    pub fn begin(&mut self) -> u64 {
        self.last += 1;
        self.outstanding.insert(self.last);
        self.last
    }

    /// Says that a submission's fate is known or given up: it is not sent again.
    pub fn finish(&mut self, sequence: u64) {
        self.outstanding.remove(&sequence);
    }

    /// What goes with a submission. `settled` is below `sequence` as long as that is outstanding.
    pub fn session(&self, sequence: u64) -> Session {
        let settled = self.outstanding.first().map_or(self.last, |oldest| oldest - 1);
        Session { origin: self.origin, boot: self.boot, sequence, settled }
    }
}

/// A submission of this node, from its first attempt until its fate is known or given up.
pub struct Flight {
    pub sequence: u64,
    writes: Vec<Pending>,
    /// Whether an attempt may have put it into a log. Never false again.
    may_be_taken: bool,
    forwarded: bool,
}

impl Flight {
    pub fn new(sequence: u64, writes: Vec<Pending>) -> Flight {
        Flight { sequence, writes, may_be_taken: false, forwarded: false }
    }

    pub fn len(&self) -> usize {
        self.writes.len()
    }

    pub fn bytes(&self) -> usize {
        self.writes.iter().map(|pending| pending.bytes).sum()
    }

    /// The latest deadline of its writes.
    pub fn deadline(&self) -> Option<Instant> {
        self.writes.iter().map(|pending| pending.deadline).max()
    }

    /// Makes ready for an attempt: from here on every write may be in a log. False where there is
    /// nothing to attempt any more.
    pub fn claim(&mut self) -> bool {
        if self.may_be_taken {
            // Frozen: it is sent again to learn its fate, as long as somebody wants to know.
            return self.writes.iter().any(|pending| !pending.slot.has_left());
        }
        self.writes.retain(|pending| pending.slot.claim());
        !self.writes.is_empty()
    }

    /// Answers those that may not leave this node, and drops them. Where the submission may be in a
    /// log it goes anyway: that is no longer forwarding a request, but finding out its fate.
    pub fn refuse_forwarding(&mut self, refusal: impl Fn() -> Refusal) {
        if self.may_be_taken {
            return;
        }
        self.writes.retain(|pending| {
            if !pending.may_forward {
                let result = Err(refusal().into());
                pending.slot.answer(Settled { result, forwarded: false });
            }
            pending.may_forward
        });
    }

    pub fn mark_forwarded(&mut self) {
        self.forwarded = true;
    }

    /// The submission as an attempt carries it.
    pub fn submission(&self, session: Session, proposed_time: u64) -> Submission {
        let writes = self.writes.iter().map(|pending| pending.write.clone()).collect();
        Submission { session, proposed_time, writes }
    }

    /// The attempt put it into no log.
    pub fn not_taken(&mut self) {
        if !self.may_be_taken {
            self.writes.iter().for_each(|pending| pending.slot.release());
        }
    }

    /// The attempt may have put it into a log.
    pub fn maybe_taken(&mut self) {
        self.may_be_taken = true;
    }

    /// Answers every client by what applying gave.
    pub fn answer(self, result: SubmissionResult) {
        let results = match result {
            SubmissionResult::Applied(results) if results.len() == self.writes.len() => results,
            SubmissionResult::Applied(results) => {
                let (got, sent) = (results.len(), self.writes.len());
                return self.unknown(&format!("{got} results came back for {sent} writes"));
            }
            // An earlier attempt may have been applied, and its results forgotten since.
            SubmissionResult::Settled => {
                return self.unknown("the group no longer remembers what became of it");
            }
        };
        for (pending, result) in self.writes.iter().zip(results) {
            let result = match result {
                WriteResult::Written { version } => Ok(version),
                WriteResult::PreconditionFailed { current } => {
                    Err(WriteError::PreconditionFailed { current })
                }
                WriteResult::KeyReused => Err(WriteError::IdempotencyKeyReused),
                WriteResult::KeysFull => Err(keys_full().into()),
            };
            pending.slot.answer(Settled { result, forwarded: self.forwarded });
        }
    }

    /// Gives up, for want of time.
    pub fn give_up(self, no_leader: &str) {
        if self.may_be_taken {
            return self.unknown(no_leader);
        }
        for pending in &self.writes {
            let result = Err(Refusal::NoLeader { detail: no_leader.to_owned() }.into());
            pending.slot.answer(Settled { result, forwarded: self.forwarded });
        }
    }

    fn unknown(self, detail: &str) {
        for pending in &self.writes {
            let result = Err(WriteError::Unknown { detail: detail.to_owned() });
            pending.slot.answer(Settled { result, forwarded: self.forwarded });
        }
    }
}

fn keys_full() -> Refusal {
    Refusal::Overloaded { what: "the memory of idempotency keys", retry_after: KEYS_RETRY_AFTER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_begun_than_the_group_remembers() {
        let mut sessions = Sessions::new(NodeId(1), 7);
        let first = sessions.begin();
        while sessions.may_begin() {
            let sequence = sessions.begin();
            sessions.finish(sequence);
        }
        let session = sessions.session(sessions.last);
        assert_eq!(session.sequence - session.settled, MAX_UNSETTLED as u64);
        sessions.finish(first);
        assert!(sessions.may_begin(), "the oldest is settled, and with it all");
    }

    #[test]
    fn settled_stops_below_the_oldest_outstanding_submission() {
        let mut sessions = Sessions::new(NodeId(1), 7);
        let settled = |sessions: &Sessions, sequence| sessions.session(sequence).settled;
        let (first, second, third) = (sessions.begin(), sessions.begin(), sessions.begin());
        assert_eq!((first, settled(&sessions, first), settled(&sessions, third)), (1, 0, 0));
        sessions.finish(second);
        assert_eq!(settled(&sessions, third), 0);
        sessions.finish(first);
        assert_eq!(settled(&sessions, third), 2);
        sessions.finish(third);
        let fourth = sessions.begin();
        assert_eq!((fourth, settled(&sessions, fourth)), (4, 3));
    }
}
