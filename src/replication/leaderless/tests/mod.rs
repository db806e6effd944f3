//! Clusters in one thread on simulated disks and wires, in a world whose clock is paused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};

use super::*;
use crate::consensus::ConsensusStatus;
use crate::error::{LayoutError, MemberError, ReadError, WriteError};
use crate::peer::fault::{Fault, FaultPlan, FaultyTransport};
use crate::peer::greeter::BasicGreeter;
use crate::peer::memory::MemoryNetwork;
use crate::peer::{Hello, Inbound, Lane, PeerError, PeerHandler, Request, Service};
use crate::replication::{List, ReadAnswer, Replicator, RequestOptions, Standing, WriteAnswer};
use crate::runtime::{Instant, in_a_paused_world, watch};
use crate::storage::disk::SimDisk;
use crate::storage::encoding;
use crate::storage::log::LogOptions;
use crate::storage::rows::{self, Bound};
use crate::storage::table::MemoryTable;
use crate::types::{
    Change, ClusterId, Condition, Content, EffectiveLevel, Epoch, Incarnation, LayoutCommand,
    Level, MemberChange, Mode, Partition, Record, Write,
};

mod anti_entropy;
mod collections;
mod departures;
mod expiry;
mod explain;
mod hints;
mod layouts;
mod lists;
mod never_back;
mod reads;
mod repairs;
mod replicas;
mod serving;
mod writes;

/// What the wall clocks of a world show when it begins, in milliseconds since 1970.
const WALL_MS: u64 = 1_700_000_000_000;

/// How long requests of a test may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Long enough for links to be dialled again after a fault.
const SETTLE: Duration = Duration::from_secs(3);

/// A control plane that decides at once, and tells every node but the deaf.
#[derive(Default)]
struct ControlPlaneOfAll {
    layout: Mutex<Option<Arc<LayoutState>>>,
    told: Mutex<BTreeMap<NodeId, watch::Sender<Option<Arc<LayoutState>>>>>,
    deaf: Mutex<BTreeSet<NodeId>>,
}

impl ControlPlaneOfAll {
    fn change(&self, command: LayoutCommand) -> Result<Epoch, LayoutError> {
        let mut layout = self.layout.lock();
        let changed = LayoutState::take(layout.as_deref(), command, |_| true)?;
        let epoch = changed.epoch;
        *layout = Some(Arc::new(changed));
        for (node, told) in self.told.lock().iter() {
            if !self.deaf.lock().contains(node) {
                told.send_replace(layout.clone());
            }
        }
        Ok(epoch)
    }

    fn of(self: &Arc<Self>, node: NodeId) -> Arc<ControlOfNode> {
        let deaf = self.deaf.lock().contains(&node);
        let known = self.layout.lock().clone().filter(|_| !deaf);
        self.told.lock().insert(node, watch::Sender::new(known));
        Arc::new(ControlOfNode { all: self.clone(), node })
    }
}

/// The part of one node.
struct ControlOfNode {
    all: Arc<ControlPlaneOfAll>,
    node: NodeId,
}

impl ControlPlane for ControlOfNode {
    fn status(&self) -> ConsensusStatus {
        ConsensusStatus { leader: Some(NodeId(1)), term: 3, ..ConsensusStatus::default() }
    }

