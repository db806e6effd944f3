//! Leaderless mode: any node coordinates a quorum write; reads repair what they find stale.
//!
//! **Why it exists.** It is one of the two architectures that Quorate compares: no node is special,
//! a write needs W of the N replicas of its key, a read R, and nothing waits for an election.
//!
//! **Guarantees.** While the replicas that acknowledged a write keep their disks it is never lost:
//! later quorum reads return it or a higher version. A quorum read is answered once a write quorum
//! holds what it returns, so reads at `quorum` never go back. A write that is refused never shows up.
//! The newest version of a key wins at every replica, whatever order, and however often, its
//! records arrive in.
//!
//! **Does not guarantee** linearizability, whatever R and W are: a read beside an unfinished write
//! may return either, and a write through a node with a slow clock may be *superseded* by an older
//! one, which its client is told. No conditional writes: they need consensus.
//!
//! **How it is laid out.** [`layout`] says which nodes hold a key, `view` which do while that changes,
//! `assignment` which should, and `active` which layout a node goes by; `transfer` brings a node what a
//! change gives it, `departure` takes from it what it holds no longer. [`tally`],
//! [`resolve`] and `pages` decide purely; the `coordinator_*` files act; [`replica`] is what a node
//! does with the writes that it holds; `batcher` and `gather` carry requests there and answers back
//! without a task a request. `hints` keeps what a replica missed until it is back; `anti_entropy` compares replicas by
//! their hash `trees` and brings each what it lacks; `collection` raises the `horizons` that let deletions be
//! dropped. The control plane's Raft group decides about the
//! layout and the members beside all this; no read or write waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::HybridClock;
use crate::config::{LeaderlessSettings, ReadRepair, Settings};
use crate::error::{Refusal, StartError};
use crate::peer::SharedTransport;
use crate::planted::{self, Bug};
use crate::runtime::pace::Pace;
use crate::runtime::{Runtime, Task};
use crate::storage::log::{CommitLog, LogUser, Position};
use crate::storage::table::Table;
use crate::telemetry::Metrics;
use crate::types::{FOUNDING_EPOCH, Key, LayoutState, NodeId, Partition, Version};

mod active;
mod anti_entropy;
mod assignment;
mod batcher;
mod ceiling;
mod collection;
mod compare;
mod comparison;
mod control;
mod coordinator_list;
mod coordinator_read;
mod coordinator_write;
mod departure;
mod explain;
mod gather;
mod hash_tree;
mod hint_sender;
mod hints;
pub mod horizons;
mod latency;
pub mod layout;
mod merge;
mod messages;
mod pages;
mod peers;
mod planning;
mod quorums;
mod repair;
mod replay;
pub mod replica;
mod replicator;
pub mod resolve;
mod serve;
mod settle;
mod stragglers;
mod submissions;
mod sweep;
pub mod tally;
mod transfer;
mod trees;
mod view;

pub use control::ControlPlane;
pub use replay::{Recovered, ReplicaReplay};

use active::Active;
use ceiling::Ceiling;
use hints::Hints;
use horizons::Horizons;
use messages::Found;
use peers::Peers;
use repair::Repairs;
use replica::Replica;
use stragglers::Stragglers;
use transfer::Progress;
use trees::Trees;

/// Where a log begins that was never cut.
const FIRST_POSITION: Position = Position(1);

/// How long a stopping node waits for the replica writes that finish in the background.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a stopping node looks whether they have.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// What leaderless mode needs on a node.
pub struct LeaderlessOptions {
    pub runtime: Runtime,
    pub settings: Settings,
    /// Whether this node is of those that the cluster was founded by.
    pub founds: bool,
    pub log: Arc<CommitLog>,
    /// The table that `recovered` was replayed into.
    pub table: Arc<dyn Table>,
    pub recovered: Recovered,
    pub transport: SharedTransport,
    pub control: Arc<dyn ControlPlane>,
    pub metrics: Metrics,
}

/// Leaderless mode on one node.
pub struct Leaderless {
    core: Arc<Core>,
    all: Settings,
    founds: bool,
    /// What brings replicas what they lack, and follows the layout.
    background: Vec<Task<()>>,
    /// Writes hints to the table.
    hint_keeper: Task<()>,
}

/// What coordinating and serving need, shared with what runs in the background.
struct Core {
    runtime: Runtime,
    node: NodeId,
    settings: LeaderlessSettings,
    /// Of the nodes that the settings name.
    peer_addresses: BTreeMap<NodeId, String>,
    control: Arc<dyn ControlPlane>,
    log: Arc<CommitLog>,
    active: Active,
    /// How far this node is with the step under way of a change of the layout.
    progress: Mutex<Option<Progress>>,
    table: Arc<dyn Table>,
    replica: Replica,
    trees: Arc<Trees>,
    horizons: Arc<Horizons>,
    hints: Arc<Hints>,
    repairs: Repairs,
    /// Of all that this node writes to others so that they become equal.
    repair_pace: Mutex<Pace>,
    ceiling: Ceiling,
    peers: Peers,
    transport: SharedTransport,
    stragglers: Arc<Stragglers>,
    late_checks: AtomicUsize,
    /// The latest time that expiry was judged by.
    expiry_judged_ms: AtomicU64,
    /// Pages of rows being read for peers.
    pages_served: AtomicUsize,
    stopping: AtomicBool,
    metrics: Metrics,
}

