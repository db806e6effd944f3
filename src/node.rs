//! A node: put together, started and stopped in order.
//!
//! **Why it exists.** A real process and a simulated node run the same code over different worlds:
//! a [`World`] brings the runtime, the disk, the table and the links, and [`Node::start`] does the
//! rest. What serves clients (`api`) is put on top by whoever starts the node.
//!
//! **Order.** Identity before everything, since it refuses a directory that is not this node's; the
//! table before the log, since the log replays over it; the log before consensus and replication,
//! which take what it replayed; links last, so that no peer is answered before the node knows what
//! it promised.
//!
//! **Guarantees.** A node whose log, table or consensus fails stops ([`Node::failed`]): it never goes
//! on after a failed sync. [`Node::stop`] finishes what is under way and takes a checkpoint, so that
//! the next start has little to replay; a crash instead loses nothing that was acknowledged.

mod directory;
mod greeter;
mod members;
mod storage;
mod watched_table;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use directory::{MEMORY_TABLE_FILE, TABLE_DIRECTORY};
use directory::{open_directory, within_directory};
use greeter::{NodeGreeter, NodeHandler};
use members::MemberLinks;
use storage::open_storage;

use crate::config::{Engine, Settings};
use crate::consensus::{Consensus, ConsensusOptions, RaftReplay};
use crate::error::StartError;
use crate::peer::fault::{FaultPlan, FaultyTransport};
use crate::peer::memory::MemoryNetwork;
use crate::peer::tcp::{TcpOptions, TcpTransport};
use crate::peer::{PeerHandler, SharedTransport};
use crate::replication::{self, Replicator, ReplicatorParts};
use crate::runtime::Runtime;
use crate::runtime::watch;
use crate::storage::disk::Disk;
use crate::storage::identity::{Identity, PinnedLayout};
use crate::storage::log::{CommitLog, LogError, Position};
use crate::storage::table::{FjallTable, MemoryTable, SledTable, Table, TableError, WriteBehind};
use crate::telemetry::Metrics;
use crate::types::{Mode, NodeId};

/// How often a node looks whether its log has grown enough for a checkpoint.
const CHECKPOINT_CHECK_EVERY: Duration = Duration::from_millis(250);

/// How often a node looks whether the control plane has named the cluster.
const CLUSTER_NAME_CHECK_EVERY: Duration = Duration::from_millis(100);

/// How long a node that is told to stop tries to hand leadership over: about what the election costs
/// that follows where it cannot.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the checkpoint of a node that stops may take before it is left to the next start.
const LAST_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the table; called once the identity of the directory is known to be right.
pub type OpenTable = Box<dyn FnOnce() -> Result<Arc<dyn Table>, TableError> + Send>;

/// What a node runs in.
pub struct World {
    pub runtime: Runtime,
    pub disk: Arc<dyn Disk>,
    pub open_table: OpenTable,
    pub links: Links,
    pub metrics: Metrics,
}

/// What carries messages between nodes.
pub enum Links {
    /// TCP, to the addresses in the settings.
    Tcp,
    /// Wires in memory, with the faults of a plan where there is one.
    Memory { network: MemoryNetwork, faults: Option<FaultPlan> },
}

impl World {
    /// The real world, for a process: the directory in the settings, and TCP.
    pub fn real(settings: &Settings) -> Result<World, StartError> {
        let disk: Arc<dyn Disk> = Arc::new(open_directory(&settings.data_dir)?);
        Ok(World {
            runtime: Runtime::real_with_wall_offset(settings.testing.wall_clock_offset_ms),
            open_table: World::table_of(settings, disk.clone()),
            disk,
            links: Links::Tcp,
            metrics: Metrics::new(),
        })
    }

