//! A cluster of real [`Leader`]s over a group and wires that do as a test says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::machine::{Machine, PlainTable};
use super::wires::{WireFate, Wires};
use crate::consensus::{
    Allegiance, Applied, Command, ConsensusStatus, ProposeError, ReadIndexError, Session,
    Submission,
};
use crate::error::{MemberError, TransferError, WriteError};
use crate::peer::{Inbound, Request, Service};
use crate::replication::leader::{Group, Leader, LeaderOptions};
use crate::replication::{Replicator, RequestOptions, WriteAnswer};
use crate::runtime::watch;
use crate::runtime::{Instant, Runtime};
use crate::storage::table::{Table, TableBatch};
use crate::telemetry::Metrics;
use crate::types::{
    Change, ClusterId, Key, Level, MemberChange, MemberFacts, Members, NodeId, Write,
};

pub const NODES: u16 = 3;
pub const WALL_MS: u64 = 1_000_000;

/// What becomes of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Applied and answered after this long.
    Commit(Duration),
    NotAppended,
    /// Answered `Unknown` at once, and applied after this long or never.
    Unknown(Option<Duration>),
    /// Never answered, and never applied.
    Hang,
}

/// The shared truth: the log, its state machine, and every node's part.
pub struct World {
    pub runtime: Runtime,
    pub machine: Mutex<Machine>,
    /// Every applied entry: its submissions, and what it changed.
    log: Mutex<Vec<(Vec<Submission>, TableBatch)>>,
    nodes: BTreeMap<NodeId, FakeNode>,
    pub fates: Mutex<VecDeque<Fate>>,
    pub wire_fates: Mutex<VecDeque<WireFate>>,
    /// Once scripted fates are used up: chosen by the seed, or all well.
    pub chaos: AtomicBool,
    pub proposing: AtomicUsize,
    pub most_proposing: AtomicUsize,
    pub read_index_delay: Mutex<Duration>,
    pub wire_delay: Mutex<Duration>,
    /// Whether nodes give their word when they ask for a read index.
    pub words: AtomicBool,
    /// Whether whoever leads holds the lease.
    pub lease: AtomicBool,
    pub sent: Mutex<Vec<(NodeId, NodeId, Service)>>,
    /// Who had records expire, and by what time.
    pub expired: Mutex<Vec<(NodeId, u64)>>,
}

struct FakeNode {
    /// Who leads, as the node knows.
    leader: watch::Sender<Option<NodeId>>,
    applied: watch::Sender<usize>,
    apply_lag: Mutex<Duration>,
    installing: AtomicBool,
    next_expiry_ms: Mutex<Option<u64>>,
    installs: AtomicU64,
    /// A snapshot is installed between any two looks at the count.
    installs_while_read: AtomicBool,
    table: Arc<PlainTable>,
    part: Mutex<Option<Arc<Leader<FakeGroup>>>>,
}

/// One node's view of the group.
pub struct FakeGroup {
    node: NodeId,
    world: Arc<World>,
}

impl World {
    pub fn new(seed: u64) -> Arc<World> {
        let nodes = (1..=NODES).map(|id| (NodeId(id), FakeNode::new()));
        let world = Arc::new(World {
            runtime: Runtime::simulated(seed, WALL_MS),
            machine: Mutex::default(),
            log: Mutex::default(),
            nodes: nodes.collect(),
            fates: Mutex::default(),
            wire_fates: Mutex::default(),
            chaos: AtomicBool::new(false),
            proposing: AtomicUsize::new(0),
            most_proposing: AtomicUsize::new(0),
            read_index_delay: Mutex::new(Duration::from_millis(1)),
            wire_delay: Mutex::new(Duration::from_millis(1)),
            words: AtomicBool::new(false),
            lease: AtomicBool::new(false),
            sent: Mutex::default(),
            expired: Mutex::default(),
        });
        for (id, node) in &world.nodes {
            *node.part.lock() = Some(Arc::new(Leader::start(world.options(*id))));
        }
        world
    }

    fn options(self: &Arc<World>, node: NodeId) -> LeaderOptions<FakeGroup> {
        LeaderOptions {
            runtime: self.runtime.clone(),
            node,
            boot: 1,
            peers: self.nodes.keys().map(|id| (*id, format!("peer-of-{id}"))).collect(),
            advertise: format!("client-of-{node}"),
            group: Arc::new(FakeGroup { node, world: self.clone() }),
            table: self.nodes[&node].table.clone(),
            transport: Arc::new(Wires { from: node, world: Arc::downgrade(self) }),
            metrics: Metrics::new(),
            max_queue_wait: Duration::from_secs(1),
            read_patience: Duration::from_millis(2),
        }
    }

