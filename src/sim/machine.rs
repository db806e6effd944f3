//! A machine of a simulated world: its disk and clock, which outlive crashes, and the node that
//! runs on it, as a process does on a computer that a supervisor looks after.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

mod disks;

use super::members::address_of;
use super::plan::Plan;
use super::witness::Watching;
use super::world::Shared;
use crate::api::{self, Api};
use crate::config::{Engine, Settings};
use crate::node::{Links, MEMORY_TABLE_FILE, Node, World};
use crate::peer::fault::FaultPlan;
use crate::peer::memory::MemoryNetwork;
use crate::runtime::{Instant, Runtime, Task};
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::identity::Identity;
use crate::storage::table::{Hooked, MemoryTable, Table};
use crate::telemetry::Metrics;
use crate::types::{ClusterId, NodeId};

/// A node must have started, or said why not, within this time.
const START_WITHIN: Duration = Duration::from_secs(30);

/// A node that is told to stop must have stopped within this time.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// How long a supervisor waits before it starts a process again that ended by itself, and one that
/// found its disk full.
const RESTART_AFTER: Duration = Duration::from_millis(300);
const RESTART_FULL_AFTER: Duration = Duration::from_millis(1_500);

/// What a node says of a wiped directory, of a full disk, and of a sync that failed: a fault excuses
/// only what it can be the reason of.
const WIPED: &str = "known to its peers with other data";
const FULL: &str = "disk is full";
const FAILED_SYNC: &str = "sync failed";

/// What a node says that the cluster has removed.
const REMOVED: &str = "was removed from its cluster";

/// The wires of a world, and what is wrong with them.
#[derive(Clone)]
pub(super) struct Wires {
    pub network: MemoryNetwork,
    pub faults: FaultPlan,
}

/// A node that runs.
pub(super) struct Running {
    pub runtime: Runtime,
    pub node: Arc<Node>,
    pub table: Arc<dyn Table>,
    metrics: Metrics,
}

/// What a machine's process is doing.
pub(super) enum Process {
    /// Not running; to be started then, or not at all.
    Down(Option<Instant>),
    Up(Running),
    /// Told to stop in order; must have by then.
    Stopping(Running, Task<()>, Instant),
    /// Its data directory is damaged or gone and it refuses to start: out of the world.
    Refused,
    /// Its node was removed from the cluster, said so and stopped: out of the world.
    Removed,
}

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The machine loses power: what was not synced may be gone.
    PowerCut,
    /// The process ends, the operating system lives on, and with it what was written.
    Exit,
}

/// Why a node may stop by itself, or not start.
#[derive(Clone, Default)]
pub(super) struct Excuses {
    pub full: bool,
    /// The names of the files in which a bit of what was synced has flipped.
    pub damaged: BTreeSet<String>,
}

impl Excuses {
    /// Whether damage is what a node gives as its reason: it must name the file.
    fn damage_explains(&self, reason: &str) -> bool {
        self.damaged.iter().any(|file| reason.contains(file.as_str()))
    }
}

/// See the module.
pub(super) struct Machine {
    settings: Settings,
    pub disk: SimDisk,
    /// How long its syncs take unless it is slow.
    usual_sync: Duration,
    /// The machine's own disk, while an empty one is in its place.
    pub own_disk: Option<SimDisk>,
    /// Whether the machine's own disk never comes back.
    lost_for_good: bool,
    pub process: Process,
    pub excuses: Excuses,
    /// How many failed syncs have been the reason of a stop already.
    failed_syncs_answered: u64,
    pub skew_ms: i64,
    pub rate_ppm: i64,
    boots: u64,
}

