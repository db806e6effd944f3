//! The Raft log as the records of the commit log tell it, when that is opened.
//!
//! The commit log only ever grows at its end, so the Raft log is what its records say in order: an
//! entry extends it, a truncation cuts its end, a purge cuts its start. An entry that is already
//! there and comes again was written again, unchanged, to free the segments before it.
//!
//! Such a rewrite may have been cut short by a crash, and the segments with the rest of the first
//! copies may be gone since, as purged: then entries 0 and 1 lie between 93 and 94, and belong to
//! nothing. So whether entries are missing is only decided at the end, when it is known what was
//! purged.

use std::collections::VecDeque;

use super::codec;
use super::log_index::LogIndex;
use super::raft_types::{LogId, Vote};
use crate::planted::{self, Bug};
use crate::storage::log::{Kind, Position, ReplayedRecord};

/// The longest run of missing entries that a replay bridges. Records are checked by their sums, so
/// that a longer one is a mistake, and not worth the memory.
const MAX_MISSING_ENTRIES: u64 = 16 << 20;

/// Takes the Raft records of a commit log in their order.
#[derive(Default)]
pub(super) struct LogReplay {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// The last entry, or where a truncation left the end.
    last: Option<LogId>,
    /// The index of the first slot.
    first: u64,
    /// Where entries lie, and their terms; `None` for one that no record told of yet.
    slots: VecDeque<Option<(Position, u64)>>,
}

impl LogReplay {
    /// Takes a record; those of other kinds are ignored.
    pub fn take(&mut self, record: ReplayedRecord<'_>) -> Result<(), String> {
        let decoded = match record.kind {
            Kind::RaftEntry => return self.entry(record),
            Kind::RaftVote => codec::decode("a vote", record.payload).map(|vote| {
                self.vote = Some(vote);
            }),
            Kind::RaftCommitted => codec::decode("a commit position", record.payload).map(|id| {
                self.committed = Some(id);
            }),
            Kind::RaftTruncate if planted::is(Bug::LogTruncationForgotten) => Ok(()),
            Kind::RaftTruncate => codec::decode("a truncation", record.payload).map(|last| {
                self.truncate_after(last);
            }),
            Kind::RaftPurged => codec::decode("a purge position", record.payload).map(|upto| {
                self.purge(upto);
            }),
            Kind::ReplicaWrites | Kind::VersionCeiling | Kind::Layout | Kind::Horizons => Ok(()),
        };
        decoded.map_err(|error| error.to_string())
    }

    /// The index of the slot after the last.
    fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn entry(&mut self, record: ReplayedRecord<'_>) -> Result<(), String> {
        let log_id = codec::peek_log_id(record.payload).map_err(|error| error.to_string())?;
        let index = log_id.index;
        if self.slots.is_empty() {
            self.first = index;
        }
        let missing = self.first.saturating_sub(index).max(index.saturating_sub(self.next()));
        if missing > MAX_MISSING_ENTRIES {
            return Err(format!("Raft entry {index} is {missing} entries from all others"));
        }
        while index < self.first {
            self.slots.push_front(None);
            self.first -= 1;
        }
        while index >= self.next() {
            self.slots.push_back(None);
        }
        let term = log_id.leader_id.term;
        if let Some(slot) = self.slots.get_mut((index - self.first) as usize) {
            // What takes the place of another entry comes after a truncation: a rewrite is the same.
            if let Some((_, before)) = slot.filter(|(_, before)| *before != term) {
                return Err(format!(
                    "Raft entry {index} of term {term} follows one of term {before} that was never \
                     truncated"
                ));
            }
            *slot = Some((record.position, term));
        }
        if self.last.is_none_or(|last| index > last.index) {
            self.last = Some(log_id);
        }
        Ok(())
    }

    fn truncate_after(&mut self, last: Option<LogId>) {
        let next = last.map_or(0, |last| last.index + 1);
        let keep = next.saturating_sub(self.first);
        self.slots.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        // One that begins after the end, as it comes from before a purge, cuts nothing.
        if self.last.is_some_and(|end| end.index >= next) {
            self.last = last.max(self.purged);
        }
    }