    fn members(&self) -> Members {
        let facts = |id: &NodeId| MemberFacts {
            address: format!("peer-of-{id}"),
            voter: true,
            incarnation: None,
        };
        let nodes = self.nodes.keys().map(|id| (*id, facts(id))).collect();
        Members { nodes, removed: BTreeSet::new() }
    }

    pub fn node(&self, id: u16) -> Arc<Leader<FakeGroup>> {
        self.nodes[&NodeId(id)].part.lock().clone().expect("the node runs")
    }

    /// Tells every node who leads.
    pub fn elect(&self, leader: Option<u16>) {
        (1..=NODES).for_each(|id| self.tell(id, leader));
    }

    /// Tells one node who leads.
    pub fn tell(&self, node: u16, leader: Option<u16>) {
        self.nodes[&NodeId(node)].leader.send_replace(leader.map(NodeId));
    }

    /// The first record that a node's table has expires at this time.
    pub fn falls_due(&self, node: u16, at_ms: u64) {
        *self.nodes[&NodeId(node)].next_expiry_ms.lock() = Some(at_ms);
    }

    pub fn set_apply_lag(&self, node: u16, lag: Duration) {
        *self.nodes[&NodeId(node)].apply_lag.lock() = lag;
    }

    pub fn set_installing(&self, node: u16, installing: bool) {
        self.nodes[&NodeId(node)].installing.store(installing, Ordering::Relaxed);
    }

    /// Installs snapshots on a node while its table is read.
    pub fn install_while_read(&self, node: u16) {
        self.nodes[&NodeId(node)].installs_while_read.store(true, Ordering::Relaxed);
    }

    /// The submissions of every applied entry.
    pub fn entries(&self) -> Vec<Vec<Submission>> {
        self.log.lock().iter().map(|(submissions, _)| submissions.clone()).collect()
    }

    /// How often the value was applied.
    pub fn applications(&self, value: &str) -> usize {
        self.machine.lock().applications.get(value.as_bytes()).map_or(0, Vec::len)
    }

    pub fn deliver(&self, to: NodeId, inbound: Inbound) {
        let part = self.nodes[&to].part.lock().clone();
        if let Some(part) = part {
            part.handle(inbound);
        }
    }

    pub fn delay(&self) -> Duration {
        match self.chaos.load(Ordering::Relaxed) {
            true => Duration::from_millis(1 + self.runtime.random_below(20)),
            false => *self.wire_delay.lock(),
        }
    }

    pub fn wire_fate(&self, from: NodeId, request: &Request) -> WireFate {
        self.sent.lock().push((from, request.to, request.service));
        if let Some(fate) = self.wire_fates.lock().pop_front() {
            return fate;
        }
        if !self.chaos.load(Ordering::Relaxed) {
            return WireFate::Deliver;
        }
        match self.runtime.random_below(16) {
            0 => WireFate::NotSent,
            1 => WireFate::Refused,
            2 => WireFate::Lost,
            3 => WireFate::AnswerLost,
            4 | 5 => {
                WireFate::BrokenButArrives(Duration::from_millis(self.runtime.random_below(3_000)))
            }
            _ => WireFate::Deliver,
        }
    }

    fn fate(&self) -> Fate {
        if let Some(fate) = self.fates.lock().pop_front() {
            return fate;
        }
        if !self.chaos.load(Ordering::Relaxed) {
            return Fate::Commit(Duration::from_millis(2));
        }
        let some_time = Duration::from_millis(self.runtime.random_below(2_000));
        match self.runtime.random_below(12) {
            0 | 1 => Fate::NotAppended,
            2 => Fate::Unknown(None),
            3 | 4 => Fate::Unknown(Some(some_time)),
            5 => Fate::Hang,
            6 => Fate::Commit(some_time),
            _ => Fate::Commit(self.delay()),
        }
    }

    /// Commits an entry that `first` applies at once, and the others, the leader too, with their lags.
    pub fn commit_elsewhere(self: &Arc<World>, first: u16, name: &str, value: &str) {
        let session = Session { origin: NodeId(first), boot: 1, sequence: 1_000, settled: 0 };
        let writes = vec![put(name, value)];
        let submission = Submission { session, proposed_time: 1 << 40, writes };
        self.apply(NodeId(first), vec![submission]);
    }