impl Machine {
    pub fn new(plan: &Plan, node: NodeId, disk_seed: u64) -> Machine {
        let peers = (1..=plan.nodes).map(NodeId).map(|id| (id, address_of(id))).collect();
        let mut settings = Settings::defaults(node, plan.mode, peers);
        settings.engine = Engine::Memory;
        // Small, so that a short run crosses segments and checkpoints.
        settings.storage.log_segment_bytes = plan.segment_bytes;
        settings.storage.checkpoint_log_bytes = plan.checkpoint_bytes;
        settings.leader.keep_entries = plan.keep_entries;
        settings.leader.read_patience = plan.read_patience;
        settings.leader.fixed_leader = plan.fixed_leader.map(NodeId);
        settings.leaderless.replicas = plan.replicas;
        settings.leaderless.read_quorum = plan.replicas / 2 + 1;
        settings.leaderless.write_quorum = plan.replicas / 2 + 1;
        settings.leaderless.max_stragglers = plan.max_stragglers;
        settings.leaderless.compare_interval = plan.background.compare_interval;
        settings.leaderless.hint_bytes = plan.background.hint_bytes;
        settings.leaderless.tombstone_grace = plan.background.tombstone_grace;
        settings.limits.max_requests_in_flight = plan.max_requests;
        Machine {
            settings,
            disk: disks::new_disk(plan, disk_seed),
            usual_sync: plan.sync,
            own_disk: None,
            lost_for_good: false,
            process: Process::Down(None),
            excuses: Excuses::default(),
            failed_syncs_answered: 0,
            skew_ms: 0,
            rate_ppm: 0,
            boots: 0,
        }
    }

    /// A machine whose node joins: it was told of `known` nodes, and of the cluster's name.
    pub fn joining(
        plan: &Plan,
        node: NodeId,
        disk_seed: u64,
        known: impl Iterator<Item = NodeId>,
        cluster: ClusterId,
    ) -> Machine {
        let mut machine = Machine::new(plan, node, disk_seed);
        let peers = known.chain([node]).map(|id| (id, address_of(id)));
        machine.settings.peers = peers.collect();
        machine.settings.joins = Some(cluster);
        machine
    }

    /// Whether the cluster has removed the node, and it has stopped for it.
    pub fn is_removed(&self) -> bool {
        matches!(self.process, Process::Removed)
    }

    pub fn id(&self) -> NodeId {
        self.settings.node_id
    }

    /// The node, where one runs and was not told to stop.
    pub fn running(&self) -> Option<&Running> {
        match &self.process {
            Process::Up(running) => Some(running),
            Process::Down(_) | Process::Stopping(..) | Process::Refused | Process::Removed => None,
        }
    }

    /// Applies the machine's clock to the node that runs on it.
    pub fn set_clock(&self) {
        if let Some(running) = self.running() {
            running.runtime.set_wall_skew_ms(self.skew_ms);
            running.runtime.set_wall_rate_ppm(self.rate_ppm);
        }
    }

    /// Starts the node. `dies_after` polls of its tasks the machine loses power, wherever it is.
    pub async fn start(&mut self, shared: &Shared, wires: &Wires, dies_after: Option<u64>) {
        self.boots += 1;
        let (id, boot) = (self.id(), self.boots);
        let runtime = Runtime::simulated(shared.runtime.random_u64(), shared.runtime.wall_ms());
        runtime.set_wall_skew_ms(self.skew_ms);
        runtime.set_wall_rate_ppm(self.rate_ppm);
        self.set_timer_rate(shared, &runtime);
        if let Some(polls) = dies_after {
            runtime.kill_after_polls(polls);
        }
        let metrics = Metrics::new();
        let table: Arc<Mutex<Option<Arc<dyn Table>>>> = Arc::default();
        let world = self.world(shared, &runtime, wires, &metrics, table.clone());
        shared.say(format_args!("node {id} starts, boot {boot}"));
        // Started as a task of the node's own, so that all it spawns belongs to the node.
        let mut started = runtime.spawn(Node::start(self.settings_now(), world));
        let deadline = shared.runtime.now() + START_WITHIN;
        let dead = runtime.dead();
        let started = tokio::select! {
            biased;
            started = &mut started => Some(started),
            () = dead => None,
            () = shared.runtime.sleep_until(deadline) => None,
        };
        let opened = table.lock().take();
        match (started, opened) {
            (Some(Ok(Ok(node))), Some(table)) => {
                let service = api::service(Api::of(&node));
                shared.routers.lock().insert(id, (service, runtime.clone()));
                self.process = Process::Up(Running { runtime, node, table, metrics });
            }
            (Some(Ok(Err(error))), _) => {
                self.drop_node(shared, wires, &runtime, &metrics, Ending::Exit);
                self.refused(shared, &error.to_string());
            }
            _ if runtime.is_dead() => {
                shared.say(format_args!("node {id} crashes while it starts"));
                shared.happened("process: crash during start");
                self.drop_node(shared, wires, &runtime, &metrics, Ending::PowerCut);
                self.process = Process::Down(Some(shared.runtime.now() + RESTART_AFTER));
            }
            (Some(Err(error)), _) => self.stuck(shared, &format!("died in its start: {error}")),
            _ => self.stuck(shared, "has neither started nor said why not"),
        }
    }