    fn purge(&mut self, upto: LogId) {
        self.purged = Some(upto);
        self.last = self.last.max(Some(upto));
        while self.first <= upto.index && self.slots.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// What the records come to, once all were taken.
    pub fn finish(mut self) -> Result<LogIndex, String> {
        let base = self.purged.map_or(0, |purged| purged.index + 1);
        let end = self.last.map_or(base, |last| (last.index + 1).max(base));
        while self.first < base && self.slots.pop_front().is_some() {
            self.first += 1;
        }
        let mut positions = VecDeque::new();
        let mut highest = self.purged.map_or(0, |purged| purged.leader_id.term);
        for index in base..end {
            let slot = index.checked_sub(self.first).and_then(|at| self.slots.get(at as usize));
            let Some((position, term)) = slot.copied().flatten() else {
                return Err(format!(
                    "the Raft log goes from entry {base} to entry {}, and entry {index} is missing",
                    end - 1
                ));
            };
            // Terms never fall along a Raft log (Ongaro, Ousterhout, "In Search of an Understandable
            // Consensus Algorithm", 2014, section 5.3).
            if term < highest {
                return Err(format!(
                    "Raft entry {index} has term {term}, and an entry before it term {highest}"
                ));
            }
            highest = term;
            positions.push_back(position);
        }
        let LogReplay { vote, committed, purged, last, .. } = self;
        let last = if positions.is_empty() { purged } else { last };
        Ok(LogIndex { vote, committed, purged, last, first: base, positions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::tests::support::log_id;

    fn id(index: u64) -> LogId {
        log_id(1, index)
    }

    fn entry(replay: &mut LogReplay, index: u64, position: u64) {
        let payload = codec::encode_entry(&crate::consensus::raft_types::Entry {
            log_id: id(index),
            payload: openraft::EntryPayload::Blank,
        });
        let payload = payload.expect("encodes");
        let position = Position(position);
        replay
            .take(ReplayedRecord { kind: Kind::RaftEntry, payload: &payload, position })
            .expect("taken");
    }

    fn purged(replay: &mut LogReplay, upto: u64, position: u64) {
        let payload = codec::encode(&id(upto)).expect("encodes");
        let position = Position(position);
        replay
            .take(ReplayedRecord { kind: Kind::RaftPurged, payload: &payload, position })
            .expect("taken");
    }

    #[test]
    fn a_rewrite_cut_short_whose_first_copies_are_purged_and_gone_is_no_gap() {
        let mut replay = LogReplay::default();
        for (index, position) in [(88, 100), (89, 110), (0, 120), (1, 130), (90, 140)] {
            entry(&mut replay, index, position);
        }
        purged(&mut replay, 87, 150);
        let index = replay.finish().expect("whole");
        assert_eq!((index.first(), index.next()), (88, 91));
        assert_eq!(index.position(90), Some(Position(140)));
        assert_eq!(index.last, Some(id(90)));
    }

    #[test]
    fn an_entry_that_is_missing_after_the_purge_is_told() {
        let mut replay = LogReplay::default();
        for (index, position) in [(5, 100), (6, 110), (8, 120)] {
            entry(&mut replay, index, position);
        }
        purged(&mut replay, 4, 150);
        let problem = replay.finish().err().expect("a gap");
        assert!(problem.contains("from entry 5 to entry 8, and entry 7 is missing"), "{problem}");
    }

    #[test]
    fn a_log_whose_beginning_is_gone_without_a_purge_is_told() {
        let mut replay = LogReplay::default();
        entry(&mut replay, 3, 100);
        let problem = replay.finish().err().expect("a gap");
        assert!(problem.contains("entry 0 is missing"), "{problem}");
    }

    #[test]
    fn an_end_of_an_older_term_than_what_is_before_it_is_told() {
        let take = |replay: &mut LogReplay, term, index| {
            let payload = codec::encode_entry(&crate::consensus::raft_types::Entry {
                log_id: log_id(term, index),
                payload: openraft::EntryPayload::Blank,
            });
            let (payload, position) = (payload.expect("encodes"), Position(index));
            let kind = Kind::RaftEntry;
            replay.take(ReplayedRecord { kind, payload: &payload, position }).expect("taken");
        };
        let mut truncated = LogReplay::default();
        (0..4).for_each(|index| take(&mut truncated, 1, index));
        truncated.truncate_after(Some(log_id(1, 1)));
        take(&mut truncated, 2, 2);
        assert_eq!(truncated.finish().expect("whole").last, Some(log_id(2, 2)));
        let mut falling = LogReplay::default();
        (0..3).for_each(|index| take(&mut falling, 2, index));
        take(&mut falling, 1, 3);
        assert!(falling.finish().err().expect("refused").contains("an entry before it term 2"));
        let mut replay = LogReplay::default();
        (0..4).for_each(|index| take(&mut replay, 1, index));
        let payload = codec::encode_entry(&crate::consensus::raft_types::Entry {
            log_id: log_id(2, 3),
            payload: openraft::EntryPayload::Blank,
        });
        let (payload, position) = (payload.expect("encodes"), Position(9));
        let twice =
            replay.take(ReplayedRecord { kind: Kind::RaftEntry, payload: &payload, position });
        assert!(twice.expect_err("refused").contains("never truncated"));
    }

    #[test]
    fn a_rewrite_frees_the_first_copies() {
        let mut replay = LogReplay::default();
        for (index, position) in [(1, 100), (2, 110), (0, 200), (1, 210), (2, 220), (3, 230)] {
            entry(&mut replay, index, position);
        }
        let index = replay.finish().expect("whole");
        assert_eq!(index.lowest_position(), Some(Position(200)));
        assert_eq!(index.next(), 4);
    }
}