impl Leaderless {
    /// Starts the replica and the coordinator over a log that was replayed.
    pub fn start(options: LeaderlessOptions) -> Result<Leaderless, StartError> {
        let LeaderlessOptions { runtime, settings, log, table, recovered, .. } = options;
        if recovered.applied.is_some_and(|applied| applied >= log.end()) {
            return Err(StartError::DataDirectory(
                "the table has writes that the commit log does not have: the log's files were \
                 removed or replaced; restore this node's data directory from a copy, or replace \
                 the node"
                    .to_owned(),
            ));
        }
        check_table_reaches_log(&*table, &log)?;
        let node = settings.node_id;
        let metrics = options.metrics;
        let max_drift_ms = settings.leaderless.max_clock_drift.as_millis() as u64;
        let stored_ms = recovered.ceiling_ms;
        let clock = HybridClock::below_ceiling(runtime.clone(), node, max_drift_ms, stored_ms);
        let max_stragglers = settings.leaderless.max_stragglers;
        let active = Active::new(
            recovered.layout.or_else(|| options.founds.then(|| founding_layout(&settings))),
        );
        let view = active.view();
        let trees = Arc::new(Trees::new(view.held_by(node)));
        let limit_bytes = settings.leaderless.hint_bytes;
        let horizons = Arc::new(
            Horizons::load(&*table)
                .map_err(|error| StartError::DataDirectory(error.to_string()))?,
        );
        let hints = Hints::open(table.clone(), metrics.clone(), limit_bytes)
            .map_err(|error| StartError::DataDirectory(error.to_string()))?;
        let others = view.nodes.iter().copied().filter(|id| *id != node);
        let pace = Pace::new(settings.leaderless.repair_bytes_per_s, runtime.now());
        let core = Core {
            node,
            active,
            progress: Mutex::default(),
            replica: Replica::start(
                &runtime,
                table.clone(),
                trees.clone(),
                horizons.clone(),
                log.clone(),
                metrics.clone(),
            ),
            trees,
            horizons,
            hints: Arc::new(hints),
            repairs: Repairs::default(),
            repair_pace: Mutex::new(pace),
            ceiling: Ceiling::new(runtime.clone(), log.clone(), clock, stored_ms),
            peers: Peers::new(&runtime, &options.transport, others),
            stragglers: Arc::new(Stragglers::new(max_stragglers, metrics.clone())),
            late_checks: AtomicUsize::new(0),
            expiry_judged_ms: AtomicU64::new(0),
            pages_served: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            settings: settings.leaderless.clone(),
            peer_addresses: settings.peers.clone(),
            transport: options.transport,
            control: options.control,
            log,
            runtime,
            table,
            metrics,
        };
        let core = Arc::new(core);
        let (background, hint_keeper) = start_background(&core);
        Ok(Leaderless { core, all: settings, founds: options.founds, background, hint_keeper })
    }

    async fn checkpoint(&self) -> Result<(), String> {
        let core = &self.core;
        // Before the checkpoint, so that what lies before it is in the checkpoint.
        let mut merged_up_to = core.replica.merged_up_to();
        if planted::is(Bug::CheckpointCutsTooFar) {
            merged_up_to = core.log.end();
        }
        let table = core.table.clone();
        let done = core.runtime.blocking(move || {
            // In the table before the log is cut there, so that an older table is told from it.
            table.apply(merge::released_batch(merged_up_to))?;
            table.checkpoint()
        });
        done.await.map_err(|error| error.to_string())?;
        core.metrics.checkpoints.inc();
        core.ceiling.store_again().await.map_err(|error| error.to_string())?;
        core.store_layout_again().await.map_err(|error| error.to_string())?;
        let log = core.log.clone();
        let released =
            core.runtime.blocking(move || log.release(LogUser::Replica, merged_up_to)).await;
        released.map_err(|error| error.to_string())?;
        core.control.compact().await
    }

    async fn shutdown(&self) {
        let core = &self.core;
        core.stopping.store(true, Ordering::Release);
        self.background.iter().for_each(Task::abort);
        let give_up_at = core.runtime.now() + DRAIN_TIMEOUT;
        while core.stragglers.count() > 0 && core.runtime.now() < give_up_at {
            core.runtime.sleep(DRAIN_POLL).await;
        }
        // The last ones that failed were noted by now.
        self.hint_keeper.abort();
        if let Err(error) = core.hints.flush().await {
            tracing::error!(%error, "the last hints could not be kept");
        }
        core.replica.close().await;
    }
}

impl Drop for Leaderless {
    fn drop(&mut self) {
        self.background.iter().chain([&self.hint_keeper]).for_each(Task::abort);
    }
}