    /// What the node is started with: one that joined is told of the cluster by its own data from the second
    /// start on, as a process is that was started with `--join`.
    fn settings_now(&self) -> Settings {
        let mut settings = self.settings.clone();
        if settings.joins.is_some() && Identity::cluster_of(&self.disk).is_ok_and(|it| it.is_some())
        {
            settings.joins = None;
            settings.peers.retain(|id, _| *id == settings.node_id);
        }
        settings
    }

    /// Lets the node's monotonic clock run as the plan says.
    fn set_timer_rate(&self, shared: &Shared, runtime: &Runtime) {
        let rates = &shared.plan.timer_rates_ppm;
        if let Some(rate) = rates.get(usize::from(self.id().0).wrapping_sub(1)) {
            runtime.set_timer_rate_ppm(*rate);
            if *rate != 0 {
                shared.happened("clocks: monotonic ones drift");
            }
        }
    }

    fn world(
        &self,
        shared: &Shared,
        runtime: &Runtime,
        wires: &Wires,
        metrics: &Metrics,
        opened: Arc<Mutex<Option<Arc<dyn Table>>>>,
    ) -> World {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let (table_disk, shared) = (disk.clone(), shared.clone());
        World {
            runtime: runtime.clone(),
            disk,
            open_table: Box::new(move || {
                let table = MemoryTable::open(table_disk, MEMORY_TABLE_FILE)?;
                let table: Arc<dyn Table> =
                    Arc::new(Hooked::new(Arc::new(table), Watching(shared)));
                *opened.lock() = Some(table.clone());
                Ok(table)
            }),
            links: Links::Memory {
                network: wires.network.clone(),
                faults: Some(wires.faults.clone()),
            },
            metrics: metrics.clone(),
        }
    }

    /// A node that does not start: right where its disk is at fault, a broken promise elsewhere.
    fn refused(&mut self, shared: &Shared, reason: &str) {
        let id = self.id();
        shared.say(format_args!("node {id} does not start: {reason}"));
        let soon = Process::Down(Some(shared.runtime.now() + RESTART_AFTER));
        let failed_sync = self.take_failed_sync();
        let excuses = self.excuses.clone();
        self.process = match excuses {
            _ if self.own_disk.is_some() && reason.contains(WIPED) => {
                if self.leave_empty_disk(shared) { soon } else { Process::Refused }
            }
            _ if excuses.damage_explains(reason) => {
                shared.happened("a damaged node was refused");
                Process::Refused
            }
            Excuses { full: true, .. } if reason.contains(FULL) => {
                Process::Down(Some(shared.runtime.now() + RESTART_FULL_AFTER))
            }
            _ if failed_sync => soon,
            _ if self.was_to_leave(shared, reason) => Process::Removed,
            _ => {
                shared.broken("node-does-not-start", format!("node {id}: {reason}"));
                Process::Refused
            }
        };
    }

    fn stuck(&mut self, shared: &Shared, how: &str) {
        let id = self.id();
        shared.broken("node-does-not-start", format!("node {id} {how}"));
        self.process = Process::Refused;
    }

    /// Ends the process at once; to be started again at `up_at`.
    pub fn end(&mut self, shared: &Shared, wires: &Wires, how: Ending, up_at: Option<Instant>) {
        let process = std::mem::replace(&mut self.process, Process::Down(up_at));
        match process {
            Process::Up(running) | Process::Stopping(running, ..) => {
                self.drop_node(shared, wires, &running.runtime, &running.metrics, how);
            }
            Process::Down(_) => {
                if how == Ending::PowerCut {
                    self.disk.crash();
                }
            }
            Process::Refused => self.process = Process::Refused,
            Process::Removed => self.process = Process::Removed,
        }
    }

    /// Whether a node says that it was removed, and that was asked for.
    fn was_to_leave(&self, shared: &Shared, reason: &str) -> bool {
        let leaves = reason.contains(REMOVED) && shared.changes().leaving.contains(&self.id());
        if leaves {
            shared.happened("a removed node stopped");
        }
        leaves
    }

