//! A replica: what a node does with the writes and reads of the partitions it holds.
//!
//! **Guarantees.** A write is answered once its log record is on stable storage and its record is
//! merged into the table, in the order of the log; a read never shows what a crash could lose.
//! Merging is by version, so that writes may come late, twice and in any order. Of a write that is
//! not answered, [`ReplicaError`] says whether it may have been taken.
//!
//! **Does not** know about quorums: coordinators do.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::horizons::{self, Horizon, Horizons, Late, is_gone};
use super::merge::Merge;
use super::messages::{Found, StoredWrite, encode_writes};
use super::submissions::{Queue, Step, Submission, Work, Written, with_lates};
use super::sweep::Sweeps;
use super::tally::Taken;
use super::trees::{Built, Trees};
use crate::planted::{self, Bug};
use crate::runtime::{Runtime, Task, watch};
use crate::storage::log::{CommitLog, Kind, NewRecord, Position};
use crate::storage::rows;
use crate::storage::table::{Table, TableError, on_a_task};
use crate::telemetry::Metrics;
use crate::types::{Key, Partition};

/// Bytes of writes that may wait for the log and the table; more are refused. As much as a peer's
/// lane queues.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// How often a page of rows is read while hash trees are built: some 250,000 rows a second at most,
/// for a tenth of one processor's time.
const PAGE_PAUSE: Duration = Duration::from_millis(2);

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

/// Called once, when the writes of a submission are durable and merged, or failed. What is late was not
/// taken, and will not be.
pub type Done = Box<dyn FnOnce(Result<Vec<Result<Taken, Late>>, ReplicaError>) + Send>;

/// The replica of one node.
pub struct Replica {
    shared: Arc<Shared>,
    applier: Task<()>,
}

struct Shared {
    table: Arc<dyn Table>,
    trees: Arc<Trees>,
    horizons: Arc<Horizons>,
    sweeps: Sweeps,
    log: Arc<CommitLog>,
    metrics: Metrics,
    queue: Mutex<Queue>,
    written: Arc<Written>,
    /// Why the replica takes nothing more, once it does not.
    failed: OnceLock<String>,
    /// Tells those who wait for that.
    failing: watch::Sender<bool>,
    idle: Notify,
    /// Called when a hash tree is to be built, or deletions to be dropped.
    chores_wanted: Notify,
}

impl Replica {
    /// Starts over a table into which the log was replayed.
    pub fn start(
        runtime: &Runtime,
        table: Arc<dyn Table>,
        trees: Arc<Trees>,
        horizons: Arc<Horizons>,
        log: Arc<CommitLog>,
        metrics: Metrics,
    ) -> Replica {
        let shared = Arc::new(Shared {
            table,
            trees,
            sweeps: Sweeps::new(&horizons),
            horizons,
            log,
            metrics,
            queue: Mutex::default(),
            written: Arc::default(),
            failed: OnceLock::new(),
            failing: watch::Sender::new(false),
            idle: Notify::new(),
            chores_wanted: Notify::new(),
        });
        let applier = runtime.spawn(apply_in_log_order(shared.clone(), runtime.clone()));
        Replica { shared, applier }
    }

    /// What the replica holds of a key, as an encoded record. A deletion that is to be dropped is none.
    pub fn read(&self, key: &Key) -> Result<Found, TableError> {
        let table = &*self.shared.table;
        // Before the record is looked at, so that it has survived this at least.
        let reached_ms = self.shared.horizons.of(key.partition()).reached_ms;
        let record = on_a_task(table, || table.get(&rows::data_row(key)))?;
        Ok(Found { record: record.filter(|record| !is_gone(record, reached_ms)), reached_ms })
    }

    /// Takes one write.
    pub fn write(&self, write: StoredWrite, done: Done) {
        let payload = encode_writes(std::iter::once(&write));
        self.submit(payload, vec![write], done);
    }

    /// Takes the writes of one message, whose bytes are `payload`, but for those that are late. Returns at
    /// once; the order of calls is the order in the log.
    pub fn submit(&self, payload: Bytes, mut writes: Vec<StoredWrite>, mut done: Done) {
        let mut queue = self.shared.queue.lock();
        let late = |write: &StoredWrite| self.shared.horizons.check(write).err();
        let mut payload = payload;
        if writes.iter().any(|write| late(write).is_some()) {
            let lates: Vec<Option<Late>> = writes.iter().map(late).collect();
            self.shared.metrics.writes_too_late.inc_by(lates.iter().flatten().count() as u64);
            let mut kept = lates.iter().map(Option::is_none);
            writes.retain(|_| kept.next().unwrap_or(true));
            payload = encode_writes(writes.iter());
            done = with_lates(lates, done);
            if writes.is_empty() {
                drop(queue);
                return done(Ok(Vec::new()));
            }
        }
        let work = Work::Writes(writes);
        if let Err((done, refusal)) =
            self.enqueue(&mut queue, Kind::ReplicaWrites, payload, work, done)
        {
            drop(queue);
            done(Err(refusal));
        }
    }