/// The layout of a new cluster, which its founders work out by themselves.
fn founding_layout(settings: &Settings) -> LayoutState {
    let nodes = settings.peers.keys().copied();
    LayoutState::standing(FOUNDING_EPOCH, layout::founding(nodes, &settings.leaderless))
}

/// Starts what brings replicas what they lack, what follows the layout, and what keeps hints.
fn start_background(core: &Arc<Core>) -> (Vec<Task<()>>, Task<()>) {
    let (keeps, sends, follows, departs) = (core.clone(), core.clone(), core.clone(), core.clone());
    let keeper = core.runtime.spawn(async move {
        let error = keeps.hints.keep().await;
        keeps.replica.fail(error.to_string());
    });
    let sender = core.runtime.spawn(async move {
        let error = hint_sender::run(sends.clone()).await;
        sends.replica.fail(error.to_string());
    });
    let follower = core.runtime.spawn(async move {
        let error = follows.clone().follow_layout().await;
        follows.replica.fail(error.to_string());
    });
    let departure = core.runtime.spawn(async move {
        let error = departure::run(departs.clone()).await;
        departs.replica.fail(error.to_string());
    });
    let comparer = core.runtime.spawn(anti_entropy::run(core.clone()));
    let transfer = core.runtime.spawn(transfer::run(core.clone()));
    let collector = core.runtime.spawn(collection::run(core.clone()));
    (vec![sender, follower, departure, comparer, transfer, collector], keeper)
}

/// Refuses a table that lacks writes which were cut from the log: it is another, or an older copy.
fn check_table_reaches_log(table: &dyn Table, log: &CommitLog) -> Result<(), StartError> {
    let released = merge::released_position(table)
        .map_err(|error| StartError::DataDirectory(error.to_string()))?;
    match released {
        // A log that was never cut still has everything.
        None if log.start() <= FIRST_POSITION => Ok(()),
        Some(released) if log.start() <= released => Ok(()),
        _ => Err(StartError::DataDirectory(
            "the commit log begins after what the table holds: the table's files were removed, or \
             replaced by older ones; restore this node's data directory whole from a copy, or \
             replace the node"
                .to_owned(),
        )),
    }
}

impl Core {
    /// Refuses where this node stops, or its storage failed.
    fn check_running(&self) -> Result<(), Refusal> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Refusal::NotReady { detail: "it stops".to_owned() });
        }
        if self.view().state().is_none() {
            let detail = "it joins, and was not told yet which nodes hold which partitions";
            return Err(Refusal::NotReady { detail: detail.to_owned() });
        }
        self.replica.failure().map_or(Ok(()), |detail| Err(Refusal::Storage { detail }))
    }

    fn ready(&self) -> Result<(), String> {
        self.check_running().map_err(|refusal| refusal.to_string())?;
        let view = self.view();
        let up: BTreeMap<NodeId, bool> =
            view.nodes.iter().map(|node| (*node, self.is_up(*node))).collect();
        let reached = |replicas: &[NodeId]| {
            replicas.iter().filter(|node| up.get(node).copied().unwrap_or(false)).count()
        };
        let usual = view.usual();
        let needed = usize::from(usual.r.max(usual.w));
        let sets = Partition::all().flat_map(|partition| view.write_sets(partition).iter());
        // A set may have fewer than are usual, where there are fewer nodes.
        let short = sets.map(|set| (reached(set), needed.min(set.len()))).find(|(up, n)| up < n);
        let Some((least, needed)) = short else { return Ok(()) };
        let away: Vec<String> =
            up.iter().filter(|(_, up)| !**up).map(|(node, _)| node.to_string()).collect();
        Err(format!(
            "some keys have {least} of the {needed} replicas needed: not connected to node {}",
            away.join(", ")
        ))
    }

    /// Whether a node can be written to, as far as is known.
    fn is_up(&self, node: NodeId) -> bool {
        node == self.node || self.peers.is_connected(node)
    }

    /// Whether reads repair what they find, before or after they are answered.
    fn repairs(&self) -> bool {
        self.settings.read_repair != ReadRepair::Off
    }

    /// Takes in a version seen at a replica, so that this node's next ones are above it.
    fn observe(&self, version: Version) {
        if !self.ceiling.observe(version) {
            self.metrics.clock_drift_ignored.inc();
        }
    }

    fn read_own(&self, key: &Key) -> Result<Found, Refusal> {
        let read = self.replica.read(key);
        read.map_err(|error| Refusal::Storage { detail: error.to_string() })
    }

    /// The replicas in the order in which reads ask them, from the back: this node first, then
    /// those that answer quickest.
    fn slowest_first(&self, replicas: &[NodeId]) -> Vec<NodeId> {
        let rank = |node: &NodeId| match *node == self.node {
            true => (false, Default::default()),
            false => (true, self.peers.read_rank(*node)),
        };
        let mut ranked: Vec<_> = replicas.iter().map(|node| (rank(node), *node)).collect();
        ranked.sort_by(|one, other| other.cmp(one));
        ranked.into_iter().map(|(_, node)| node).collect()
    }
}

#[cfg(test)]
mod tests;
