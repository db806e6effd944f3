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
//! **How it is laid out.** [`layout`] says which nodes hold a key, `assignment` which should. [`tally`],
//! [`resolve`] and `pages` decide purely; the `coordinator_*` files act; [`replica`] is what a node
//! does with the writes that it holds; `batcher` and `gather` carry requests there and answers back
//! without a task a request. `hints` keeps what a replica missed until it is back; `anti_entropy` compares replicas by
//! their hash `trees` and brings each what it lacks. The control plane's Raft group runs beside all
//! this; no read or write waits for it.
//!
//! **Deliberately absent, so far:** membership changes, collection of tombstones and of what expired.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;

use super::explain::Explanation;
use super::layout::{LayoutPlan, LayoutStatus, Share};
use super::repair::RepairStatus;
use super::{
    ClusterStatus, List, ListAnswer, Member, ReadAnswer, Replicator, RequestOptions, Standing,
    WriteAnswer,
};
use crate::clock::HybridClock;
use crate::config::{LeaderlessSettings, ReadRepair, Settings};
use crate::consensus::{Consensus, ConsensusStatus};
use crate::error::{ReadError, Refusal, StartError, WriteError};
use crate::peer::{Inbound, SharedTransport};
use crate::planted::{self, Bug};
use crate::runtime::pace::Pace;
use crate::runtime::{Runtime, Task};
use crate::storage::log::{CommitLog, LogUser, Position};
use crate::storage::table::Table;
use crate::telemetry::Metrics;
use crate::types::{Key, Mode, NodeId, Partition, Version, Write};

mod anti_entropy;
mod assignment;
mod batcher;
mod ceiling;
mod compare;
mod comparison;
mod coordinator_list;
mod coordinator_read;
mod coordinator_write;
mod explain;
mod gather;
mod hash_tree;
mod hint_sender;
mod hints;
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
pub mod resolve;
mod serve;
mod stragglers;
pub mod tally;
mod trees;

pub use replay::{Recovered, ReplicaReplay};

use ceiling::Ceiling;
use hints::Hints;
use layout::{Layout, STATIC_EPOCH};
use peers::Peers;
use repair::Repairs;
use replica::Replica;
use stragglers::Stragglers;
use trees::Trees;

/// Where a log begins that was never cut.
const FIRST_POSITION: Position = Position(1);

/// How long the control plane's log may take to be cut at a checkpoint.
const COMPACT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a stopping node waits for the replica writes that finish in the background.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a stopping node looks whether they have.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// What leaderless mode needs of the control plane. The data path never touches it.
pub trait ControlPlane: Send + Sync + 'static {
    /// The group as this node sees it.
    fn status(&self) -> ConsensusStatus;
    /// Lets the group release the log that it needs no more; the table was made durable before.
    fn compact(&self) -> BoxFuture<'_, Result<(), String>>;
}

impl ControlPlane for Consensus {
    fn status(&self) -> ConsensusStatus {
        Consensus::status(self)
    }

    fn compact(&self) -> BoxFuture<'_, Result<(), String>> {
        Consensus::release_log(self, COMPACT_TIMEOUT).boxed()
    }
}

/// What leaderless mode needs on a node.
pub struct LeaderlessOptions {
    pub runtime: Runtime,
    pub settings: Settings,
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
    control: Arc<dyn ControlPlane>,
    log: Arc<CommitLog>,
    /// Sends hints, and compares.
    background: [Task<()>; 2],
    /// Writes hints to the table.
    hint_keeper: Task<()>,
}

