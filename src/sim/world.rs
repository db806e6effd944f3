//! A simulated world from its beginning to its end: machines, wires, clients, faults, and what
//! must hold once all is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::clients::{self, Ids};
use super::coverage::Coverage;
use super::ending;
use super::losses::Losses;
use super::machine::{Machine, Wires};
use super::members::Changes;
use super::nemesis::Nemesis;
use super::panics;
use super::plan::{Fault, Plan};
use super::trace::Trace;
use super::verdict::Broken;
use super::witness::Witness;
use super::{SimOptions, SimReport};
use crate::api;
use crate::check;
use crate::history::{Ended, Header, History, Op};
use crate::peer::fault::FaultPlan;
use crate::peer::memory::MemoryNetwork;
use crate::runtime::{Instant, Runtime};
use crate::telemetry::Metrics;
use crate::types::NodeId;

/// What the world's own clock says when it begins: 2025-01-01, in milliseconds since 1970.
const WALL_AT_START_MS: u64 = 1_735_689_600_000;

/// How often machines are looked after and faults begun and ended.
const TICK: Duration = Duration::from_millis(10);

/// What clients reach each node that is up by: its router, and the runtime that requests run on, so
/// that they die with the node. Clients find none where a node is down.
pub(super) type Routers = Arc<Mutex<BTreeMap<NodeId, (api::Service, Runtime)>>>;

/// What everything in a world shares; cheap to clone.
#[derive(Clone)]
pub(super) struct Shared {
    /// The world's own runtime: its clock, and the randomness of faults and clients.
    pub runtime: Runtime,
    pub plan: Arc<Plan>,
    pub routers: Routers,
    pub epoch: Instant,
    trace: Trace,
    notes: Arc<Mutex<Notes>>,
    changes: Arc<Mutex<Changes>>,
    losses: Arc<Mutex<Losses>>,
    /// What was written to the nodes' tables.
    pub witness: Witness,
    /// The highest id of a node that the world has had.
    nodes: Arc<AtomicU16>,
    /// The last stamp given, in microseconds since the world began.
    last_stamp_us: Arc<AtomicU64>,
}

/// What is written down while a world runs.
#[derive(Default)]
struct Notes {
    ops: Vec<Op>,
    broken: Vec<Broken>,
    coverage: Coverage,
}

impl Shared {
    /// Adds a line to the trace.
    pub fn say(&self, line: std::fmt::Arguments<'_>) {
        self.trace.say(&self.runtime, self.epoch, line);
    }

    /// Microseconds since the world began; no two stamps are equal, so that the order of what
    /// happens within one simulated millisecond is kept.
    pub fn stamp_us(&self) -> u64 {
        let now_us = self.runtime.now().saturating_duration_since(self.epoch).as_micros() as u64;
        let last = self.last_stamp_us.load(Ordering::Relaxed);
        let stamp = now_us.max(last + 1);
        self.last_stamp_us.store(stamp, Ordering::Relaxed);
        stamp
    }

    /// Writes down a promise that was seen broken.
    pub fn broken(&self, check: &str, sentence: String) {
        self.say(format_args!("BROKEN {check}: {sentence}"));
        let broken = Broken::seen(check, sentence);
        let mut notes = self.notes.lock();
        // Once is enough: a node that stops again and again says the same again and again.
        if !notes.broken.iter().any(|known| known.to_string() == broken.to_string()) {
            notes.broken.push(broken);
        }
    }

    /// Whether a promise was seen broken.
    pub fn is_broken(&self) -> bool {
        !self.notes.lock().broken.is_empty()
    }

    /// What is known of the changes of the members; held for a moment.
    pub fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock()
    }

    /// Whose disks are lost, and whose may be; held for a moment.
    pub fn losses(&self) -> MutexGuard<'_, Losses> {
        self.losses.lock()
    }

    /// The highest id of a node that the world has had.
    pub fn nodes(&self) -> u16 {
        self.nodes.load(Ordering::Relaxed)
    }

    /// An id for one more node.
    pub fn add_node(&self) -> u16 {
        self.nodes.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many operations clients have asked for.
    pub fn operations(&self) -> usize {
        self.notes.lock().ops.len()
    }

    /// Counts something that the campaign must have seen.
    pub fn happened(&self, what: &'static str) {
        self.notes.lock().coverage.add(what, 1);
    }

    /// Takes over what a node counted in one run.
    pub fn count_node(&self, metrics: &Metrics) {
        let mut notes = self.notes.lock();
        notes.coverage.add_node(metrics);
        if metrics.version_collisions.get() > 0 {
            let sentence = "two different records were given one version".to_owned();
            notes.broken.push(Broken::seen("version-collision", sentence));
        }
    }

    /// Keeps an operation for the history.
    pub fn record(&self, op: Op) {
        self.say(format_args!("{}", OpLine(&op)));
        self.notes.lock().ops.push(op);
    }
}

/// An operation as a line of the trace.
struct OpLine<'a>(&'a Op);

impl std::fmt::Display for OpLine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let op = self.0;
        let action = format!("{:?}", op.action).to_lowercase();
        let ended = format!("{:?}", op.ended).to_lowercase();
        write!(f, "client {} {action} {} at {} {}", op.client, op.key, op.node, op.asked())?;
        if let Some(value) = &op.value {
            write!(f, " value {value}")?;
        }
        if let Some(version) = op.if_match {
            write!(f, " if-match {version}")?;
        }
        if op.if_absent {
            write!(f, " if-absent")?;
        }
        write!(f, " (since {}): {ended} {}", op.invoked_us, op.status)?;
        if let Some(version) = op.version {
            write!(f, " @{version}")?;
        }
        if let Some(version) = op.superseded {
            write!(f, " superseded by {version}")?;
        }
        for item in op.items.iter().flatten() {
            write!(f, " {}@{}", item.key, item.version)?;
        }
        Ok(())
    }
}

