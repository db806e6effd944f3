//! The commit log as its users see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::open::{Opened, open};
use super::queue::Shared;
use super::segments::{Segment, Segments};
use super::writer::Writer;
use super::{Completion, Kind, LogError, LogOptions, LogUser, NewRecord, Position, ReplayedRecord};
use crate::runtime::watch;
use crate::storage::disk::Disk;

/// The commit log. Share it in an `Arc`.
pub struct CommitLog {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    dir: String,
    /// Before what position each user needs nothing; nobody has an entry who released nothing yet.
    floors: Mutex<BTreeMap<LogUser, Position>>,
    users: Vec<LogUser>,
    /// The writer, where it is a thread.
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Closed once the writer has ended.
    writer_ended: watch::Receiver<()>,
}

impl CommitLog {
    /// Opens or creates the log, and calls `replay` for every record in order. Blocking.
    pub fn open(
        options: LogOptions,
        replay: &mut dyn FnMut(ReplayedRecord<'_>) -> Result<(), String>,
    ) -> Result<CommitLog, LogError> {
        let opened = open(&options, replay)?;
        let Some(active) = opened.segments.back().cloned() else {
            return Err(LogError::Closed);
        };
        start(options, opened, active)
    }

    /// Queues records and says at once what position each will have. `done` is called on the writer
    /// once all of them are durable; after a failure, as soon as the writer comes to it. The order
    /// of calls is the order in the log. Where `done` gets an error, the positions mean nothing.
    ///
    /// Without records it waits for what was appended before. Callers bound what they have under
    /// way: an append beyond [`MAX_QUEUED_BYTES`](super::MAX_QUEUED_BYTES) fails, as does one with
    /// a payload of more than [`MAX_RECORD_BYTES`](super::MAX_RECORD_BYTES).
    pub fn append(&self, records: Vec<NewRecord>, done: Completion) -> Vec<Position> {
        self.shared.push(records, done)
    }

    /// Appends and waits until the records are durable.
    pub async fn append_durably(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
        let (sender, receiver) = oneshot::channel();
        let done = move |result| {
            // Whoever waited may be gone; the records are durable all the same.
            let _ = sender.send(result);
        };
        let positions = self.append(records, Box::new(done));
        receiver.await.unwrap_or(Err(LogError::Closed)).map(|()| positions)
    }

    /// Reads a record back. Its completion must have been called. Blocking, briefly.
    pub fn read(&self, position: Position) -> Result<(Kind, Bytes), LogError> {
        self.shared.segments.read(position)
    }

    /// Says that `user` needs nothing before `position`; removes the segments that nobody needs.
    /// A floor never falls. Blocking, where segments are removed.
    pub fn release(&self, user: LogUser, position: Position) -> Result<(), LogError> {
        let cut = {
            let mut floors = self.floors.lock();
            let floor = floors.entry(user).or_default();
            *floor = position.max(*floor);
            let floor_of = |user| floors.get(user).copied().unwrap_or_default();
            self.users.iter().map(floor_of).min().unwrap_or_default()
        };
        self.shared.segments.remove_before(&*self.disk, &self.dir, cut).map_err(|error| {
            let error = LogError::from(error);
            self.shared.fail(&error);
            error
        })
    }

    /// The position that the next record will have.
    pub fn end(&self) -> Position {
        self.shared.end()
    }

    /// The position of the first record kept.
    pub fn start(&self) -> Position {
        self.shared.segments.start()
    }

    /// Waits until the log fails, and says how. Pending for ever where it is closed in peace.
    pub async fn failed(&self) -> LogError {
        self.shared.failed().await
    }

    /// Writes what has queued, then takes nothing more.
    pub async fn close(&self) {
        self.shared.close();
        let mut writer_ended = self.writer_ended.clone();
        while writer_ended.changed().await.is_ok() {}
        self.join();
    }

    /// Waits for the writer's thread, unless this is the writer's thread.
    fn join(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the commit log's writer panicked");
        }
    }
}

impl Drop for CommitLog {
    fn drop(&mut self) {
        self.shared.close();
        self.join();
    }
}

/// Starts the writer of a log that was opened.
fn start(options: LogOptions, opened: Opened, active: Arc<Segment>) -> Result<CommitLog, LogError> {
    let Opened { segments, tail } = opened;
    let shared = Arc::new(Shared::new(Segments::new(segments), tail));
    let (ended, writer_ended) = watch::channel(());
    let writer = Writer {
        shared: shared.clone(),
        disk: options.disk.clone(),
        dir: options.dir.clone(),
        metrics: options.metrics,
        active,
        tail,
        synced_bytes: tail.file_offset(),
        buffer: Vec::new(),
        _ended: ended,
    };
    let runtime = options.runtime;
    let thread = if runtime.is_simulated() {
        runtime.spawn(writer.run_simulated(runtime.clone()));
        None
    } else {
        Some(runtime.thread("commit-log", move || writer.run())?)
    };
    Ok(CommitLog {
        shared,
        disk: options.disk,
        dir: options.dir,
        floors: Mutex::new(BTreeMap::new()),
        users: options.users,
        thread: Mutex::new(thread),
        writer_ended,
    })
}