    fn drop_node(
        &self,
        shared: &Shared,
        wires: &Wires,
        runtime: &Runtime,
        metrics: &Metrics,
        how: Ending,
    ) {
        let id = self.id();
        shared.routers.lock().remove(&id);
        wires.network.crash(id);
        runtime.kill();
        if how == Ending::PowerCut {
            self.disk.crash();
        }
        let won = metrics.elections_won.get();
        match shared.plan.fixed_leader.map(NodeId) {
            Some(fixed) if fixed != id && won > 0 => {
                let what = format!("node {id} led beside the fixed leader, node {fixed}");
                shared.broken("another-led", what);
            }
            Some(fixed) if fixed == id && won > 0 => shared.happened("a fixed leader led"),
            _ => {}
        }
        shared.count_node(metrics);
    }

    /// Tells the node to stop in order.
    pub fn stop(&mut self, shared: &Shared) {
        let process = std::mem::replace(&mut self.process, Process::Down(None));
        self.process = match process {
            Process::Up(running) => {
                shared.say(format_args!("node {} is told to stop", self.id()));
                // As a server does: no new requests from here on.
                shared.routers.lock().remove(&self.id());
                let node = running.node.clone();
                let stopping = running.runtime.spawn(async move {
                    node.hand_over().await;
                    node.stop().await;
                });
                Process::Stopping(running, stopping, shared.runtime.now() + STOP_WITHIN)
            }
            other => other,
        };
    }

    /// Looks after the process: notices its end, and starts it where it is time.
    pub async fn supervise(&mut self, shared: &Shared, wires: &Wires, dies_after: Option<u64>) {
        let (id, now) = (self.id(), shared.runtime.now());
        let soon = Some(now + RESTART_AFTER);
        match &self.process {
            Process::Down(Some(up_at)) if *up_at <= now => {
                self.start(shared, wires, dies_after).await;
            }
            Process::Up(running) if running.runtime.is_dead() => {
                shared.say(format_args!("node {id} crashes"));
                self.end(shared, wires, Ending::PowerCut, soon);
            }
            Process::Up(running) => {
                let Some(reason) = running.node.failure() else { return };
                shared.say(format_args!("node {id} stops itself: {reason}"));
                let removed = self.was_to_leave(shared, &reason);
                let comes_back = !removed && self.stopped_itself(shared, &reason);
                self.end(shared, wires, Ending::Exit, soon);
                if !comes_back {
                    self.process = if removed { Process::Removed } else { Process::Refused };
                }
            }
            Process::Stopping(running, ..) if running.runtime.is_dead() => {
                shared.say(format_args!("node {id} crashes while it stops"));
                self.end(shared, wires, Ending::PowerCut, soon);
            }
            Process::Stopping(_, stopping, _) if stopping.is_finished() => {
                shared.say(format_args!("node {id} has stopped"));
                self.end(shared, wires, Ending::Exit, soon);
            }
            Process::Stopping(running, _, by) if *by <= now && !running.runtime.is_paused() => {
                shared.broken("node-does-not-stop", format!("node {id} was told to stop in vain"));
                self.end(shared, wires, Ending::Exit, soon);
            }
            Process::Down(_) | Process::Stopping(..) | Process::Refused | Process::Removed => {}
        }
    }

    /// Looks at why a node stopped itself; false where it is not to be started again.
    fn stopped_itself(&mut self, shared: &Shared, reason: &str) -> bool {
        let damaged = self.excuses.damage_explains(reason);
        let failed_sync = self.take_failed_sync();
        let full = self.excuses.full && reason.contains(FULL);
        let failed_sync = failed_sync && reason.contains(FAILED_SYNC);
        if self.own_disk.is_some() && reason.contains(WIPED) {
            return self.leave_empty_disk(shared);
        }
        if failed_sync || full || damaged {
            shared.happened("a node stopped for its disk");
        } else {
            let what = format!("node {} stopped itself without a fault: {reason}", self.id());
            shared.broken("node-stopped", what);
        }
        true
    }
}

impl Machine {
    /// Ends everything that is wrong with the machine, and has its node started where it is down.
    pub fn heal(&mut self, now: Instant) {
        self.free_disk();
        self.speed_up_disk();
        (self.skew_ms, self.rate_ppm) = (0, 0);
        self.set_clock();
        match &mut self.process {
            Process::Up(running) | Process::Stopping(running, ..) => running.runtime.resume(),
            Process::Down(up_at) => *up_at = Some(now),
            Process::Refused | Process::Removed => {}
        }
    }
}