/// The world itself.
pub(super) struct World {
    pub shared: Shared,
    pub wires: Wires,
    pub machines: Vec<Machine>,
    nemesis: Nemesis,
    healed: bool,
}

/// Runs the world that the options name to its end.
pub(super) async fn run(options: SimOptions) -> SimReport {
    panics::watch_this_thread();
    let plan = Arc::new(Plan::of(options.mode, options.seed));
    let runtime = Runtime::simulated(options.seed, WALL_AT_START_MS);
    let shared = Shared {
        epoch: runtime.now(),
        plan: plan.clone(),
        trace: Trace::new(),
        routers: Arc::default(),
        notes: Arc::default(),
        changes: Arc::default(),
        witness: Witness::default(),
        losses: Arc::new(Mutex::new(Losses::new(&plan))),
        nodes: Arc::new(AtomicU16::new(plan.nodes)),
        last_stamp_us: Arc::default(),
        runtime: runtime.clone(),
    };
    shared.say(format_args!("world mode={} seed={}", options.mode, options.seed));
    shared.say(format_args!("{plan}"));
    let wires = Wires {
        network: MemoryNetwork::new(runtime.random_u64()),
        faults: FaultPlan::new(runtime.random_u64()),
    };
    let machines =
        (1..=plan.nodes).map(|id| Machine::new(&plan, NodeId(id), runtime.random_u64())).collect();
    let nemesis = Nemesis::new(&shared);
    let mut world = World { shared, wires, machines, nemesis, healed: false };
    for machine in &mut world.machines {
        machine.start(&world.shared, &world.wires, None).await;
    }
    world.load().await;
    ending::run(&mut world).await;
    world.close(options)
}

impl World {
    /// Lets clients work while faults come and go.
    async fn load(&mut self) {
        let keys = match clients::keys(self.shared.plan.keys) {
            Ok(keys) => Arc::new(keys),
            Err(problem) => return self.shared.broken("no-keys", problem),
        };
        let ids = Arc::new(Ids::default());
        let load: Vec<_> = (0..self.shared.plan.clients)
            .map(|seat| {
                let client = clients::run(self.shared.clone(), ids.clone(), seat, keys.clone());
                self.shared.runtime.spawn(client)
            })
            .collect();
        while !load.iter().all(crate::runtime::Task::is_finished) {
            let mut nemesis = std::mem::take(&mut self.nemesis);
            nemesis.step(self);
            self.nemesis = nemesis;
            self.tick().await;
        }
    }

    /// Looks after every machine, and lets a little time pass.
    pub async fn tick(&mut self) {
        let shared = &self.shared;
        for machine in &mut self.machines {
            // Now and then power goes while a node is starting.
            let dies = !self.healed && shared.plan.faults.contains(&Fault::Crash);
            let dies = dies && shared.runtime.random_below(4) == 0;
            let dies_after = dies.then(|| shared.runtime.random_below(60));
            machine.supervise(shared, &self.wires, dies_after).await;
        }
        shared.runtime.sleep(TICK).await;
    }

    /// Ends every fault: from here on the world is healthy.
    pub fn heal(&mut self) {
        self.shared.say(format_args!("every fault ends"));
        self.healed = true;
        let mut nemesis = std::mem::take(&mut self.nemesis);
        nemesis.heal(self);
    }

    /// Ends every process, and puts the report together.
    fn close(mut self, options: SimOptions) -> SimReport {
        let shared = self.shared.clone();
        for machine in &mut self.machines {
            shared.notes.lock().coverage.add_disk(&machine.disk);
            machine.end(&shared, &self.wires, super::machine::Ending::Exit, None);
        }
        shared.notes.lock().coverage.add_faults(&self.wires.faults);
        for message in panics::taken() {
            shared.broken("panic", message);
        }
        let notes = std::mem::take(&mut *shared.notes.lock());
        let header = Header::new(options.mode, "sim", options.seed, shared.plan.nodes);
        let history = History::new(header, notes.ops);
        let mut broken = notes.broken;
        for finding in check::check(&history) {
            if finding.is_broken() {
                shared.say(format_args!("BROKEN {}: {:?}", finding.check, finding.examples));
                broken.push(Broken::found(finding));
            } else if finding.is_unverified() {
                let what = format!("{} at {} could not be decided", finding.check, finding.level);
                shared.say(format_args!("BROKEN undecided: {what}"));
                broken.push(Broken::seen("undecided", what));
            }
        }
        shared.say(format_args!("what happened: {}", notes.coverage));
        let count = |ended| {
            let writes = history.ops.iter().filter(|op| op.action.is_write());
            writes.filter(|op| op.ended == ended).count()
        };
        SimReport {
            options,
            operations: history.ops.len(),
            writes_acknowledged: count(Ended::Ok),
            writes_unknown: count(Ended::Unknown),
            reads_answered: history.ops.iter().filter(|op| op.is_answered_read()).count(),
            simulated_ms: shared.stamp_us() / 1_000,
            trace: shared.trace.clone(),
            coverage: notes.coverage,
            history,
            broken,
        }
    }
}
