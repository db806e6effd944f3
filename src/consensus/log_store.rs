//! openraft's log over the project's commit log.
//!
//! **Guarantees.** Votes, entries, truncations and purges are records of one first-in-first-out
//! log, so they reach the disk in the order in which openraft asks for them. A vote, a truncation
//! and a purge are durable before the call returns; an entry is readable at once and durable when
//! its callback says so. An entry stays in memory until it is durable, and as long as it is among
//! the newest [`LogStore::new`]'s `cache_bytes` of entries.
//!
//! **What is recorded lazily.** The commit position goes to disk with the next entries, never with
//! a sync of its own: it only spares a restarted node from waiting to learn it again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, oneshot};

use super::codec;
use super::log_index::LogIndex;
use super::log_reader::LogReader;
use super::raft_types::{Entry, LogId, TypeConfig, Vote};
use crate::planted::{self, Bug};
use crate::runtime::Runtime;
use crate::storage::log::{CommitLog, Completion, Kind, LogError, LogUser, NewRecord, Position};

/// A log that is no longer than this, in bytes and in entries, is written again at its end when a
/// checkpoint was taken: else a handful of old control entries would hold every segment back.
const REWRITE_BYTES: usize = 1 << 20;
const REWRITE_ENTRIES: usize = 1_024;

/// Entries that may be on their way to the disk, in bytes; an append waits beyond that. Some of the
/// longest messages, and far below what the commit log takes.
const MAX_UNSYNCED_BYTES: u64 = 64 << 20;

/// The Raft log. Cheap to clone.
#[derive(Clone)]
pub(super) struct LogStore(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) log: Arc<CommitLog>,
    pub(super) runtime: Runtime,
    cache_bytes: u64,
    pub(super) state: Mutex<State>,
    progress: Arc<Progress>,
    /// Whether entries are read for followers only once they are durable here.
    durable_first: bool,
    /// Counts the times the log lost its end.
    truncations: Counter,
}

/// How far the appends of entries are, as their completions say. They hold this and nothing more:
/// the log, which holds them, must not be held by them.
#[derive(Default)]
struct Progress {
    /// The number of the last append that is durable.
    durable: AtomicU64,
    failed: AtomicBool,
    /// For the append that waits for room.
    changed: Notify,
    /// For the readers that wait for what they read to be durable.
    flushed: Notify,
}

pub(super) struct State {
    pub(super) index: LogIndex,
    /// The newest entries, without gaps, up to the last.
    cache: VecDeque<Cached>,
    cached_bytes: u64,
    /// Appends are numbered, so that completions say which entries are durable.
    appends: u64,
    /// The commit position, which may be ahead of what the log says.
    committed: Option<LogId>,
}

struct Cached {
    entry: Entry,
    append: u64,
}

/// The whole of a short log, encoded.
struct FewEntries {
    first: u64,
    last: Option<LogId>,
    records: Vec<Bytes>,
}

impl State {
    /// The index of the oldest entry in memory.
    pub(super) fn cache_first(&self) -> u64 {
        self.index.next() - self.cache.len() as u64
    }

    /// The entries in memory from `start` to `end`.
    pub(super) fn cached(&self, start: u64, end: u64) -> impl Iterator<Item = &Entry> {
        let first = self.cache_first();
        let offset = |index: u64| (index.saturating_sub(first) as usize).min(self.cache.len());
        let (from, to) = (offset(start), offset(end.max(start)));
        self.cache.range(from..to).map(|cached| &cached.entry)
    }

    fn evict(&mut self, limit_bytes: u64, durable: u64) {
        while self.cached_bytes > limit_bytes
            && self.cache.front().is_some_and(|oldest| oldest.append <= durable)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(gone) = self.cache.pop_front() {
            self.cached_bytes -= codec::weight(&gone.entry) as u64;
        }
    }

    /// Drops from memory what the index no longer has.
    fn trim_cache(&mut self) {
        while self.cache.back().is_some_and(|it| it.entry.log_id.index >= self.index.next()) {
            if let Some(gone) = self.cache.pop_back() {
                self.cached_bytes -= codec::weight(&gone.entry) as u64;
            }
        }
        while self.cache.front().is_some_and(|it| it.entry.log_id.index < self.index.first()) {
            self.forget_oldest();
        }
    }

    /// The records that say what the log's small state is.
    fn state_records(&self) -> io::Result<Vec<NewRecord>> {
        let mut records = Vec::with_capacity(3);
        if let Some(purged) = &self.index.purged {
            records.push(record(Kind::RaftPurged, codec::encode(purged)?));
        }
        if let Some(vote) = &self.index.vote {
            records.push(record(Kind::RaftVote, codec::encode(vote)?));
        }
        if let Some(committed) = &self.committed {
            records.push(record(Kind::RaftCommitted, codec::encode(committed)?));
        }
        Ok(records)
    }
}