    /// What opens the table of the engine in the settings: under the data directory, or, where the
    /// engine writes through the seam, on `disk`.
    pub fn table_of(settings: &Settings, disk: Arc<dyn Disk>) -> OpenTable {
        let storage = settings.storage.clone();
        let table_dir = settings.data_dir.join(TABLE_DIRECTORY);
        let engine = settings.engine;
        Box::new(move || match engine {
            Engine::Sled => {
                let (cache, overlay) = (storage.table_cache_bytes, storage.view_overlay_bytes);
                let sled = SledTable::open(&table_dir, cache, overlay)?;
                Ok(Arc::new(WriteBehind::new(sled)?) as Arc<dyn Table>)
            }
            Engine::Fjall => {
                let fjall = FjallTable::open(&table_dir, storage.table_cache_bytes)?;
                Ok(Arc::new(WriteBehind::new(fjall)?))
            }
            Engine::Memory => Ok(Arc::new(MemoryTable::open(disk, MEMORY_TABLE_FILE)?)),
        })
    }
}

/// A running node. Share it in an `Arc`.
pub struct Node {
    settings: Settings,
    runtime: Runtime,
    metrics: Metrics,
    log: Arc<CommitLog>,
    consensus: Arc<Consensus>,
    replicator: Arc<dyn Replicator>,
    tcp: Option<Arc<TcpTransport>>,
    identity: Arc<Identity>,
    failed: watch::Sender<Option<String>>,
}

impl Node {
    /// Starts a node; returns once it takes requests, not once it can answer them all.
    pub async fn start(settings: Settings, world: World) -> Result<Arc<Node>, StartError> {
        let World { runtime, disk, open_table, links, metrics } = world;
        let (identity, layout) = open_identity(&settings, &runtime, disk.clone())?;
        let failed = watch::Sender::new(None);
        let greeter = Arc::new(NodeGreeter {
            identity: identity.clone(),
            settings: settings.clone(),
            layout,
            members: OnceLock::new(),
            failed: failed.clone(),
        });
        let (transport, links) =
            make_links(&settings, &runtime, &metrics, greeter.clone(), links).await?;
        let opened =
            open_storage(&settings, &runtime, &metrics, &disk, open_table, &identity, &failed)?;
        let consensus = start_consensus(
            &settings,
            &runtime,
            &metrics,
            &identity,
            &disk,
            &transport,
            &opened.log,
            &opened.table,
            opened.raft,
        )
        .await?;
        // Nobody is listened to before `serve`, so it is never set twice or missed.
        let _ = greeter.members.set(consensus.watch_members());
        let following = MemberLinks {
            node: settings.node_id,
            members: consensus.watch_members(),
            transport: transport.clone(),
            identity: identity.clone(),
            failed: failed.clone(),
        };
        let replicator = replication::build(ReplicatorParts {
            runtime: runtime.clone(),
            settings: settings.clone(),
            boot: identity.boot(),
            founds: identity.founding_layout().is_some(),
            log: opened.log.clone(),
            table: opened.table,
            transport,
            consensus: consensus.clone(),
            recovered: opened.replica,
            metrics: metrics.clone(),
        })?;
        let handler: Arc<dyn PeerHandler> =
            Arc::new(NodeHandler { consensus: consensus.clone(), replicator: replicator.clone() });
        let tcp = links.serve(settings.node_id, handler);
        runtime.spawn(following.follow(runtime.clone()));
        let log = opened.log;
        let node = Arc::new(Node {
            settings,
            runtime,
            metrics,
            log,
            consensus,
            replicator,
            tcp,
            identity,
            failed,
        });
        node.watch_over();
        Ok(node)
    }

    /// What serves reads and writes.
    pub fn replicator(&self) -> Arc<dyn Replicator> {
        self.replicator.clone()
    }

    /// The settings the node was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The node's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Who the node's data directory belongs to.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The node's commit log.
    pub fn log(&self) -> &Arc<CommitLog> {
        &self.log
    }

    /// The node's runtime.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Waits until the node can go on no longer, and says why.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        loop {
            if let Some(reason) = failed.borrow_and_update().clone() {
                return reason;
            }
            if failed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Why the node can go on no longer, once that is so; as it changes.
    pub fn watch_failure(&self) -> watch::Receiver<Option<String>> {
        self.failed.subscribe()
    }

