//! Where each entry of the Raft log lies in the commit log, and the small state beside it.
//!
//! The commit log only ever grows at its end, so the Raft log is what its records say in order: an
//! entry extends it, a truncation cuts its end, a purge cuts its start. An entry that is already
//! there and comes again was written again, unchanged, to free the segments before it.

use std::collections::VecDeque;

use super::codec;
use super::raft_types::{LogId, Vote};
use crate::planted::{self, Bug};
use crate::storage::log::{Kind, Position, ReplayedRecord};

/// The Raft log's shape, without its entries.
#[derive(Default)]
pub(super) struct LogIndex {
    pub(super) vote: Option<Vote>,
    /// The highest committed log id that was recorded.
    pub(super) committed: Option<LogId>,
    /// Entries up to here are in a checkpoint and gone from the log.
    pub(super) purged: Option<LogId>,
    /// The last entry, or `purged` where there is none.
    pub(super) last: Option<LogId>,
    first: u64,
    positions: VecDeque<Position>,
}

impl LogIndex {
    /// The index of the first entry that is there, or would be.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The index that the next entry will have.
    pub(super) fn next(&self) -> u64 {
        self.first + self.positions.len() as u64
    }

    /// How many entries are there.
    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }

    /// Where the entry at `index` lies.
    pub(super) fn position(&self, index: u64) -> Option<Position> {
        let offset = index.checked_sub(self.first)?;
        self.positions.get(usize::try_from(offset).ok()?).copied()
    }

    /// The index of the first entry at or after a position, or of the next entry. Only a rewrite
    /// that a crash cut short leaves positions out of order; then it is a guess.
    pub(super) fn first_from(&self, position: Position) -> u64 {
        self.first + self.positions.partition_point(|it| *it < position) as u64
    }

    /// The lowest position of an entry.
    pub(super) fn lowest_position(&self) -> Option<Position> {
        self.positions.iter().min().copied()
    }

    /// Says where an empty log that was never purged begins.
    pub(super) fn start_at(&mut self, first: u64) {
        if self.positions.is_empty() {
            self.first = first;
        }
    }

    /// Adds an entry at the end.
    pub(super) fn push(&mut self, log_id: LogId, position: Position) {
        self.positions.push_back(position);
        self.last = Some(log_id);
    }

    /// Says that an entry was written again, somewhere else.
    pub(super) fn moved(&mut self, index: u64, position: Position) {
        let offset = index.checked_sub(self.first).and_then(|offset| usize::try_from(offset).ok());
        if let Some(slot) = offset.and_then(|offset| self.positions.get_mut(offset)) {
            *slot = position;
        }
    }

    /// Drops the entries after `last`.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let next = last.map_or(0, |last| last.index + 1);
        if next >= self.next() {
            return;
        }
        let keep = next.saturating_sub(self.first);
        self.positions.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        self.first = if self.positions.is_empty() { next } else { self.first };
        self.last = last;
    }

    /// Drops the entries up to `upto`, which may lie beyond the last.
    pub(super) fn purge(&mut self, upto: LogId) {
        while self.first <= upto.index && self.positions.pop_front().is_some() {
            self.first += 1;
        }
        if self.first <= upto.index {
            self.first = upto.index + 1;
        }
        if self.positions.is_empty() {
            self.last = Some(upto);
        }
        self.purged = Some(upto);
    }

    /// Takes a record while the commit log is opened; other kinds are ignored.
    pub(super) fn replay(&mut self, record: ReplayedRecord<'_>) -> Result<(), String> {
        let decoded = match record.kind {
            Kind::RaftEntry => return self.replay_entry(record),
            Kind::RaftVote => codec::decode("a vote", record.payload).map(|vote| {
                self.vote = Some(vote);
            }),
            Kind::RaftCommitted => codec::decode("a commit position", record.payload).map(|id| {
                self.committed = Some(id);
            }),
            Kind::RaftTruncate if planted::is(Bug::LogTruncationForgotten) => Ok(()),
            Kind::RaftTruncate => codec::decode("a truncation", record.payload).map(|last| {
                self.truncate_after(last);
                if self.positions.is_empty() {
                    // Where the entries before it are gone, `finish` must know.
                    self.last = last.max(self.purged);
                }
            }),
            Kind::RaftPurged => codec::decode("a purge position", record.payload).map(|upto| {
                self.purge(upto);
            }),
            Kind::ReplicaWrites | Kind::VersionCeiling => Ok(()),
        };
        decoded.map_err(|error| error.to_string())
    }

    fn replay_entry(&mut self, record: ReplayedRecord<'_>) -> Result<(), String> {
        let log_id = codec::peek_log_id(record.payload).map_err(|error| error.to_string())?;
        let index = log_id.index;
        if self.positions.is_empty() {
            // What came before may have been cut off with its segments; `finish` looks for gaps.
            self.first = index;
        }
        if index < self.first {
            // A rewrite whose first copy was cut off in part: all of it follows.
            self.first = index;
            self.positions.clear();
        }
        if index == self.next() {
            self.push(log_id, record.position);
        } else if index < self.next() {
            self.moved(index, record.position);
        } else {
            return Err(format!("Raft entry {index} follows entry {}", self.next() - 1));
        }
        Ok(())
    }

    /// Checks what a replay gave, once all records were taken.
    pub(super) fn finish(mut self) -> Result<LogIndex, String> {
        let base = self.purged.map_or(0, |purged| purged.index + 1);
        let missing = self.positions.is_empty() && self.last.is_some_and(|last| last.index >= base);
        if self.positions.is_empty() && !missing {
            self.first = base;
            self.last = self.purged;
            return Ok(self);
        }
        if missing || self.first > base {
            return Err(format!(
                "the Raft log begins at entry {} where entry {base} is expected",
                self.first
            ));
        }
        while self.first < base && self.positions.pop_front().is_some() {
            self.first += 1;
        }
        Ok(self)
    }
}