    /// Changes the horizons of some partitions, in the order of the log, and gives what they will be; `change` is
    /// told each as it is, and where it gives none nothing changes at all.
    pub fn change_horizons(
        &self,
        partitions: &[Partition],
        change: impl Fn(Horizon) -> Option<Horizon>,
        done: Done,
    ) -> Vec<Horizon> {
        let shared = &self.shared;
        let mut queue = shared.queue.lock();
        let changed = |partition: &Partition| {
            change(shared.horizons.of(*partition)).map(|horizon| (*partition, horizon))
        };
        let Some(changes) = partitions.iter().map(changed).collect::<Option<Vec<_>>>() else {
            drop(queue);
            let reason = "the horizon here does not let it";
            done(Err(ReplicaError::NotTaken(reason.to_owned())));
            return Vec::new();
        };
        let horizons = changes.iter().map(|(_, horizon)| *horizon).collect();
        let before: Vec<_> = partitions.iter().map(|it| (*it, shared.horizons.of(*it))).collect();
        // Before it is in the log: what is checked from now on comes after it there.
        changes.iter().for_each(|change| shared.horizons.set(*change));
        let payload = horizons::encode(&changes);
        let work = Work::Horizons(changes);
        if let Err((done, refusal)) = self.enqueue(&mut queue, Kind::Horizons, payload, work, done)
        {
            before.into_iter().for_each(|change| shared.horizons.set(change));
            drop(queue);
            done(Err(refusal));
        }
        horizons
    }

    /// The horizon of a partition.
    pub fn horizon(&self, partition: Partition) -> Horizon {
        self.shared.horizons.of(partition)
    }

    /// Puts work into the log and the queue; gives `done` back where there is no room.
    fn enqueue(
        &self,
        queue: &mut Queue,
        kind: Kind,
        payload: Bytes,
        work: Work,
        done: Done,
    ) -> Result<(), (Done, ReplicaError)> {
        let shared = &self.shared;
        let bytes = payload.len();
        let refusal = if queue.closed {
            Some(shared.failed.get().cloned().unwrap_or_else(|| "the node stops".to_owned()))
        } else if queue.bytes + bytes > MAX_WAITING_BYTES && queue.bytes > 0 {
            Some("the queue of its commit log is full".to_owned())
        } else {
            None
        };
        if let Some(reason) = refusal {
            return Err((done, ReplicaError::NotTaken(reason)));
        }
        let written = shared.written.clone();
        let record = NewRecord { kind, payload };
        // Under the queue's lock, so that the queue has the order of the log. The completion does
        // not take that lock: a log that is closed calls it right here.
        let positions =
            shared.log.append(vec![record], Box::new(move |result| written.note(result)));
        let position = positions.first().copied().unwrap_or_default();
        queue.bytes += bytes;
        queue.waiting.push_back(Submission { position, work, bytes, done });
        Ok(())
    }

    /// Builds the hash tree of a partition from its rows, anew where there is one.
    pub fn rebuild_tree(&self, partition: Partition) {
        self.shared.trees.rebuild(partition);
        self.shared.chores_wanted.notify_one();
    }

    /// Builds the hash tree of a partition, where there is none.
    pub fn build_tree(&self, partition: Partition) {
        if self.shared.trees.ensure(partition) {
            self.shared.chores_wanted.notify_one();
        }
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

    /// Takes nothing more, since the storage has failed.
    pub fn fail(&self, reason: String) {
        self.shared.fail(reason);
    }

    /// Waits until the replica takes nothing more because it failed, and says why.
    pub async fn failed(&self) -> String {
        let mut failing = self.shared.failing.subscribe();
        // The sender is kept beside, so that this ends in no other way.
        drop(failing.wait_for(|failing| *failing).await);
        self.failure().unwrap_or_else(|| "the replica has failed".to_owned())
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

/// Fails the replica where its applier panics: nothing would be merged or answered any more.
struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the replica's applier panicked".to_owned());
        }
    }
}