    /// Commits and applies an entry, on `proposer` at once and elsewhere after each node's lag.
    fn apply(self: &Arc<World>, proposer: NodeId, submissions: Vec<Submission>) -> Applied {
        let mut batch = TableBatch::default();
        let mut machine = self.machine.lock();
        let results = submissions.iter().map(|s| machine.apply(s, &mut batch)).collect();
        drop(machine);
        let index = {
            let mut log = self.log.lock();
            log.push((submissions, batch));
            log.len()
        };
        for id in self.nodes.keys().copied().filter(|id| *id != proposer) {
            let (world, lag) = (self.clone(), *self.nodes[&id].apply_lag.lock());
            self.runtime.spawn(async move {
                world.runtime.sleep(lag).await;
                world.catch_up(id, index);
            });
        }
        self.catch_up(proposer, index);
        Applied::Data(results)
    }

    fn catch_up(&self, id: NodeId, index: usize) {
        let (node, log) = (&self.nodes[&id], self.log.lock());
        node.applied.send_if_modified(|applied| {
            for (_, batch) in log.iter().take(index).skip(*applied) {
                node.table.apply(batch.clone()).expect("a plain table never fails");
            }
            *applied = (*applied).max(index);
            true
        });
    }
}

impl FakeNode {
    fn new() -> FakeNode {
        FakeNode {
            leader: watch::Sender::new(None),
            applied: watch::Sender::new(0),
            apply_lag: Mutex::new(Duration::from_millis(1)),
            installing: AtomicBool::new(false),
            next_expiry_ms: Mutex::new(None),
            installs: AtomicU64::new(0),
            installs_while_read: AtomicBool::new(false),
            table: Arc::default(),
            part: Mutex::new(None),
        }
    }
}

impl FakeGroup {
    fn own(&self) -> &FakeNode {
        &self.world.nodes[&self.node]
    }
}

impl Group for FakeGroup {
    async fn propose(&self, command: Command, deadline: Instant) -> Result<Applied, ProposeError> {
        let (fate, leader, world) = (self.world.fate(), self.leader(), &self.world);
        if leader != Some(self.node) || fate == Fate::NotAppended {
            return Err(ProposeError::NotAppended { leader, reason: "as scripted".to_owned() });
        }
        if let Command::Expire { now_ms } = command {
            world.expired.lock().push((self.node, now_ms));
            *self.own().next_expiry_ms.lock() = None;
            return Ok(Applied::Nothing);
        }
        let now_proposing = world.proposing.fetch_add(1, Ordering::Relaxed) + 1;
        world.most_proposing.fetch_max(now_proposing, Ordering::Relaxed);
        let Command::Data(submissions) = command else { panic!("only data is proposed here") };
        let (done, result) = oneshot::channel();
        let after = match fate {
            Fate::Commit(after) => Some(after),
            Fate::Unknown(after) => after,
            Fate::NotAppended | Fate::Hang => None,
        };
        // What is in a log goes its way, whether or not somebody still waits.
        let (shared, node) = (world.clone(), self.node);
        let entry = world.runtime.spawn(async move {
            if let Some(after) = after {
                shared.runtime.sleep(after).await;
                let _ = done.send(shared.apply(node, submissions));
            } else {
                std::future::pending::<()>().await;
            }
        });
        let unknown = Err(ProposeError::Unknown { reason: "as scripted".to_owned() });
        let result = match fate {
            Fate::Unknown(_) => unknown,
            _ => match world.runtime.deadline(deadline, result).await {
                Some(Ok(applied)) => Ok(applied),
                _ => unknown,
            },
        };
        drop(entry);
        world.proposing.fetch_sub(1, Ordering::Relaxed);
        result
    }

    async fn read_index(&self, _: Instant) -> Result<u64, ReadIndexError> {
        // As early as it may be: what is acknowledged from here on is not covered.
        let index = self.world.log.lock().len() as u64;
        let delay = *self.world.read_index_delay.lock();
        self.world.runtime.sleep(delay).await;
        let leader = self.leader();
        let fails =
            self.world.chaos.load(Ordering::Relaxed) && self.world.runtime.random_below(8) == 0;
        if leader != Some(self.node) || fails {
            return Err(ReadIndexError { leader, reason: "as scripted".to_owned() });
        }
        Ok(index)
    }

    async fn lease_index(&self) -> Option<u64> {
        let holds = self.world.lease.load(Ordering::Relaxed) && self.leader() == Some(self.node);
        holds.then(|| self.world.log.lock().len() as u64)
    }