    /// Why the node can go on no longer, once that is so.
    pub fn failure(&self) -> Option<String> {
        self.failed.borrow().clone()
    }

    /// Makes ready to stop while still serving: where this node leads, another takes over. To be
    /// called before [`Node::stop`] and before clients are turned away, so that none of them waits
    /// for an election.
    pub async fn hand_over(&self) {
        if self.failure().is_none() {
            self.consensus.hand_over(HAND_OVER_TIMEOUT).await;
        }
    }

    /// Stops the node in order, with a last checkpoint.
    pub async fn stop(&self) {
        self.replicator.shutdown().await;
        self.take_last_checkpoint().await;
        self.consensus.shutdown().await;
        if let Some(tcp) = &self.tcp {
            tcp.close().await;
        }
        self.log.close().await;
    }

    async fn take_last_checkpoint(&self) {
        if self.failure().is_some() {
            // Where a sync failed, another would say nothing about what that one was to write.
            return;
        }
        let deadline = self.runtime.now() + LAST_CHECKPOINT_TIMEOUT;
        match self.runtime.deadline(deadline, self.replicator.checkpoint()).await {
            Some(Ok(())) => {}
            Some(Err(reason)) => tracing::warn!(reason, "no checkpoint at the end"),
            None => tracing::warn!("the checkpoint at the end took too long"),
        }
    }

    /// Starts what watches the node from beside: failures, checkpoints, the cluster's name.
    fn watch_over(self: &Arc<Self>) {
        let (log, failed) = (self.log.clone(), self.failed.clone());
        self.runtime.spawn(async move {
            let error: LogError = log.failed().await;
            fail(&failed, error.to_string());
        });
        let (consensus, failed) = (self.consensus.clone(), self.failed.clone());
        self.runtime.spawn(async move {
            let reason = consensus.stopped().await;
            fail(&failed, format!("consensus stopped: {reason}"));
        });
        let (replicator, failed) = (self.replicator.clone(), self.failed.clone());
        self.runtime.spawn(async move {
            let reason = replicator.failed().await;
            fail(&failed, reason);
        });
        let node = Arc::downgrade(self);
        let runtime = self.runtime.clone();
        self.runtime.spawn(async move {
            let mut checkpointed_at = Position::default();
            loop {
                runtime.sleep(CHECKPOINT_CHECK_EVERY).await;
                let Some(node) = node.upgrade() else { return };
                checkpointed_at = node.checkpoint_if_due(checkpointed_at).await;
            }
        });
        let node = Arc::downgrade(self);
        let runtime = self.runtime.clone();
        self.runtime.spawn(async move {
            loop {
                let Some(node) = node.upgrade() else { return };
                if node.join_cluster_once_named() {
                    return;
                }
                drop(node);
                runtime.sleep(CLUSTER_NAME_CHECK_EVERY).await;
            }
        });
    }

    /// Takes a checkpoint where the log has grown enough since the last one, which ended the log
    /// at `last`; gives the end of the log at the newest.
    async fn checkpoint_if_due(&self, last: Position) -> Position {
        let last = last.max(self.log.start());
        let end = self.log.end();
        if end.0.saturating_sub(last.0) < self.settings.storage.checkpoint_log_bytes {
            return last;
        }
        match self.replicator.checkpoint().await {
            Ok(()) => end,
            // Where the table failed, the node stops; anything else may pass.
            Err(reason) => {
                tracing::warn!(reason, "no checkpoint; it is tried again");
                last
            }
        }
    }

    /// Remembers the cluster's name once the control plane knows it; true once that is done.
    fn join_cluster_once_named(&self) -> bool {
        let Some(cluster) = self.consensus.status().cluster else { return false };
        if let Err(error) = self.identity.join_cluster(cluster) {
            fail(&self.failed, error.to_string());
        }
        true
    }
}

