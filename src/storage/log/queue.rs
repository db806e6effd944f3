//! What waits to be written, and the state that the log and its writer share.

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::codec::{self, MAX_RECORD_BYTES};
use super::segments::{Segments, Tail};
use super::{Completion, LogError, NewRecord, Position};
use crate::runtime::watch;

/// How many bytes of records may wait for the writer. Callers bound what they have under way, far
/// below this; an append beyond it fails, because a queue without a bound is a crash in waiting.
pub const MAX_QUEUED_BYTES: u64 = 1 << 30;

/// What the log and its writer share.
pub(super) struct Shared {
    pub segments: Segments,
    queue: Mutex<Queue>,
    /// Wakes a writer that is a thread.
    wake_thread: Condvar,
    /// Wakes a writer that is a task.
    wake_task: Notify,
    failure: watch::Sender<Option<LogError>>,
}

struct Queue {
    batch: Batch,
    /// Bytes of the records in `batch`.
    bytes: u64,
    /// Where the next record will go.
    tail: Tail,
    /// Set once: nothing is queued after that.
    closing: bool,
}

/// Appends on their way to the writer, in order.
#[derive(Default)]
pub(super) struct Batch {
    pub records: Vec<NewRecord>,
    pub completions: Vec<PendingCompletion>,
}

/// The completion of an append.
pub(super) struct PendingCompletion {
    pub done: Completion,
    /// Set where the append was refused: its records are not in the batch.
    pub refused: Option<LogError>,
}

impl Shared {
    pub fn new(segments: Segments, tail: Tail) -> Shared {
        let queue = Queue { batch: Batch::default(), bytes: 0, tail, closing: false };
        Shared {
            segments,
            queue: Mutex::new(queue),
            wake_thread: Condvar::new(),
            wake_task: Notify::new(),
            failure: watch::Sender::new(None),
        }
    }

    /// Queues an append; gives the positions of its records.
    pub fn push(&self, records: Vec<NewRecord>, done: Completion) -> Vec<Position> {
        let mut queue = self.queue.lock();
        let mut tail = queue.tail;
        let place = |record: &NewRecord| tail.place(codec::record_bytes(record.payload.len()));
        let positions = records.iter().map(place).map(|placed| placed.position).collect();
        if queue.closing {
            drop(queue);
            done(Err(LogError::Closed));
            return positions;
        }
        let bytes = tail.end - queue.tail.end;
        // The writer sleeps only while the queue is empty.
        let wake = queue.batch.completions.is_empty();
        let refused = refusal(&records, queue.bytes.saturating_add(bytes));
        if refused.is_none() {
            queue.tail = tail;
            queue.bytes += bytes;
            queue.batch.records.extend(records);
        }
        queue.batch.completions.push(PendingCompletion { done, refused });
        drop(queue);
        if wake {
            self.wake();
        }
        positions
    }

    /// Swaps everything that has queued for `batch`, which is empty; waits where nothing has. False
    /// once the log is closed and nothing is left.
    pub fn wait(&self, batch: &mut Batch) -> bool {
        let mut queue = self.queue.lock();
        while queue.batch.completions.is_empty() && !queue.closing {
            self.wake_thread.wait(&mut queue);
        }
        queue.take(batch)
    }

    /// [`Shared::wait`] for a writer that is a task.
    pub async fn wait_async(&self, batch: &mut Batch) -> bool {
        loop {
            {
                let mut queue = self.queue.lock();
                if !queue.batch.completions.is_empty() || queue.closing {
                    return queue.take(batch);
                }
            }
            self.wake_task.notified().await;
        }
    }

    /// Takes no more appends; the writer ends once it has written what queued.
    pub fn close(&self) {
        self.queue.lock().closing = true;
        self.wake();
    }

    /// Fails the log for ever. The first failure is the one that is told.
    pub fn fail(&self, error: &LogError) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                tracing::error!(%error, "the commit log failed and takes nothing more");
                *failure = Some(error.clone());
            }
            first
        });
    }

    /// How the log failed, where it has.
    pub fn failure(&self) -> Option<LogError> {
        self.failure.borrow().clone()
    }

    /// Waits until the log fails.
    pub async fn failed(&self) -> LogError {
        let mut failure = self.failure.subscribe();
        loop {
            if let Some(error) = failure.borrow_and_update().clone() {
                return error;
            }
            if failure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Says that the writer will never look at the queue again; fails what is left there.
    pub fn abandon(&self) {
        let left = {
            let mut queue = self.queue.lock();
            queue.closing = true;
            std::mem::take(&mut queue.batch.completions)
        };
        let error = self.failure().unwrap_or(LogError::Closed);
        for completion in left {
            (completion.done)(Err(error.clone()));
        }
    }

    /// The position that the next record will have.
    pub fn end(&self) -> Position {
        Position(self.queue.lock().tail.end)
    }

    fn wake(&self) {
        self.wake_thread.notify_one();
        self.wake_task.notify_one();
    }
}

impl Queue {
    fn take(&mut self, batch: &mut Batch) -> bool {
        std::mem::swap(&mut self.batch, batch);
        self.bytes = 0;
        !batch.completions.is_empty()
    }
}

/// Why records cannot be written; `queued_bytes` counts them in.
fn refusal(records: &[NewRecord], queued_bytes: u64) -> Option<LogError> {
    let longest = records.iter().map(|record| record.payload.len()).max().unwrap_or(0);
    let problem = if longest > MAX_RECORD_BYTES {
        format!("a record of {longest} bytes is too long: at most {MAX_RECORD_BYTES} are allowed")
    } else if queued_bytes > MAX_QUEUED_BYTES {
        format!("{queued_bytes} bytes wait to be written: at most {MAX_QUEUED_BYTES} may")
    } else {
        return None;
    };
    Some(LogError::from(std::io::Error::new(std::io::ErrorKind::InvalidInput, problem)))
}
