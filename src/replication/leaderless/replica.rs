//! A replica: what a node does with the writes and reads of the partitions it holds.
//!
//! **Guarantees.** A write is answered once its log record is on stable storage and its record is
//! merged into the table, in the order of the log; a read never shows what a crash could lose.
//! Merging is by version, so that writes may come late, twice and in any order. Of a write that is
//! not answered, [`ReplicaError`] says whether it may have been taken.
//!
//! **Does not** know about quorums: coordinators do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::merge::Merge;
use super::messages::{StoredWrite, encode_writes};
use super::tally::Taken;
use crate::runtime::{Runtime, Task};
use crate::storage::log::{CommitLog, Kind, LogError, NewRecord, Position};
use crate::storage::rows;
use crate::storage::table::{Table, TableError};
use crate::telemetry::Metrics;
use crate::types::Key;

/// Bytes of writes that may wait for the log and the table; more are refused. As much as a peer's
/// lane queues.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// About how many bytes of writes are merged in one step.
const MAX_APPLY_BYTES: usize = 8 << 20;

/// Why a write was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    /// It was not taken, and will not be.
    #[error("not taken: {0}")]
    NotTaken(String),
    /// It may be on stable storage.
    #[error("not known to be taken: {0}")]
    Unknown(String),
}

/// Called once, when the writes of a submission are durable and merged, or failed.
pub type Done = Box<dyn FnOnce(Result<Vec<Taken>, ReplicaError>) + Send>;

/// The replica of one node.
pub struct Replica {
    shared: Arc<Shared>,
    applier: Task<()>,
}

struct Shared {
    table: Arc<dyn Table>,
    log: Arc<CommitLog>,
    metrics: Metrics,
    queue: Mutex<Queue>,
    durable: Arc<Durable>,
    /// Why the replica takes nothing more, once it does not.
    failed: OnceLock<String>,
    idle: Notify,
}

/// Submissions in log order, from those being written to those being merged.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Submission>,
    bytes: usize,
    /// The first submission that left `waiting` and is not merged yet.
    merging: Option<Position>,
    closed: bool,
}

struct Submission {
    position: Position,
    writes: Vec<StoredWrite>,
    bytes: usize,
    done: Done,
}

/// How far the log has come. Its completions come in order, so a count says which are durable.
#[derive(Default)]
struct Durable {
    submissions: AtomicU64,
    failed: OnceLock<LogError>,
    changed: Notify,
}

impl Durable {
    fn note(&self, result: Result<(), LogError>) {
        match result {
            Ok(()) => {
                self.submissions.fetch_add(1, Ordering::AcqRel);
            }
            Err(error) => {
                let _ = self.failed.set(error);
            }
        }
        self.changed.notify_one();
    }
}

impl Replica {
    /// Starts over a table into which the log was replayed.
    pub fn start(
        runtime: &Runtime,
        table: Arc<dyn Table>,
        log: Arc<CommitLog>,
        metrics: Metrics,
    ) -> Replica {
        let shared = Arc::new(Shared {
            table,
            log,
            metrics,
            queue: Mutex::default(),
            durable: Arc::default(),
            failed: OnceLock::new(),
            idle: Notify::new(),
        });
        let applier = runtime.spawn(apply_in_log_order(shared.clone()));
        Replica { shared, applier }
    }

    /// What the replica holds of a key, as an encoded record.
    pub fn read(&self, key: &Key) -> Result<Option<Bytes>, TableError> {
        self.shared.table.get(&rows::data_row(key))
    }

    /// Takes one write.
    pub fn write(&self, key: &Key, record: &Bytes, done: Done) {
        let payload = encode_writes(std::iter::once((key, record)));
        let write = StoredWrite { key: key.clone(), record: record.clone() };
        self.submit(payload, vec![write], done);
    }

