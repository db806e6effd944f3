//! Where each entry of the Raft log lies in the commit log, and the small state beside it. How it is
//! found again when the commit log is opened: see [`super::log_replay`].

use std::collections::VecDeque;

use super::raft_types::{LogId, Vote};
use crate::storage::log::Position;

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
    pub(super) first: u64,
    pub(super) positions: VecDeque<Position>,
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
}
