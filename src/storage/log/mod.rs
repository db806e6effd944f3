//! The commit log: one synced log of every write, in both modes.
//!
//! **Why our own.** It is the heart of the product and must run under the simulator's disk byte for
//! byte; `docs/adr/` has the alternatives and what was measured.
//!
//! **Guarantees.** The completion of an append is called with `Ok` only after the records, and every
//! record before them, are on stable storage. Completions are called in append order. A failed write
//! or sync fails that append and every later one, for ever: it is never retried. Opening gives back
//! every record that was acknowledged, in order, or refuses: a torn tail (the last record of the
//! last segment cut short, or nothing but zeros after it) is cut and said, and so is a hole in the
//! last write, whose sectors a disk may have written in any order; anything else is damage.
//!
//! **Group commit.** One writer takes everything that has queued, writes it at once, syncs once and
//! calls all completions, with no added wait. In the real world it is a thread; in a simulated one,
//! a task that does the same steps over the simulated disk.
//!
//! **On disk.** `log/<base, 20 digits>.log`: segments of about 32 MiB, the base being the position of
//! the first record. A segment begins with a header; a record is a head (length, kind and a checksum
//! over both and the record's position), the payload, the payload's checksum, and an end mark that is
//! never zero, so that a whole record is never mistaken for one that zeros cut off. `codec` has the
//! bytes, `open` and `torn` the rules of opening, `segments` what positions are.
//!
//! **Does not guarantee** that a log whose last records, or oldest segments, were taken away whole by
//! other hands is noticed: what they leave is a whole log. Its users can tell, by [`CommitLog::start`]
//! and [`CommitLog::end`].

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::Disk;
use crate::runtime::Runtime;
use crate::telemetry::Metrics;

/// A record's place in the log: bytes of log before it, over all segments ever. Rises with every
/// record, is never reused for another record once one was acknowledged there, and survives cutting.
/// The default, 0, is before every record.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Position(pub u64);

/// What a record's payload is. The number is on disk for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A Raft log entry.
    RaftEntry = 1,
    /// A Raft vote.
    RaftVote = 2,
    /// Raft entries after an index are void.
    RaftTruncate = 3,
    /// The highest committed Raft log id known.
    RaftCommitted = 4,
    /// Raft entries up to an index are in a checkpoint.
    RaftPurged = 5,
    /// Writes taken by a leaderless replica.
    ReplicaWrites = 6,
    /// No version at or above this was used.
    VersionCeiling = 7,
    /// The layout that a leaderless node goes by.
    Layout = 8,
    /// How far a leaderless replica's deletions may be collected.
    Horizons = 9,
}

/// Who needs records to stay in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogUser {
    /// The Raft group's log store.
    Raft,
    /// The leaderless replica.
    Replica,
}

/// A record on its way into the log.
#[derive(Clone, Debug)]
pub struct NewRecord {
    pub kind: Kind,
    pub payload: Bytes,
}

/// A record met while the log is opened.
#[derive(Clone, Copy, Debug)]
pub struct ReplayedRecord<'a> {
    pub position: Position,
    pub kind: Kind,
    pub payload: &'a [u8],
}

/// Why a log is not opened, or takes no more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// A segment holds what was never written there.
    #[error(
        "the commit log is damaged: {file} at byte {offset}: {problem}; restore this node's data \
         directory from a copy, or replace the node"
    )]
    Damaged { file: String, offset: u64, problem: String },
    /// The disk failed. The log takes nothing more.
    #[error("the commit log failed: {0}")]
    Io(Arc<io::Error>),
    /// What replays the log refused a record.
    #[error("the commit log cannot be replayed at {position:?}: {problem}")]
    Replay { position: Position, problem: String },
    /// The log was closed.
    #[error("the commit log is closed")]
    Closed,
}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> LogError {
        LogError::Io(Arc::new(error))
    }
}

/// Called once, on the writer, when the records of an append are durable or failed; on the caller's
/// own thread only where the log is closed already. It must not block: the writer waits for it.
pub type Completion = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// What a log needs to open.
pub struct LogOptions {
    pub disk: Arc<dyn Disk>,
    /// The directory of the segments, under the disk's root.
    pub dir: String,
    /// A segment is closed once it is this long, in bytes.
    pub segment_bytes: u64,
    /// Who must release records before they are cut.
    pub users: Vec<LogUser>,
    pub runtime: Runtime,
    pub metrics: Metrics,
}

mod codec;
mod commit_log;
mod open;
mod queue;
mod segments;
#[cfg(test)]
mod tests;
mod torn;
mod writer;

pub use codec::MAX_RECORD_BYTES;
pub use commit_log::CommitLog;
pub use queue::MAX_QUEUED_BYTES;