    fn compact(&self) -> BoxFuture<'_, Result<(), String>> {
        async { Ok(()) }.boxed()
    }

    fn watch_layout(&self) -> watch::Receiver<Option<Arc<LayoutState>>> {
        self.all.told.lock()[&self.node].subscribe()
    }

    fn change_layout(
        &self,
        command: LayoutCommand,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<Epoch, LayoutError>> {
        async { self.all.change(command) }.boxed()
    }

    fn change_members(
        &self,
        _change: MemberChange,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<(), MemberError>> {
        async { Ok(()) }.boxed()
    }
}

/// A node that runs.
struct Running {
    runtime: Runtime,
    leaderless: Arc<Leaderless>,
    transport: SharedTransport,
    metrics: Metrics,
}

struct Handler(Arc<Leaderless>);

impl PeerHandler for Handler {
    fn handle(&self, inbound: Inbound) {
        self.0.handle(inbound);
    }
}

/// A cluster and its world.
struct Cluster {
    seed: u64,
    began: crate::runtime::Instant,
    clock: Runtime,
    network: MemoryNetwork,
    plan: FaultPlan,
    disks: BTreeMap<NodeId, SimDisk>,
    skews_ms: BTreeMap<NodeId, i64>,
    running: BTreeMap<NodeId, Running>,
    starts: u64,
    /// How many nodes the cluster was founded by; the others join.
    founders: u16,
    control: Arc<ControlPlaneOfAll>,
    /// Changes the defaults of every node.
    settings: fn(&mut Settings),
}

impl Cluster {
    /// Nodes 1 to `nodes`, connected.
    async fn start(nodes: u16, seed: u64) -> Cluster {
        Cluster::start_with(nodes, seed, |_| {}).await
    }

    async fn start_with(nodes: u16, seed: u64, settings: fn(&mut Settings)) -> Cluster {
        let clock = Runtime::simulated(seed, WALL_MS);
        let mut cluster = Cluster {
            seed,
            began: clock.now(),
            clock,
            network: MemoryNetwork::new(seed),
            plan: FaultPlan::new(seed),
            disks: (1..=nodes)
                .map(|id| (NodeId(id), SimDisk::new(seed * 100 + u64::from(id))))
                .collect(),
            skews_ms: BTreeMap::new(),
            running: BTreeMap::new(),
            starts: 0,
            founders: nodes,
            control: Arc::default(),
            settings,
        };
        for id in 1..=nodes {
            cluster.start_node(id);
        }
        cluster.settle().await;
        cluster
    }

    /// Lets links come up and what is under way come to rest.
    async fn settle(&self) {
        self.clock.sleep(SETTLE).await;
    }

    async fn sleep_ms(&self, ms: u64) {
        self.clock.sleep(Duration::from_millis(ms)).await;
    }

    /// Starts a node on its disk, replaying what is there.
    fn start_node(&mut self, id: u16) {
        let node = NodeId(id);
        self.starts += 1;
        let elapsed_ms = self.clock.now().duration_since(self.began).as_millis() as u64;
        let seed = self.seed ^ (u64::from(id) << 32) ^ (self.starts << 48);
        let runtime = Runtime::simulated(seed, WALL_MS + elapsed_ms);
        runtime.set_wall_skew_ms(self.skews_ms.get(&node).copied().unwrap_or(0));
        let named = (1..=self.founders).chain(std::iter::once(id)).map(NodeId);
        let peers = named.map(|node| (node, format!("node-{node}"))).collect();
        let mut settings = Settings::defaults(node, Mode::Leaderless, peers);
        let founds = id <= self.founders;
        // Nothing happens by itself, unless a test asks for it.
        settings.leaderless.hint_bytes = 0;
        settings.leaderless.compare_interval = Duration::ZERO;
        (self.settings)(&mut settings);
        let metrics = Metrics::new();
        let own = Hello {
            cluster: Some(ClusterId(7)),
            node,
            incarnation: Incarnation(u64::from(id)),
            mode: Mode::Leaderless,
            client_address: format!("client-{id}"),
            lane: Lane::Bulk,
            layout: 0,
            fixed_leader: None,
        };
        let greeter = Arc::new(BasicGreeter::new(own));
        let wires = self.network.transport(node, runtime.clone(), greeter, metrics.clone());
        let transport = FaultyTransport::wrap(wires, node, self.plan.clone(), runtime.clone());
        let (table, log, recovered) = open(&self.disks[&node], &runtime, &metrics);
        let leaderless = Leaderless::start(LeaderlessOptions {
            runtime: runtime.clone(),
            settings,
            founds,
            log,
            table,
            recovered,
            transport: transport.clone(),
            control: self.control.of(node),
            metrics: metrics.clone(),
        });
        let leaderless = Arc::new(leaderless.expect("a node that starts"));
        self.network.serve(node, Arc::new(Handler(leaderless.clone())));
        self.running.insert(node, Running { runtime, leaderless, transport, metrics });
    }

    /// Starts a node that was not of the cluster before; it holds nothing yet.
    fn join(&mut self, id: u16) {
        self.disks.insert(NodeId(id), SimDisk::new(self.seed * 100 + u64::from(id)));
        self.start_node(id);
    }

    /// Cuts a node's power.
    fn crash(&mut self, id: u16) {
        let node = NodeId(id);
        let running = self.running.remove(&node).expect("a node that runs");
        running.runtime.kill();
        self.network.detach(node);
        self.disks[&node].crash();
    }

    fn node(&self, id: u16) -> &Running {
        &self.running[&NodeId(id)]
    }

    fn set_skew_ms(&mut self, id: u16, skew_ms: i64) {
        self.skews_ms.insert(NodeId(id), skew_ms);
        self.node(id).runtime.set_wall_skew_ms(skew_ms);
    }

    /// Cuts every link of a node, and both sides know.
    fn isolate(&self, id: u16) {
        let others: Vec<NodeId> =
            self.disks.keys().copied().filter(|node| *node != NodeId(id)).collect();
        self.plan.partition(&[NodeId(id)], &others);
    }

    /// Loses whatever one node sends another, which nobody notices.
    fn lose_requests(&self, from: u16, to: u16) {
        let fault = Fault { drop_requests_per_mille: 1_000, ..Fault::default() };
        self.plan.set(NodeId(from), NodeId(to), fault);
    }

    fn options(&self) -> RequestOptions {
        RequestOptions {
            level: None,
            max_staleness: None,
            r: None,
            w: None,
            may_forward: true,
            deadline: self.clock.now() + REQUEST_TIMEOUT,
        }
    }

    async fn try_put(&self, id: u16, text: &str, value: &str) -> Result<WriteAnswer, WriteError> {
        self.node(id).leaderless.write(put(text, value), self.options()).await
    }

    async fn put(&self, id: u16, text: &str, value: &str) -> WriteAnswer {
        self.try_put(id, text, value).await.expect("an acknowledged put")
    }

    async fn delete(&self, id: u16, text: &str) -> WriteAnswer {
        let write = Write { key: key(text), change: Change::Delete, condition: None, retry: None };
        let answer = self.node(id).leaderless.write(write, self.options()).await;
        answer.expect("an acknowledged delete")
    }

    async fn try_get(&self, id: u16, text: &str) -> Result<ReadAnswer, ReadError> {
        self.node(id).leaderless.read(key(text), self.options()).await
    }

    /// What a quorum read shows: a value, or nothing.
    async fn get(&self, id: u16, text: &str) -> Option<String> {
        shown(self.try_get(id, text).await.expect("an answered read").record)
    }

    /// What a node's own replica holds.
    fn held(&self, id: u16, text: &str) -> Option<Record> {
        let held = self.node(id).leaderless.core.replica.read(&key(text)).expect("a table");
        held.record.map(|bytes| encoding::decode(&bytes).expect("a record"))
    }

    async fn keys(&self, id: u16, list: List) -> Vec<String> {
        let page = self.node(id).leaderless.list(list, self.options()).await;
        let page = page.expect("an answered list");
        page.items.iter().map(|(key, _)| key.as_str().to_owned()).collect()
    }
}

type Opened = (Arc<dyn Table>, Arc<CommitLog>, Recovered);

/// Opens the table and the log of a disk.
fn open(disk: &SimDisk, runtime: &Runtime, metrics: &Metrics) -> Opened {
    let disk = Arc::new(disk.clone());
    let table: Arc<dyn Table> =
        Arc::new(MemoryTable::open(disk.clone(), "table").expect("a table that opens"));
    let mut replay = ReplicaReplay::new(table.clone(), metrics.clone()).expect("a whole table");
    let options = LogOptions {
        disk,
        dir: "log".to_owned(),
        segment_bytes: 4 << 10,
        users: vec![LogUser::Replica],
        runtime: runtime.clone(),
        metrics: metrics.clone(),
    };
    let log = CommitLog::open(options, &mut |record| replay.take(record)).expect("a whole log");
    (table, Arc::new(log), replay.finish().expect("a table that takes rows"))
}

fn key(text: &str) -> Key {
    Key::new(text, 64).expect("a key")
}

fn put(text: &str, value: &str) -> Write {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Write {
        key: key(text),
        change: Change::Put { value, content_type: None },
        condition: None,
        retry: None,
    }
}

fn list() -> List {
    List {
        prefix: String::new(),
        from: Bound::Start,
        delimiter: None,
        limit: 100,
        with_values: true,
    }
}

fn shown(record: Option<Record>) -> Option<String> {
    match record?.content {
        Content::Value { bytes, .. } => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Content::Tombstone => None,
    }
}