    fn stands_by(&self) -> Option<Allegiance> {
        let leader = self.leader().filter(|_| self.world.words.load(Ordering::Relaxed))?;
        Some(Allegiance { term: 1, leader })
    }

    fn vouched(&self, word: (NodeId, Allegiance), then: impl FnOnce(Option<u64>) + Send + 'static) {
        let index = self.world.log.lock().len() as u64;
        let leads = self.leader() == Some(self.node) && word.1.leader == self.node;
        then(leads.then_some(index));
    }

    async fn wait_applied(&self, index: u64, deadline: Instant) -> bool {
        let mut applied = self.own().applied.subscribe();
        let reached = applied.wait_for(|applied| *applied as u64 >= index);
        self.world.runtime.deadline(deadline, reached).await.is_some()
    }

    fn leader(&self) -> Option<NodeId> {
        *self.own().leader.borrow()
    }

    async fn leader_change(&self, than: Option<NodeId>, deadline: Instant) -> Option<NodeId> {
        let mut leader = self.own().leader.subscribe();
        let changed = leader.wait_for(|leader| *leader != than);
        drop(self.world.runtime.deadline(deadline, changed).await);
        self.leader()
    }

    async fn transfer(&self, to: Option<NodeId>, _: Instant) -> Result<NodeId, TransferError> {
        match (to, self.leader()) {
            (Some(to), Some(leader)) if to == leader => Ok(to),
            _ => Err(TransferError::NoLeader { reason: "as scripted".to_owned() }),
        }
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        *self.own().next_expiry_ms.lock()
    }

    fn installs(&self) -> Option<u64> {
        let installs = &self.own().installs;
        let count = installs.load(Ordering::Relaxed);
        if self.own().installs_while_read.load(Ordering::Relaxed) {
            installs.fetch_add(1, Ordering::Relaxed);
        }
        (!self.own().installing.load(Ordering::Relaxed)).then_some(count)
    }

    async fn change_members(&self, _: MemberChange, _: Instant) -> Result<(), MemberError> {
        unreachable!("no test here asks for it")
    }

    fn nodes(&self) -> usize {
        self.world.nodes.len()
    }

    fn status(&self) -> ConsensusStatus {
        let end = self.world.log.lock().len() as u64;
        ConsensusStatus {
            leader: self.leader(),
            term: 1,
            last_log_index: end,
            applied_index: *self.own().applied.borrow() as u64,
            members: self.world.members(),
            cluster: Some(ClusterId(7)),
            installing: self.own().installing.load(Ordering::Relaxed),
            ..ConsensusStatus::default()
        }
    }

    async fn compact(&self, _: Duration) -> Result<(), String> {
        Ok(())
    }
}

/// Runs a test in a paused world with three nodes, of which node 1 leads.
pub fn in_a_world<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(Arc<World>) -> F) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(async {
            let world = World::new(seed);
            world.elect(Some(1));
            test(world.clone()).await;
            world.runtime.kill();
        });
}

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn key(text: &str) -> Key {
    Key::new(text, 64).expect("a valid key")
}

pub fn put(to: &str, value: &str) -> Write {
    let value = Bytes::copy_from_slice(value.as_bytes());
    let change = Change::Put { value, content_type: None };
    Write { key: key(to), change, condition: None, retry: None }
}

/// Options with a deadline this far away.
pub fn within(world: &World, wait: Duration) -> RequestOptions {
    let deadline = world.runtime.now() + wait;
    RequestOptions {
        level: None,
        max_staleness: None,
        r: None,
        w: None,
        may_forward: true,
        deadline,
    }
}

pub fn at_level(world: &World, level: Level) -> RequestOptions {
    RequestOptions { level: Some(level), ..within(world, ms(1_000)) }
}

pub async fn write_at(
    world: &Arc<World>,
    node: u16,
    write: Write,
    options: RequestOptions,
) -> Result<WriteAnswer, WriteError> {
    let part = world.node(node);
    Replicator::write(&*part, write, options).await
}

/// Writes `a = value` through `node`, with a second to spare.
pub async fn write(world: &Arc<World>, node: u16, value: &str) -> Result<WriteAnswer, WriteError> {
    write_at(world, node, put("a", value), within(world, ms(1_000))).await
}

pub fn forwards(world: &World) -> usize {
    world.sent.lock().iter().filter(|(_, _, service)| *service == Service::Forward).count()
}