    /// Takes the writes of one message, whose bytes are `payload`. Returns at once; the order of
    /// calls is the order in the log.
    pub fn submit(&self, payload: Bytes, writes: Vec<StoredWrite>, done: Done) {
        let shared = &self.shared;
        let mut queue = shared.queue.lock();
        let bytes = payload.len();
        let refusal = if queue.closed {
            Some(shared.failed.get().cloned().unwrap_or_else(|| "the node stops".to_owned()))
        } else if queue.bytes + bytes > MAX_WAITING_BYTES && queue.bytes > 0 {
            Some("the queue of its commit log is full".to_owned())
        } else {
            None
        };
        if let Some(reason) = refusal {
            drop(queue);
            return done(Err(ReplicaError::NotTaken(reason)));
        }
        let durable = shared.durable.clone();
        let record = NewRecord { kind: Kind::ReplicaWrites, payload };
        // Under the queue's lock, so that the queue has the order of the log. The completion takes
        // no lock: a log that failed calls it right here.
        let positions =
            shared.log.append(vec![record], Box::new(move |result| durable.note(result)));
        let position = positions.first().copied().unwrap_or_default();
        queue.bytes += bytes;
        queue.waiting.push_back(Submission { position, writes, bytes, done });
    }

    /// Where the log may be cut once a checkpoint that begins after this call is done: every write
    /// before it is merged.
    pub fn merged_up_to(&self) -> Position {
        let queue = self.shared.queue.lock();
        let waiting = queue.waiting.front().map(|submission| submission.position);
        // Writes are appended under the same lock, so none lies between here and the log's end.
        queue.merging.or(waiting).unwrap_or_else(|| self.shared.log.end())
    }

    /// Why the replica takes nothing more; `None` while it does.
    pub fn failure(&self) -> Option<String> {
        match self.shared.failed.get() {
            Some(failure) => Some(failure.clone()),
            None if self.applier.is_finished() => Some("the replica has stopped".to_owned()),
            None => None,
        }
    }

    /// Takes nothing more, and waits until what was taken is merged.
    pub async fn close(&self) {
        self.shared.queue.lock().closed = true;
        loop {
            let idle = self.shared.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            {
                let queue = self.shared.queue.lock();
                let done = queue.waiting.is_empty() && queue.merging.is_none();
                if done || self.failure().is_some() {
                    break;
                }
            }
            idle.await;
        }
        self.applier.abort();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.applier.abort();
    }
}

/// The one applier: merges what is durable, as much as there is at once, and answers.
async fn apply_in_log_order(shared: Arc<Shared>) {
    let mut merged: u64 = 0;
    loop {
        let durable = shared.durable.submissions.load(Ordering::Acquire);
        let batch = shared.take_durable(durable - merged);
        if !batch.is_empty() {
            merged += batch.len() as u64;
            if let Err(error) = shared.merge(batch) {
                return shared.fail(error.to_string());
            }
            // A long backlog must not hold up the tasks that it answers.
            tokio::task::yield_now().await;
        } else if let Some(error) = shared.durable.failed.get() {
            return shared.fail(error.to_string());
        } else {
            shared.idle.notify_waiters();
            shared.durable.changed.notified().await;
        }
    }
}

impl Shared {
    /// Takes submissions off the queue, of the first `durable`, about [`MAX_APPLY_BYTES`].
    fn take_durable(&self, durable: u64) -> Vec<Submission> {
        let mut queue = self.queue.lock();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while (batch.len() as u64) < durable && bytes < MAX_APPLY_BYTES {
            let Some(submission) = queue.waiting.pop_front() else { break };
            bytes += submission.bytes;
            batch.push(submission);
        }
        queue.merging = batch.first().map(|submission: &Submission| submission.position);
        batch
    }

    fn merge(&self, batch: Vec<Submission>) -> Result<(), TableError> {
        let Some(last) = batch.last().map(|submission| submission.position) else { return Ok(()) };
        let mut merge = Merge::new(&*self.table, &self.metrics);
        let mut answers = Vec::with_capacity(batch.len());
        let mut bytes = 0;
        for submission in batch {
            let taken: Result<Vec<Taken>, TableError> =
                submission.writes.iter().map(|write| merge.take(write)).collect();
            bytes += submission.bytes;
            answers.push((submission.done, taken?));
        }
        self.table.apply(merge.into_batch(last))?;
        {
            let mut queue = self.queue.lock();
            queue.merging = None;
            queue.bytes -= bytes;
        }
        for (done, taken) in answers {
            done(Ok(taken));
        }
        Ok(())
    }

    /// The storage failed: nothing more is taken, and nothing is known of what waits.
    fn fail(&self, reason: String) {
        tracing::error!(%reason, "the replica stops");
        let _ = self.failed.set(reason.clone());
        let waiting = {
            let mut queue = self.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.waiting)
        };
        for submission in waiting {
            (submission.done)(Err(ReplicaError::Unknown(reason.clone())));
        }
        self.idle.notify_waiters();
    }
}
