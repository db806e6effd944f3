//! One node, the whole cluster, in a thread of its own over a real directory.
//!
//! Its runtime is simulated, so that elections and timeouts take no real time and a seed repeats
//! itself; its files are real, and so is its table engine with the threads it has.

use std::future::Future;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use crate::config::{Engine, Settings};
use crate::error::{ReadError, StartError, WriteError};
use crate::node::{Links, Node, OpenTable, World};
use crate::peer::memory::MemoryNetwork;
use crate::replication::RequestOptions;
use crate::runtime::Runtime;
use crate::storage::disk::{Disk, RealDisk};
use crate::telemetry::Metrics;
use crate::types::{Change, Key, Mode, NodeId, Record, Version, Write};

/// What the node's wall clock says at its first start: 2025-01-01, in milliseconds since 1970.
const WALL_AT_START_MS: u64 = 1_735_689_600_000;

/// How much later each further start is, so that clocks never stand in the way.
const WALL_BETWEEN_STARTS_MS: u64 = 60_000;

/// How long a node may take to serve, in simulated time; an election takes less than one second.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a request may take, in simulated time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest key that the campaign uses, in bytes.
const MAX_KEY_BYTES: usize = 64;

/// Small, so that a short recording has many segments, in bytes.
const SEGMENT_BYTES: u64 = 48 << 10;

/// Entries kept behind a checkpoint: few, so that the log is cut.
const KEEP_ENTRIES: u64 = 4;

/// The settings of the campaign's node.
pub(super) fn settings(engine: Engine, mode: Mode, directory: &Path) -> Settings {
    let node = NodeId(1);
    let peers = [(node, "node1:8001".to_owned())].into();
    let mut settings = Settings::defaults(node, mode, peers);
    settings.engine = engine;
    settings.data_dir = directory.to_owned();
    settings.storage.log_segment_bytes = SEGMENT_BYTES;
    // The campaign says when a checkpoint is taken.
    settings.storage.checkpoint_log_bytes = 1 << 40;
    settings.storage.table_cache_bytes = 16 << 20;
    settings.leader.keep_entries = KEEP_ENTRIES;
    settings
}

/// How often a directory that is in use is tried again, and the pause between two tries. A program
/// that another thread starts holds on to the lock from its fork to its exec.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Opens a directory whose last node has ended.
pub(super) fn open_disk(directory: &Path) -> std::io::Result<Arc<dyn Disk>> {
    let mut tries = 1;
    loop {
        match RealDisk::open(directory) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && tries < LOCK_TRIES => {
                tries += 1;
                pause();
            }
            opened => return opened.map(|disk| Arc::new(disk) as Arc<dyn Disk>),
        }
    }
}

// Real time has to pass, and the world's clock is not real.
#[allow(clippy::disallowed_methods)]
fn pause() {
    std::thread::sleep(LOCK_PAUSE);
}

/// Runs `work` on a tokio runtime with a paused clock. Must not be called from within one.
pub(super) fn in_a_paused_world<F: Future>(work: F) -> anyhow::Result<F::Output> {
    let tokio =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    Ok(tokio.block_on(work))
}

/// Why there is no node.
pub(super) enum NoStart {
    Refused(StartError),
    Panicked(String),
}

/// A node that runs.
pub(super) struct Running {
    runtime: Runtime,
    node: Arc<Node>,
}

impl Running {
    /// Starts a node; `start` counts its starts on this directory.
    pub(super) async fn start(
        settings: Settings,
        disk: Arc<dyn Disk>,
        open_table: OpenTable,
        seed: u64,
        start: u64,
    ) -> Result<Running, NoStart> {
        let wall_ms = WALL_AT_START_MS + start * WALL_BETWEEN_STARTS_MS;
        let runtime = Runtime::simulated(seed.wrapping_add(start), wall_ms);
        let links = Links::Memory { network: MemoryNetwork::new(seed), faults: None };
        let metrics = Metrics::new();
        let world = World { runtime: runtime.clone(), disk, open_table, links, metrics };
        // As a task of the node's own, so that all it spawns belongs to it.
        match runtime.spawn(Node::start(settings, world)).await {
            Ok(Ok(node)) => Ok(Running { runtime, node }),
            Ok(Err(error)) => Err(NoStart::Refused(error)),
            Err(error) => {
                runtime.kill();
                Err(NoStart::Panicked(panic_text(error)))
            }
        }
    }

    /// Waits until the node serves; an error says why it does not.
    pub(super) async fn ready(&self) -> Result<(), String> {
        let deadline = self.runtime.now() + READY_WITHIN;
        loop {
            if let Some(reason) = self.node.failure() {
                return Err(reason);
            }
            match self.node.replicator().ready() {
                Ok(()) => return Ok(()),
                Err(reason) if self.runtime.now() >= deadline => return Err(reason),
                Err(_) => self.runtime.sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Why the node goes on no longer, where that is so.
    pub(super) fn failure(&self) -> Option<String> {
        self.node.failure()
    }

    /// Writes a value, or deletes where there is none.
    pub(super) async fn write(
        &self,
        key: &str,
        value: Option<bytes::Bytes>,
    ) -> anyhow::Result<Result<Version, WriteError>> {
        let change = match value {
            Some(value) => Change::Put { value, content_type: None },
            None => Change::Delete,
        };
        let write = Write { key: key_of(key)?, change, condition: None, retry: None };
        let (replicator, options) = (self.node.replicator(), self.options());
        let written = self.runtime.spawn(async move { replicator.write(write, options).await });
        let answer = written.await.map_err(|error| anyhow!(panic_text(error)))?;
        Ok(answer.map(|answer| answer.version))
    }

    /// Reads a key at the mode's default level.
    pub(super) async fn read(
        &self,
        key: &str,
    ) -> anyhow::Result<Result<Option<Record>, ReadError>> {
        let (key, replicator, options) = (key_of(key)?, self.node.replicator(), self.options());
        let read = self.runtime.spawn(async move { replicator.read(key, options).await });
        let answer = read.await.map_err(|error| anyhow!(panic_text(error)))?;
        Ok(answer.map(|answer| answer.record))
    }

    /// Takes a checkpoint and cuts the log.
    pub(super) async fn checkpoint(&self) -> anyhow::Result<()> {
        match self.node.replicator().checkpoint().await {
            Ok(()) => Ok(()),
            Err(reason) => bail!("no checkpoint: {reason}"),
        }
    }

    /// Stops the node in order.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let node = self.node.clone();
        let stopped = self.runtime.spawn(async move { node.stop().await });
        let deadline = self.runtime.now() + READY_WITHIN;
        let in_time = self.runtime.deadline(deadline, stopped).await;
        self.runtime.kill();
        in_time.context("the node does not stop")?.map_err(|error| anyhow!(panic_text(error)))
    }

    /// Ends the node as a kill does, but for what its table engine still writes as it closes.
    pub(super) fn kill(self) {
        self.runtime.kill();
    }

    fn options(&self) -> RequestOptions {
        RequestOptions {
            level: None,
            max_staleness: None,
            r: None,
            w: None,
            may_forward: false,
            deadline: self.runtime.now() + REQUEST_TIMEOUT,
        }
    }
}

fn key_of(key: &str) -> anyhow::Result<Key> {
    Key::new(key, MAX_KEY_BYTES).map_err(|error| anyhow!("'{key}' is no key: {error}"))
}

/// What a task panicked with.
fn panic_text(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "the task was ended".to_owned() };
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    format!("a panic: {}", text.unwrap_or_else(|| "without a text".to_owned()))
}