impl LogStore {
    /// The log as it was recovered. `cache_bytes` bounds the entries in memory that are durable.
    pub(super) fn new(
        log: Arc<CommitLog>,
        runtime: Runtime,
        recovered: LogIndex,
        cache_bytes: u64,
        truncations: Counter,
        durable_first: bool,
    ) -> LogStore {
        let committed = recovered.committed;
        let state = State {
            index: recovered,
            cache: VecDeque::new(),
            cached_bytes: 0,
            appends: 0,
            committed,
        };
        let (state, progress) = (Mutex::new(state), Arc::default());
        let shared =
            Shared { log, runtime, cache_bytes, state, progress, durable_first, truncations };
        LogStore(Arc::new(shared))
    }

    /// The last vote that was stored, or is about to be: nothing that follows from it was sent before.
    pub(super) fn vote(&self) -> Option<Vote> {
        self.0.state.lock().index.vote
    }

    /// Writes the small state again at the end of the log, and the entries too where they are few,
    /// then says which records are still needed, so that older segments can go.
    pub(super) async fn release(&self) -> io::Result<()> {
        let few = self.few_entries().await?;
        let (completion, durable) = durability();
        let (moves, needed) = {
            let mut state = self.0.state.lock();
            let mut records = state.state_records()?;
            let small = records.len();
            // Entries may have come or gone since they were read; then they stay where they are.
            let few = few.filter(|few| {
                few.first == state.index.first()
                    && few.records.len() == state.index.len()
                    && few.last == state.index.last
            });
            let (first, entries) = few.map_or((0, Vec::new()), |few| (few.first, few.records));
            state.index.committed = state.committed;
            // Where there is nothing yet, nothing before this is needed: others use the log too.
            let end = self.0.log.end();
            records.extend(entries.into_iter().map(|entry| record(Kind::RaftEntry, entry)));
            let positions = self.0.log.append(records, completion);
            let entries = (first..).zip(positions.iter().skip(small));
            let moves = entries.map(|(index, to)| (index, state.index.position(index), *to));
            let moves: Vec<_> = moves.collect();
            // What is needed is decided by what these records will say, not by what happens until
            // they are durable: a purge that comes meanwhile may be lost in a crash.
            let stays = if moves.is_empty() { state.index.lowest_position() } else { None };
            (moves, stays.into_iter().chain(positions.first().copied()).min().unwrap_or(end))
        };
        durable.await?;
        let lowest = {
            let mut state = self.0.state.lock();
            for (index, from, to) in moves {
                // Readers find it there only now; one that was replaced meanwhile lies elsewhere.
                if state.index.position(index) == from {
                    state.index.moved(index, to);
                }
            }
            state.index.lowest_position()
        };
        let log = self.0.log.clone();
        let needed = lowest.map_or(needed, |lowest| lowest.min(needed));
        let release = move || log.release(LogUser::Raft, needed).map_err(io::Error::other);
        self.0.runtime.blocking(release).await
    }

    /// The last entry to purge behind a checkpoint at index `checkpoint`: all but `keep_entries`
    /// before it, and all further back than `keep_bytes` of log. `None` where all may stay.
    pub(super) fn purgeable(
        &self,
        checkpoint: u64,
        keep_entries: u64,
        keep_bytes: u64,
    ) -> Option<u64> {
        let from = Position(self.0.log.end().0.saturating_sub(keep_bytes));
        let state = self.0.state.lock();
        let by_bytes = state.index.first_from(from).checked_sub(1);
        let upto = checkpoint.checked_sub(keep_entries).max(by_bytes)?.min(checkpoint);
        (upto >= state.index.first()).then_some(upto)
    }

    /// Every entry's record, where they are few and small.
    async fn few_entries(&self) -> io::Result<Option<FewEntries>> {
        let (first, next) = {
            let state = self.0.state.lock();
            if state.index.len() > REWRITE_ENTRIES {
                return Ok(None);
            }
            (state.index.first(), state.index.next())
        };
        let entries = self.0.read(first, next, REWRITE_BYTES).await?;
        let last = entries.last().map(|entry| entry.log_id);
        if last.is_none() || entries.len() as u64 != next - first {
            return Ok(None);
        }
        let records = entries.iter().map(codec::encode_entry).collect::<io::Result<Vec<_>>>()?;
        Ok(Some(FewEntries { first, last, records }))
    }