/// Opens the identity of the data directory; gives the digest of what its cluster was founded with too, or 0
/// for a node that joined.
fn open_identity(
    settings: &Settings,
    runtime: &Runtime,
    disk: Arc<dyn Disk>,
) -> Result<(Arc<Identity>, u64), StartError> {
    let layout = PinnedLayout::new(settings.peers.keys().copied(), &settings.leaderless);
    // In leader mode every node has every key; one that joins is told, and works nothing out by itself.
    let founds = settings.mode == Mode::Leaderless && settings.joins.is_none();
    let identity = Identity::open(
        disk,
        runtime,
        settings.node_id,
        settings.mode,
        settings.engine.as_str(),
        founds.then_some(layout),
    );
    let identity = identity.map_err(|error| within_directory(error, settings))?;
    let digest = identity.founding_layout().map_or(0, |layout| layout.digest());
    Ok((Arc::new(identity), digest))
}

fn fail(failed: &watch::Sender<Option<String>>, reason: String) {
    failed.send_if_modified(|known| {
        let first = known.is_none();
        if first {
            tracing::error!(reason, "this node stops");
            *known = Some(reason);
        }
        first
    });
}

/// Links that were made but carry nothing yet.
enum MadeLinks {
    Tcp(Arc<TcpTransport>),
    Memory(MemoryNetwork),
}

impl MadeLinks {
    fn serve(self, node: NodeId, handler: Arc<dyn PeerHandler>) -> Option<Arc<TcpTransport>> {
        match self {
            MadeLinks::Tcp(tcp) => {
                tcp.serve(handler);
                Some(tcp)
            }
            MadeLinks::Memory(network) => {
                network.serve(node, handler);
                None
            }
        }
    }
}

async fn make_links(
    settings: &Settings,
    runtime: &Runtime,
    metrics: &Metrics,
    greeter: Arc<NodeGreeter>,
    links: Links,
) -> Result<(SharedTransport, MadeLinks), StartError> {
    let (node, runtime, metrics) = (settings.node_id, runtime.clone(), metrics.clone());
    match links {
        Links::Tcp => {
            let (listen, peers) = (settings.peer_listen.clone(), settings.peers.clone());
            let options = TcpOptions { runtime, node, listen, peers, greeter, metrics };
            let tcp = TcpTransport::bind(options).await?;
            Ok((tcp.clone(), MadeLinks::Tcp(tcp)))
        }
        Links::Memory { network, faults } => {
            let wires = network.transport(node, runtime.clone(), greeter, metrics);
            let transport = match faults {
                Some(plan) => FaultyTransport::wrap(wires, node, plan, runtime),
                None => wires,
            };
            Ok((transport, MadeLinks::Memory(network)))
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "the parts of one node, named once")]
async fn start_consensus(
    settings: &Settings,
    runtime: &Runtime,
    metrics: &Metrics,
    identity: &Identity,
    disk: &Arc<dyn Disk>,
    transport: &SharedTransport,
    log: &Arc<CommitLog>,
    table: &Arc<dyn Table>,
    recovered: RaftReplay,
) -> Result<Arc<Consensus>, StartError> {
    // The fixed leader where there is one, since nobody else stands; else the lowest id.
    let lowest = settings.peers.keys().next().copied();
    let first = settings.leader.fixed_leader.or(lowest) == Some(settings.node_id);
    let consensus = Consensus::start(ConsensusOptions {
        runtime: runtime.clone(),
        settings: settings.leader.clone(),
        node: settings.node_id,
        incarnation: identity.incarnation(),
        peers: settings.peers.clone(),
        initialise: first && settings.joins.is_none() && identity.cluster().is_none(),
        log: log.clone(),
        log_cache_bytes: settings.storage.log_cache_bytes,
        // Two checkpoints' worth: a follower that lags by less needs no snapshot.
        keep_log_bytes: settings.storage.checkpoint_log_bytes.saturating_mul(2),
        recovered,
        table: table.clone(),
        orders_data: settings.mode == Mode::Leader,
        disk: disk.clone(),
        transport: transport.clone(),
        metrics: metrics.clone(),
    })
    .await?;
    Ok(Arc::new(consensus))
}