/// The one applier: merges what is durable, as much as there is at once, and answers. Between two
/// steps it reads a page of rows for a hash tree that is to be built, and drops some deletions, once every
/// [`PAGE_PAUSE`].
async fn apply_in_log_order(shared: Arc<Shared>, runtime: Runtime) {
    let _watched = FailOnPanic(shared.clone());
    let log = shared.log.clone();
    let log_failed = log.failed();
    tokio::pin!(log_failed);
    let mut page_at = runtime.now();
    loop {
        let has_chores = shared.trees.is_building() || !shared.sweeps.is_empty();
        if has_chores && runtime.now() >= page_at {
            if let Err(error) = on_a_task(&*shared.table, || shared.do_a_chore()) {
                return shared.fail(error.to_string());
            }
            page_at = runtime.now() + PAGE_PAUSE;
        }
        let step = shared.take_written();
        if !step.durable.is_empty() || !step.failed.is_empty() {
            if let Err(error) = on_a_task(&*shared.table, || shared.merge(step)) {
                return shared.fail(error.to_string());
            }
            // A long backlog must not hold up the tasks that it answers.
            tokio::task::yield_now().await;
            continue;
        }
        shared.idle.notify_waiters();
        tokio::select! {
            biased;
            () = shared.written.changed.notified() => {}
            error = &mut log_failed => return shared.fail(error.to_string()),
            () = shared.chores_wanted.notified(), if !has_chores => {}
            () = runtime.sleep_until(page_at), if has_chores => {}
        }
    }
}

impl Shared {
    /// Takes the next submissions that the log is done with, about [`MAX_APPLY_BYTES`] of them.
    fn take_written(&self) -> Step {
        let mut queue = self.queue.lock();
        let mut results = self.written.results.lock();
        let (mut step, mut bytes) = (Step::default(), 0);
        // Both queues have the log's order; a result may even come before its submission is queued.
        while bytes < MAX_APPLY_BYTES && !results.is_empty() {
            let Some(submission) = queue.waiting.pop_front() else { break };
            let Some(result) = results.pop_front() else { break };
            bytes += submission.bytes;
            match result {
                Ok(()) => step.durable.push(submission),
                Err(error) => step.failed.push((submission, error)),
            }
        }
        queue.merging = step.durable.first().map(|submission| submission.position);
        queue.bytes -= bytes;
        step
    }

    /// Drops some deletions, and builds a hash tree further.
    fn do_a_chore(&self) -> Result<(), TableError> {
        if let Some(swept) = self.sweeps.page(&*self.table)? {
            self.table.apply(swept.batch)?;
            self.trees.note(&swept.changed)?;
            self.metrics.deletions_collected.inc_by(swept.changed.len() as u64);
        }
        self.build_page()
    }

    fn build_page(&self) -> Result<(), TableError> {
        if let Some(Built::Differs(partition)) = self.trees.build_page(&*self.table)? {
            self.metrics.damaged_partitions.inc();
            tracing::error!(
                partition = partition.0,
                "rows of this partition are not what was written to them"
            );
        }
        Ok(())
    }

    fn merge(&self, step: Step) -> Result<(), TableError> {
        for (submission, error) in step.failed {
            (submission.done)(Err(ReplicaError::Unknown(error.to_string())));
        }
        let Some(last) = step.durable.last().map(|last| last.position) else { return Ok(()) };
        let mut applied = last;
        if planted::is(Bug::AppliedPositionAhead)
            && let Some(taken) = self.queue.lock().waiting.back()
        {
            applied = taken.position;
        }
        let mut merge = Merge::new(&*self.table, &self.metrics);
        let mut answers = Vec::with_capacity(step.durable.len());
        let mut raised = Vec::new();
        for submission in step.durable {
            let taken = match submission.work {
                Work::Writes(writes) => writes
                    .iter()
                    .map(|write| merge.take(write).map(Ok))
                    .collect::<Result<_, _>>()?,
                Work::Horizons(changes) => {
                    merge.take_horizons(&changes);
                    raised.extend(changes);
                    Vec::new()
                }
            };
            answers.push((submission.done, taken));
        }
        let (batch, changed) = merge.into_batch(applied)?;
        self.table.apply(batch)?;
        self.trees.note(&changed)?;
        raised.into_iter().for_each(|change| self.sweeps.begin(change));
        self.queue.lock().merging = None;
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
        self.failing.send_replace(true);
    }
}