/// What coordinating and serving need, shared with what runs in the background.
struct Core {
    runtime: Runtime,
    node: NodeId,
    nodes: Vec<NodeId>,
    settings: LeaderlessSettings,
    layout: Layout,
    table: Arc<dyn Table>,
    replica: Replica,
    trees: Arc<Trees>,
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
        let nodes: Vec<NodeId> = settings.peers.keys().copied().collect();
        let metrics = options.metrics;
        let max_drift_ms = settings.leaderless.max_clock_drift.as_millis() as u64;
        let stored_ms = recovered.ceiling_ms;
        let clock = HybridClock::below_ceiling(runtime.clone(), node, max_drift_ms, stored_ms);
        let max_stragglers = settings.leaderless.max_stragglers;
        let layout = Layout::new(nodes.iter().copied(), settings.leaderless.replicas);
        let held = Partition::all().filter(|partition| layout.holds(node, *partition));
        let trees = Arc::new(Trees::new(held));
        let limit_bytes = settings.leaderless.hint_bytes;
        let hints = Hints::open(table.clone(), metrics.clone(), limit_bytes)
            .map_err(|error| StartError::DataDirectory(error.to_string()))?;
        let others = nodes.iter().copied().filter(|id| *id != node);
        let pace = Pace::new(settings.leaderless.repair_bytes_per_s, runtime.now());
        let core = Core {
            node,
            layout,
            replica: Replica::start(
                &runtime,
                table.clone(),
                trees.clone(),
                log.clone(),
                metrics.clone(),
            ),
            trees,
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
            transport: options.transport,
            nodes,
            runtime,
            table,
            metrics,
        };
        let core = Arc::new(core);
        let (background, hint_keeper) = start_background(&core);
        let control = options.control;
        Ok(Leaderless { core, all: settings, control, log, background, hint_keeper })
    }

    async fn checkpoint(&self) -> Result<(), String> {
        let core = &self.core;
        // Before the checkpoint, so that what lies before it is in the checkpoint.
        let mut merged_up_to = core.replica.merged_up_to();
        if planted::is(Bug::CheckpointCutsTooFar) {
            merged_up_to = self.log.end();
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
        let log = self.log.clone();
        let released =
            core.runtime.blocking(move || log.release(LogUser::Replica, merged_up_to)).await;
        released.map_err(|error| error.to_string())?;
        self.control.compact().await
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

    fn members(&self) -> Vec<Member> {
        let member = |(id, peer_address): (&NodeId, &String)| {
            let own = *id == self.core.node;
            let peer = self.core.transport.peer(*id).unwrap_or_default();
            let standing = if own { Standing::Normal } else { Standing::of(&peer) };
            Member {
                id: *id,
                peer_address: peer_address.clone(),
                client_address: match own {
                    true => Some(self.all.advertise.clone()),
                    false => peer.client_address,
                },
                role: "replica",
                standing,
            }
        };
        self.all.peers.iter().map(member).collect()
    }
}

impl Drop for Leaderless {
    fn drop(&mut self) {
        self.background.iter().chain([&self.hint_keeper]).for_each(Task::abort);
    }
}

impl Replicator for Leaderless {
    fn read(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<ReadAnswer, ReadError>> {
        self.core.read(key, options).boxed()
    }

    fn write(
        &self,
        write: Write,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<WriteAnswer, WriteError>> {
        self.core.write(write, options).boxed()
    }

    fn list(
        &self,
        list: List,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<ListAnswer, ReadError>> {
        self.core.list(list, options).boxed()
    }

    fn explain(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<Explanation, ReadError>> {
        self.core.explain(key, options).boxed()
    }

    fn status(&self) -> ClusterStatus {
        let group = self.control.status();
        ClusterStatus {
            cluster: group.cluster,
            mode: Mode::Leaderless,
            epoch: STATIC_EPOCH,
            node: self.core.node,
            leader: group.leader,
            fixed_leader: None,
            term: group.term,
            members: self.members(),
            removed: Vec::new(),
            applied_index: group.applied_index,
        }
    }

    fn layout(&self) -> Result<LayoutStatus, Refusal> {
        Ok(self.core.layout_status())
    }

    fn plan_layout(
        &self,
        nodes: BTreeMap<NodeId, Share>,
    ) -> BoxFuture<'_, Result<LayoutPlan, Refusal>> {
        self.core.plan(nodes).boxed()
    }

    fn start_repair(&self) -> Result<RepairStatus, Refusal> {
        self.core.check_running()?;
        let others = self.core.nodes.iter().copied().filter(|node| *node != self.core.node);
        Ok(self.core.repairs.start(others))
    }

    fn repair_status(&self) -> Result<RepairStatus, Refusal> {
        Ok(self.core.repairs.status())
    }

    fn ready(&self) -> Result<(), String> {
        self.core.ready()
    }

    fn handle(&self, inbound: Inbound) {
        self.core.serve(inbound);
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), String>> {
        Leaderless::checkpoint(self).boxed()
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        self.core.replica.failed().boxed()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Leaderless::shutdown(self).boxed()
    }
}

/// Starts what brings replicas what they lack, and what keeps hints.
fn start_background(core: &Arc<Core>) -> ([Task<()>; 2], Task<()>) {
    let (keeps, sends) = (core.clone(), core.clone());
    let keeper = core.runtime.spawn(async move {
        let error = keeps.hints.keep().await;
        keeps.replica.fail(error.to_string());
    });
    let sender = core.runtime.spawn(async move {
        let error = hint_sender::run(sends.clone()).await;
        sends.replica.fail(error.to_string());
    });
    ([sender, core.runtime.spawn(anti_entropy::run(core.clone()))], keeper)
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
        self.replica.failure().map_or(Ok(()), |detail| Err(Refusal::Storage { detail }))
    }

    fn ready(&self) -> Result<(), String> {
        self.check_running().map_err(|refusal| refusal.to_string())?;
        let up: BTreeMap<NodeId, bool> =
            self.nodes.iter().map(|node| (*node, self.is_up(*node))).collect();
        let reached = |replicas: &[NodeId]| {
            replicas.iter().filter(|node| up.get(node).copied().unwrap_or(false)).count()
        };
        let needed = self.settings.read_quorum.max(self.settings.write_quorum);
        let least = self.layout.partitions().map(reached).min().unwrap_or(0);
        if least >= usize::from(needed) {
            return Ok(());
        }
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

    fn read_own(&self, key: &Key) -> Result<Option<Bytes>, Refusal> {
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