    fn append_entries(&self, entries: Vec<Entry>, done: IOFlushed<TypeConfig>) -> io::Result<()> {
        let mut records = Vec::with_capacity(entries.len() + 1);
        for entry in &entries {
            records.push(record(Kind::RaftEntry, codec::encode_entry(entry)?));
        }
        let mut state = self.0.state.lock();
        if let Some(first) = entries.first() {
            let fresh = state.index.len() == 0 && state.index.purged.is_none();
            if !fresh && first.log_id.index != state.index.next() {
                let (got, next) = (first.log_id.index, state.index.next());
                return Err(codec::invalid("a gap in the log", format!("{got} after {next} - 1")));
            }
            if fresh {
                state.index.start_at(first.log_id.index);
            }
        }
        if state.committed != state.index.committed
            && let Some(committed) = state.committed
        {
            // Last, so that the positions of the entries come first.
            records.push(record(Kind::RaftCommitted, codec::encode(&committed)?));
            state.index.committed = Some(committed);
        }
        if planted::is(Bug::VoteNotDurable) {
            records.extend(state.state_records()?);
        }
        state.appends += 1;
        let append = state.appends;
        let progress = self.0.progress.clone();
        let completion = move |result: Result<(), LogError>| {
            match result.is_ok() {
                true => drop(progress.durable.fetch_max(append, Ordering::Release)),
                false => progress.failed.store(true, Ordering::Release),
            }
            progress.changed.notify_one();
            progress.flushed.notify_waiters();
            done.io_completed(result.map_err(io::Error::other));
        };
        let positions = self.0.log.append(records, Box::new(completion));
        for (entry, position) in entries.into_iter().zip(positions) {
            state.index.push(entry.log_id, position);
            state.cached_bytes += codec::weight(&entry) as u64;
            state.cache.push_back(Cached { entry, append });
        }
        state.evict(self.0.cache_bytes, self.0.progress.durable.load(Ordering::Acquire));
        Ok(())
    }

    /// Waits while too much is on its way to the disk.
    async fn room(&self) -> io::Result<()> {
        let progress = &self.0.progress;
        loop {
            if progress.failed.load(Ordering::Acquire) {
                return Err(io::Error::other("an earlier append failed"));
            }
            {
                let mut state = self.0.state.lock();
                state.evict(self.0.cache_bytes, progress.durable.load(Ordering::Acquire));
                if state.cached_bytes <= self.0.cache_bytes + MAX_UNSYNCED_BYTES {
                    return Ok(());
                }
            }
            progress.changed.notified().await;
        }
    }

    /// Changes the state and queues the record that says so, in one step, so that no other record
    /// comes between; then waits until it is durable.
    async fn write(
        &self,
        kind: Kind,
        payload: Bytes,
        change: impl FnOnce(&mut State),
    ) -> io::Result<()> {
        let (completion, durable) = durability();
        {
            let mut state = self.0.state.lock();
            change(&mut state);
            self.0.log.append(vec![record(kind, payload)], completion);
        }
        durable.await
    }
}

impl Shared {
    /// Whether the entry at `index` is durable here.
    fn is_durable(&self, index: u64) -> bool {
        let state = self.state.lock();
        let cached = index.checked_sub(state.cache_first());
        let cached = cached.and_then(|at| state.cache.get(at as usize));
        // What is no longer in memory is on the disk.
        cached.is_none_or(|it| it.append <= self.progress.durable.load(Ordering::Acquire))
    }

    /// Waits until the last of `entries` is durable here, where followers may see nothing that this
    /// node could forget. A fixed leader that forgot what a majority holds could never be elected
    /// again, and nobody else may be.
    pub(super) async fn before_sending(&self, entries: &[Entry]) -> io::Result<()> {
        let Some(last) = entries.last().filter(|_| self.durable_first) else { return Ok(()) };
        loop {
            let flushed = self.progress.flushed.notified();
            tokio::pin!(flushed);
            flushed.as_mut().enable();
            if self.progress.failed.load(Ordering::Acquire) {
                return Err(io::Error::other(LogError::Closed));
            }
            if self.is_durable(last.log_id.index) {
                return Ok(());
            }
            flushed.await;
        }
    }
}

/// A completion, and what waits for it.
fn durability() -> (Completion, impl Future<Output = io::Result<()>>) {
    let (done, durable) = oneshot::channel();
    let completion = move |result: Result<(), LogError>| {
        // Where nobody waits any more, nobody needs to know.
        let _ = done.send(result);
    };
    let wait = async { durable.await.unwrap_or(Err(LogError::Closed)).map_err(io::Error::other) };
    (Box::new(completion), wait)
}

fn record(kind: Kind, payload: Bytes) -> NewRecord {
    NewRecord { kind, payload }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.0.state.lock();
        Ok(LogState { last_purged_log_id: state.index.purged, last_log_id: state.index.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader(self.0.clone())
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if planted::is(Bug::VoteNotDurable) {
            self.0.state.lock().index.vote = Some(*vote);
            return Ok(());
        }
        let payload = codec::encode(vote)?;
        self.write(Kind::RaftVote, payload, |state| state.index.vote = Some(*vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.0.state.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.0.state.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().collect();
        self.room().await?;
        self.append_entries(entries, callback)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let payload = codec::encode(&last)?;
        let change = |state: &mut State| {
            state.index.truncate_after(last);
            state.trim_cache();
        };
        self.0.truncations.inc();
        self.write(Kind::RaftTruncate, payload, change).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let change = |state: &mut State| {
            state.index.purge(upto);
            state.trim_cache();
        };
        self.write(Kind::RaftPurged, codec::encode(&upto)?, change).await?;
        // openraft's core waits for this call; it need not wait for files to be removed.
        let store = self.clone();
        self.0.runtime.spawn(async move {
            // A failure of the log fails all that is appended next, and stops the node.
            if let Err(error) = store.release().await {
                tracing::warn!(%error, "the log before a purge is not released yet");
            }
        });
        Ok(())
    }
}
