//! The one writer.

use bytes::Bytes;

use super::{Completion, Kind, LogError, LogOptions, LogUser, NewRecord, Position, ReplayedRecord};

/// The commit log. Share it in an `Arc`.
pub struct CommitLog {}

impl CommitLog {
    /// Opens or creates the log, and calls `replay` for every record in order. Blocking.
    pub fn open(
        _options: LogOptions,
        _replay: &mut dyn FnMut(ReplayedRecord<'_>) -> Result<(), String>,
    ) -> Result<CommitLog, LogError> {
        todo!()
    }

    /// Queues records and says at once what position each will have. `done` is called on the writer
    /// once all of them are durable; after a failure, at once. The order of calls is the order in
    /// the log.
    pub fn append(&self, _records: Vec<NewRecord>, _done: Completion) -> Vec<Position> {
        todo!()
    }

    /// Appends and waits until the records are durable.
    pub async fn append_durably(
        &self,
        _records: Vec<NewRecord>,
    ) -> Result<Vec<Position>, LogError> {
        todo!()
    }

    /// Reads a record back. Its completion must have been called.
    pub fn read(&self, _position: Position) -> Result<(Kind, Bytes), LogError> {
        todo!()
    }

    /// Says that `user` needs nothing before `position`; removes the segments that nobody needs.
    pub fn release(&self, _user: LogUser, _position: Position) -> Result<(), LogError> {
        todo!()
    }

    /// The position that the next record will have.
    pub fn end(&self) -> Position {
        todo!()
    }

    /// The position of the first record kept.
    pub fn start(&self) -> Position {
        todo!()
    }

    /// Waits until the log fails, and says how. Pending for ever where it is closed in peace.
    pub async fn failed(&self) -> LogError {
        todo!()
    }

    /// Writes what has queued, then takes nothing more.
    pub async fn close(&self) {
        todo!()
    }
}
