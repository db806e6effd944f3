//! A data directory on a simulated disk, and what opens on it.

use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, RaftLogReader};
use tokio::sync::oneshot;

use crate::consensus::log_store::LogStore;
use crate::consensus::raft_types::{Entry, LogId, Proposal, TypeConfig};
use crate::consensus::state_machine::{Machine, MachineOptions};
use crate::consensus::{Command, RaftReplay, Session, Submission};
use crate::runtime::Runtime;
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::log::{CommitLog, LogError, LogOptions, LogUser};
use crate::storage::table::{Hooks, MemoryTable, TableBatch, TableError};
use crate::telemetry::Metrics;
use crate::types::{Change, Condition, Key, NodeId, Write};

/// Small, so that tests see segments come and go.
pub const SEGMENT_BYTES: u64 = 4 << 10;

/// Runs a test in a simulated world.
pub fn in_a_world<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(async { test().await })
}

pub fn open_log(
    disk: &SimDisk,
    runtime: &Runtime,
) -> Result<(Arc<CommitLog>, RaftReplay), LogError> {
    let options = LogOptions {
        disk: Arc::new(disk.clone()),
        dir: "log".to_owned(),
        segment_bytes: SEGMENT_BYTES,
        users: vec![LogUser::Raft],
        runtime: runtime.clone(),
        metrics: Metrics::new(),
    };
    let mut replay = RaftReplay::default();
    let log = CommitLog::open(options, &mut |record| replay.take(record))?;
    Ok((Arc::new(log), replay))
}

/// Opens the Raft log with a cache of so many bytes.
pub fn open_store(disk: &SimDisk, runtime: &Runtime, cache_bytes: u64) -> LogStore {
    let (log, replay) = open_log(disk, runtime).expect("the log opens");
    let index = replay.index.finish().expect("the log is whole");
    LogStore::new(log, runtime.clone(), index, cache_bytes, Default::default(), false)
}

pub fn open_table(disk: &SimDisk) -> Arc<MemoryTable> {
    let table = MemoryTable::open(Arc::new(disk.clone()), "table");
    Arc::new(table.expect("the table opens"))
}

pub fn open_machine(disk: &SimDisk, runtime: &Runtime) -> std::io::Result<Machine> {
    Machine::open(MachineOptions {
        runtime: runtime.clone(),
        table: open_table(disk),
        disk: Arc::new(disk.clone()) as Arc<dyn Disk>,
        metrics: Metrics::new(),
        orders_data: true,
        snapshot_bytes_per_s: 16 << 20,
    })
}

pub fn log_id(term: u64, index: u64) -> LogId {
    let leader = openraft::impls::leader_id_adv::LeaderId { term, node_id: NodeId(1) };
    LogId::new(leader, index)
}

pub fn blank(term: u64, index: u64) -> Entry {
    Entry { log_id: log_id(term, index), payload: EntryPayload::Blank }
}

pub fn entry(term: u64, index: u64, command: &Command) -> Entry {
    let payload = EntryPayload::Normal(Proposal::encode(command).expect("encodes"));
    Entry { log_id: log_id(term, index), payload }
}

pub fn key(text: &str) -> Key {
    Key::new(text, 1 << 10).expect("a key")
}

pub fn put(name: &str, value: impl Into<Vec<u8>>, condition: Option<Condition>) -> Write {
    let value = value.into().into();
    Write {
        key: key(name),
        change: Change::Put { value, content_type: None },
        condition,
        retry: None,
    }
}

pub fn delete(name: &str) -> Write {
    Write { key: key(name), change: Change::Delete, condition: None, retry: None }
}

pub fn session(origin: u16, boot: u64, sequence: u64, settled: u64) -> Session {
    Session { origin: NodeId(origin), boot, sequence, settled }
}

pub fn submission(session: Session, proposed_time: u64, writes: Vec<Write>) -> Submission {
    Submission { session, proposed_time, writes }
}

/// Appends, and waits until the entries are durable.
pub async fn append(store: &mut LogStore, entries: Vec<Entry>) -> std::io::Result<()> {
    append_later(store, entries).await?.await.expect("the callback is called")
}

/// Appends; what is given resolves once the entries are durable.
pub async fn append_later(
    store: &mut LogStore,
    entries: Vec<Entry>,
) -> std::io::Result<oneshot::Receiver<std::io::Result<()>>> {
    let (done, durable) = signal();
    store.append(entries, done).await?;
    Ok(durable)
}

fn signal() -> (IOFlushed<TypeConfig>, oneshot::Receiver<std::io::Result<()>>) {
    use openraft::type_config::TypeConfigExt;
    let (done, durable) = TypeConfig::oneshot();
    (IOFlushed::signal(done), durable)
}

/// All entries of the log.
pub async fn entries(store: &mut LogStore) -> Vec<Entry> {
    let mut reader = store.get_log_reader().await;
    reader.try_get_log_entries(..).await.expect("readable")
}

/// Only their log ids, as term and index.
pub async fn log_ids(store: &mut LogStore) -> Vec<(u64, u64)> {
    let ids = entries(store).await.into_iter().map(|entry| entry.log_id);
    ids.map(|id| (id.leader_id.term, id.index)).collect()
}

/// Something done before each batch is applied to a table.
pub struct Meddling {
    pub may_wait: bool,
    pub before_apply: Box<dyn Fn() -> Result<(), TableError> + Send + Sync>,
}

impl Hooks for Meddling {
    fn before_apply(&self, _: &TableBatch) -> Result<(), TableError> {
        (self.before_apply)()
    }

    fn may_wait(&self, _: bool) -> bool {
        self.may_wait
    }
}
