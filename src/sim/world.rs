//! The world of a run: nodes on simulated disks and wires, one of which crashes and comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::clients::{self, Seen};
use super::trace::Trace;
use super::verdict::{Broken, judge};
use super::{SimOptions, SimReport};
use crate::api::{self, Api};
use crate::config::{Engine, Settings};
use crate::node::{Links, MEMORY_TABLE_FILE, Node, World};
use crate::peer::memory::MemoryNetwork;
use crate::runtime::{Instant, Runtime};
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::table::{MemoryTable, Table};
use crate::telemetry::Metrics;
use crate::types::{NodeId, Outcome};

/// How many nodes a world has.
const NODES: u16 = 3;

/// How many clients put and get at a time.
const CLIENTS: u64 = 4;

/// What the nodes' wall clocks say when a world begins: 2025-01-01, in milliseconds since 1970.
const WALL_AT_START_MS: u64 = 1_735_689_600_000;

/// How long clients run, in simulated time.
const LOAD: Duration = Duration::from_secs(6);

/// How long a healed world has until it must serve every key through every node.
const HEALING: Duration = Duration::from_secs(20);

/// What clients reach each node that is up by: its router, and the runtime that requests run on, so
/// that they die with the node. Clients find none where a node is down.
pub(super) type Routers = Arc<Mutex<BTreeMap<NodeId, (api::Service, Runtime)>>>;

/// What everything in a world shares.
#[derive(Clone)]
pub(super) struct Shared {
    /// The world's own runtime: its clock, and the randomness of faults and clients.
    pub runtime: Runtime,
    pub epoch: Instant,
    pub trace: Trace,
    pub routers: Routers,
}

impl Shared {
    pub(super) fn say(&self, line: std::fmt::Arguments<'_>) {
        self.trace.say(&self.runtime, self.epoch, line);
    }
}

/// A node's machine: what outlives its crashes.
struct Machine {
    settings: Settings,
    disk: SimDisk,
    /// The running process, where there is one.
    running: Option<(Runtime, Arc<Node>)>,
    boots: u64,
}

pub(super) async fn run(options: SimOptions) -> Result<SimReport, String> {
    let runtime = Runtime::simulated(options.seed, WALL_AT_START_MS);
    let shared = Shared {
        epoch: runtime.now(),
        trace: Trace::new(),
        routers: Arc::default(),
        runtime: runtime.clone(),
    };
    shared.say(format_args!("world mode={} seed={}", options.mode, options.seed));
    let network = MemoryNetwork::new(runtime.random_u64());
    let mut machines: Vec<Machine> =
        (1..=NODES).map(|id| Machine::new(options, NodeId(id), runtime.random_u64())).collect();
    for machine in &mut machines {
        machine.start(&shared, &network).await?;
    }
    let seen = Arc::new(Mutex::new(Seen::default()));
    let load: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (shared, seen) = (shared.clone(), seen.clone());
            runtime.spawn(clients::run(client, shared, seen, LOAD))
        })
        .collect();
    crash_and_return(&shared, &network, &mut machines).await?;
    for client in load {
        client.await.map_err(|error| format!("a client failed: {error}"))?;
    }
    let mut broken = read_everything(&shared, &seen).await;
    let seen = seen.lock();
    broken.extend(judge(&seen.writes, &seen.reads));
    broken.iter().for_each(|promise| shared.say(format_args!("BROKEN {promise}")));
    let count = |outcome| seen.writes.iter().filter(|write| write.outcome == outcome).count();
    let report = SimReport {
        writes_acknowledged: count(Outcome::Done),
        writes_unknown: count(Outcome::Unknown),
        reads_answered: seen.reads.len(),
        simulated_ms: runtime.now().saturating_duration_since(shared.epoch).as_millis() as u64,
        trace: shared.trace.clone(),
        broken,
    };
    for machine in &mut machines {
        machine.crash(&shared, &network);
    }
    Ok(report)
}

/// Crashes one node at a moment that the seed picks, and brings it back later.
async fn crash_and_return(
    shared: &Shared,
    network: &MemoryNetwork,
    machines: &mut [Machine],
) -> Result<(), String> {
    let runtime = &shared.runtime;
    runtime.sleep(Duration::from_millis(1_500 + runtime.random_below(1_500))).await;
    let victim = runtime.random_below(u64::from(NODES)) as usize;
    machines[victim].crash(shared, network);
    runtime.sleep(Duration::from_millis(500 + runtime.random_below(1_000))).await;
    machines[victim].start(shared, network).await
}

/// Reads every key through every node until each served it, or healing took too long.
async fn read_everything(shared: &Shared, seen: &Mutex<Seen>) -> Vec<Broken> {
    let deadline = shared.runtime.now() + HEALING;
    let mut missing = Vec::new();
    for key in clients::keys() {
        for node in (1..=NODES).map(NodeId) {
            loop {
                if let Some(read) = clients::read(shared, node, &key, true).await {
                    seen.lock().reads.push(read);
                    break;
                }
                if shared.runtime.now() >= deadline {
                    missing.push(Broken::NotServed { key: key.clone(), node: node.0 });
                    break;
                }
                shared.runtime.sleep(Duration::from_millis(100)).await;
            }
        }
    }
    missing
}

impl Machine {
    fn new(options: SimOptions, node: NodeId, disk_seed: u64) -> Machine {
        let peers = (1..=NODES).map(|id| (NodeId(id), format!("node{id}:8001"))).collect();
        let mut settings = Settings::defaults(node, options.mode, peers);
        settings.engine = Engine::Memory;
        // Small, so that a short run crosses segments and checkpoints.
        settings.storage.log_segment_bytes = 16 << 10;
        settings.storage.checkpoint_log_bytes = 48 << 10;
        settings.leader.keep_entries = 50;
        Machine { settings, disk: SimDisk::new(disk_seed), running: None, boots: 0 }
    }

    async fn start(&mut self, shared: &Shared, network: &MemoryNetwork) -> Result<(), String> {
        let id = self.settings.node_id;
        self.boots += 1;
        let wall_ms = shared.runtime.wall_ms();
        let runtime = Runtime::simulated(shared.runtime.random_u64(), wall_ms);
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let table_disk = disk.clone();
        let world = World {
            runtime: runtime.clone(),
            disk,
            open_table: Box::new(move || {
                let table = MemoryTable::open(table_disk, MEMORY_TABLE_FILE)?;
                Ok(Arc::new(table) as Arc<dyn Table>)
            }),
            links: Links::Memory { network: network.clone(), faults: None },
            metrics: Metrics::new(),
        };
        // Started as a task of the node's own, so that all it spawns belongs to the node.
        let settings = self.settings.clone();
        let started = runtime.spawn(Node::start(settings, world)).await;
        let node = started
            .map_err(|error| format!("node {id} died while it started: {error}"))?
            .map_err(|error| format!("node {id} does not start: {error}"))?;
        let service = api::service(Api::of(&node));
        shared.routers.lock().insert(id, (service, runtime.clone()));
        shared.say(format_args!("node {id} starts, boot {}", self.boots));
        self.running = Some((runtime, node));
        Ok(())
    }

    fn crash(&mut self, shared: &Shared, network: &MemoryNetwork) {
        let id = self.settings.node_id;
        shared.routers.lock().remove(&id);
        if let Some((runtime, node)) = self.running.take() {
            network.detach(id);
            runtime.kill();
            self.disk.crash();
            drop(node);
            shared.say(format_args!("node {id} crashes"));
        }
    }
}
