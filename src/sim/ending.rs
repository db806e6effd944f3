//! How a world ends: every fault is over, and now the cluster must serve and converge within a
//! bound of simulated time; then everything is read back for the checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::clients::{self, read_back};
use super::layouts;
use super::machine::{Machine, Process};
use super::members;
use super::world::{Shared, World};
use crate::history::{Ended, Op};
use crate::replication::leaderless::horizons::{self, is_deletion, is_gone};
use crate::runtime::Task;
use crate::storage::rows;
use crate::storage::table::Table;
use crate::types::{Key, Level, Mode, NodeId, Partition};

/// A healed cluster must serve every key through every node within this time.
const SERVE_WITHIN: Duration = Duration::from_secs(15);

/// Replicas must be equal within this time after that.
const EQUAL_WITHIN: Duration = Duration::from_secs(20);

/// How often everything is read, until replicas are equal, in leaderless mode. One read in ten asks
/// every replica, so that the chance that a stale one is overlooked for so long is one in 10^7.
const READ_ROUNDS: usize = 150;

/// A wiped node must be refused, and every node be up, within this time of healing.
const SETTLED_WITHIN: Duration = Duration::from_secs(15);

/// They must stay so for this long: what a fault began, such as a sync that will fail, may end later.
const SETTLED_FOR: Duration = Duration::from_secs(1);

/// Replicas must be equal without reads within this time, where no message was lost.
const QUIET_WITHIN: Duration = Duration::from_secs(10);

/// Replicas that are compared must be equal within this time and three intervals: what was too new for
/// one comparison is left to the next.
const COMPARED_WITHIN: Duration = Duration::from_secs(20);

/// Deletions must be collected within this time and the grace: a horizon is raised once a second or two,
/// and clocks may have been ahead by some seconds.
const COLLECTED_WITHIN: Duration = Duration::from_secs(30);

/// How often a read at the end is tried again that was not answered.
const READ_BACK_TRIES: usize = 50;

/// A world lasts so long at least: what is slow to go wrong in a healed cluster shows by then.
const LEAST_AGE: Duration = Duration::from_secs(60);

/// What clients of a world ask at least.
pub(super) const LEAST_OPERATIONS: usize = 500;

/// A pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The client ids of those that read back: not those of any client of the load.
const READER: u32 = 1_000_000;

/// The client ids of those that write once all is healed, one a node.
const WRITER: u32 = 2_000_000;

/// What a settled node of a world may have at most: tasks, and bytes on its disk.
const MAX_TASKS: usize = 150;
const MAX_DISK_BYTES: u64 = 64 << 20;

/// Heals the world and holds it against what must be true then.
pub(super) async fn run(world: &mut World) {
    world.heal();
    members::finish(world).await;
    settle(world).await;
    if world.shared.plan.mode == Mode::Leaderless {
        layouts::settle(world).await;
    }
    if world.shared.is_broken() {
        return;
    }
    let keys = match clients::keys(world.shared.plan.keys) {
        Ok(keys) => Arc::new(keys),
        Err(problem) => return world.shared.broken("no-keys", problem),
    };
    let nodes: Arc<Vec<NodeId>> = Arc::new(live(world).map(Machine::id).collect());
    let shared = world.shared.clone();
    if shared.plan.mode == Mode::Leaderless && shared.plan.gentle {
        without_reads(world).await;
    }
    if !shared.plan.background.compare_interval.is_zero() {
        by_themselves(world).await;
    }
    let serving = shared.runtime.spawn(serves(shared.clone(), nodes.clone(), keys.clone()));
    beside(world, serving).await;
    members::agree(world).await;
    converge(world, &nodes, &keys).await;
    if !shared.plan.background.tombstone_grace.is_zero() {
        collected(world).await;
    }
    grow_old(world).await;
    let reading = shared.runtime.spawn(read_everything(shared.clone(), nodes.clone(), keys));
    beside(world, reading).await;
    bounded(world);
}

/// The machines whose nodes run.
fn live(world: &World) -> impl Iterator<Item = &Machine> {
    world.machines.iter().filter(|machine| machine.running().is_some())
}

/// Waits until `task` has ended, looking after the machines meanwhile.
async fn beside(world: &mut World, task: Task<()>) {
    while !task.is_finished() {
        world.tick().await;
    }
}

/// Waits until every node is up or out of the world, and no wiped one is among them.
async fn settle(world: &mut World) {
    let deadline = world.shared.runtime.now() + SETTLED_WITHIN;
    let mut since = None;
    loop {
        world.tick().await;
        let now = world.shared.runtime.now();
        let is_wiped = |machine: &&Machine| machine.own_disk.is_some() && !machine.is_removed();
        let wiped = world.machines.iter().find(is_wiped);
        let settled = |process: &Process| {
            matches!(process, Process::Up(_) | Process::Refused | Process::Removed)
        };
        let unsettled = world.machines.iter().find(|machine| !settled(&machine.process));
        let lingering = members::lingering(world);
        if wiped.is_none() && unsettled.is_none() && lingering.is_none() {
            if now >= *since.get_or_insert(now) + SETTLED_FOR {
                return;
            }
            continue;
        }
        since = None;
        if now < deadline {
            continue;
        }
        if let Some(machine) = wiped {
            let what = format!("node {} runs on with an empty disk under its old id", machine.id());
            world.shared.broken("wiped-node-accepted", what);
        } else if let Some(machine) = unsettled {
            let what = format!("node {} is not up after everything healed", machine.id());
            world.shared.broken("node-does-not-start", what);
        } else if let Some(node) = lingering {
            let what = format!("node {node} runs on after it was removed");
            world.shared.broken("removed-node-runs", what);
        }
        return;
    }
}

/// Where no message was lost and no process ended, replicas must become equal without any read.
async fn without_reads(world: &mut World) {
    let deadline = world.shared.runtime.now() + QUIET_WITHIN;
    while let Some(difference) = difference(world) {
        if world.shared.runtime.now() >= deadline {
            let what = format!("{difference}, though no message was lost");
            return world.shared.broken("write-not-everywhere", what);
        }
        world.tick().await;
    }
}

/// Where replicas are compared, they must become equal without any read, whatever happened before.
async fn by_themselves(world: &mut World) {
    let shared = world.shared.clone();
    let deadline =
        shared.runtime.now() + COMPARED_WITHIN + 3 * shared.plan.background.compare_interval;
    let differed = difference(world).is_some();
    while let Some(difference) = difference(world) {
        if shared.runtime.now() >= deadline {
            let what = format!("{difference}, though they were compared");
            return shared.broken("replicas-differ-for-good", what);
        }
        world.tick().await;
    }
    if differed && shared.plan.background.hint_bytes == 0 {
        shared.happened("ending: replicas equal by comparison alone");
    }
}

/// Where deletions are collected, none may stay that is older than the grace, on any replica; unless some
/// replica, or a member that has something left to bring to others, is gone for good.
async fn collected(world: &mut World) {
    let shared = world.shared.clone();
    let deadline = shared.runtime.now() + shared.plan.background.tombstone_grace + COLLECTED_WITHIN;
    // What is deleted by now; nobody writes any more.
    let deleted = deletions(world);
    loop {
        let left: BTreeSet<Bytes> = deletions(world).intersection(&deleted).cloned().collect();
        if left.is_empty() {
            if !deleted.is_empty() {
                shared.happened("ending: deletions collected");
            }
            return;
        }
        if shared.runtime.now() >= deadline {
            if layouts::all_can_be_reached(world) {
                let what = format!("{} deletions are kept for ever", left.len());
                shared.broken("deletions-not-collected", what);
            }
            return;
        }
        world.tick().await;
    }
}

/// The rows of all tables that hold deletions, or what has expired.
fn deletions(world: &World) -> BTreeSet<Bytes> {
    let running = live(world).filter_map(Machine::running);
    let rows = running.flat_map(|it| user_rows(&world.shared, &*it.table));
    let now_ms = world.shared.runtime.wall_ms();
    rows.filter(|(_, record)| is_deletion(record, now_ms)).map(|(row, _)| row).collect()
}

/// Reads every key and writes one through every node until each was served.
async fn serves(shared: Shared, nodes: Arc<Vec<NodeId>>, keys: Arc<Vec<Key>>) {
    let deadline = shared.runtime.now() + SERVE_WITHIN;
    let level = Level::default_for(shared.plan.mode);
    for (number, node) in nodes.iter().enumerate() {
        let key = &keys[number % keys.len()];
        let mut seq = 0;
        loop {
            let op =
                clients::write_at_the_end(&shared, WRITER + u32::from(node.0), seq, *node, key)
                    .await;
            let ended = op.ended;
            seq += 1;
            shared.record(op);
            if ended == Ended::Ok {
                break;
            }
            if shared.runtime.now() >= deadline {
                let what = format!("no write through node {node} succeeds after healing");
                return shared.broken("not-served", what);
            }
            shared.runtime.sleep(LOOK_AGAIN).await;
        }
    }
    for key in keys.iter() {
        for node in nodes.iter() {
            while read_back(&shared, READER, *node, key, level).await.ended != Ended::Ok {
                if shared.runtime.now() >= deadline {
                    let what = format!(
                        "key {key} cannot be read through node {node} within {} s of healing",
                        SERVE_WITHIN.as_secs()
                    );
                    return shared.broken("not-served", what);
                }
                shared.runtime.sleep(LOOK_AGAIN).await;
            }
        }
    }
}

/// Waits until replicas are equal: by themselves in leader mode, by reads alone in leaderless mode.
async fn converge(world: &mut World, nodes: &Arc<Vec<NodeId>>, keys: &Arc<Vec<Key>>) {
    let shared = world.shared.clone();
    let deadline = shared.runtime.now() + EQUAL_WITHIN;
    let mut rounds = 0;
    let difference = loop {
        let Some(difference) = difference(world) else { return };
        let over = match shared.plan.mode {
            Mode::Leader => shared.runtime.now() >= deadline,
            Mode::Leaderless => rounds >= READ_ROUNDS,
        };
        if over {
            break difference;
        }
        rounds += 1;
        if shared.plan.mode == Mode::Leaderless {
            let (shared, nodes, keys) = (shared.clone(), nodes.clone(), keys.clone());
            let round = shared.runtime.clone().spawn(async move {
                for key in keys.iter() {
                    let node = nodes[shared.runtime.random_below(nodes.len() as u64) as usize];
                    read_back(&shared, READER, node, key, Level::Quorum).await;
                }
            });
            beside(world, round).await;
        } else {
            for _ in 0..10 {
                world.tick().await;
            }
        }
    };
    shared.broken("replicas-differ", difference);
}

/// Leaves the healed cluster alone until the world is old enough, but for its supervisors.
async fn grow_old(world: &mut World) {
    let old = world.shared.epoch + LEAST_AGE;
    while world.shared.runtime.now() < old {
        world.tick().await;
    }
    let operations = world.shared.operations();
    if operations < LEAST_OPERATIONS {
        let what = format!(
            "{operations} operations in a whole world: at least {LEAST_OPERATIONS} were to be"
        );
        world.shared.broken("world-too-small", what);
    }
}

/// What the tables of two nodes that should hold the same do not agree on.
fn difference(world: &World) -> Option<String> {
    let mode = world.shared.plan.mode;
    let tables: Vec<(NodeId, Vec<(Bytes, Bytes)>)> = live(world)
        .filter_map(|machine| {
            let running = machine.running()?;
            Some((machine.id(), user_rows(&world.shared, &*running.table)))
        })
        .collect();
    let layout = match mode {
        Mode::Leader => None,
        Mode::Leaderless => live(world).find_map(layouts::standing),
    };
    let holds = |id: NodeId, partition: Partition| {
        layout
            .as_ref()
            .is_none_or(|layout| layout.current.partitions[usize::from(partition.0)].contains(&id))
    };
    let all: BTreeSet<&Bytes> =
        tables.iter().flat_map(|(_, rows)| rows.iter().map(|(row, _)| row)).collect();
    let reached_ms = reached(world);
    for row in all {
        let Some((partition, key)) = rows::parse_data_row(row) else { continue };
        let mut holders = tables.iter().filter(|(id, _)| holds(*id, partition));
        let reached_ms = reached_ms.get(&partition).copied().unwrap_or_default();
        let value_at = |rows: &Vec<(Bytes, Bytes)>| {
            let place = rows.binary_search_by(|(other, _)| other.cmp(row)).ok();
            let record = place.map(|place| rows[place].1.clone());
            record.filter(|record| !is_gone(record, reached_ms))
        };
        let Some((first, first_rows)) = holders.next() else { continue };
        let expected = value_at(first_rows);
        for (other, other_rows) in holders {
            if value_at(other_rows) != expected {
                return Some(format!("nodes {first} and {other} hold different records of {key}"));
            }
        }
    }
    None
}

/// The latest collection horizon that any node has reached, by partition: deletions from before are gone, whether
/// a replica has dropped them or not.
fn reached(world: &World) -> BTreeMap<Partition, u64> {
    let mut latest = BTreeMap::new();
    if world.shared.plan.background.tombstone_grace.is_zero() {
        return latest;
    }
    for running in live(world).filter_map(Machine::running) {
        for partition in Partition::all() {
            match horizons::stored(&*running.table, partition) {
                Ok(horizon) => {
                    let latest: &mut u64 = latest.entry(partition).or_default();
                    *latest = horizon.reached_ms.max(*latest);
                }
                Err(error) => world.shared.broken("table-unreadable", error.to_string()),
            }
        }
    }
    latest
}

fn user_rows(shared: &Shared, table: &dyn Table) -> Vec<(Bytes, Bytes)> {
    let (from, to) = rows::data_range();
    table.scan(&from, &to, usize::MAX).unwrap_or_else(|error| {
        shared.broken("table-unreadable", error.to_string());
        Vec::new()
    })
}

/// Reads every key through every node, at the default level and at `local`, for the checks.
async fn read_everything(shared: Shared, nodes: Arc<Vec<NodeId>>, keys: Arc<Vec<Key>>) {
    let ops: Mutex<Vec<Op>> = Mutex::default();
    for (client, level) in
        [(READER + 1, Level::default_for(shared.plan.mode)), (READER + 2, Level::Local)]
    {
        for key in keys.iter() {
            for node in nodes.iter() {
                let mut op = read_back(&shared, client, *node, key, level).await;
                for _ in 0..READ_BACK_TRIES {
                    if op.ended == Ended::Ok {
                        break;
                    }
                    shared.runtime.sleep(LOOK_AGAIN).await;
                    op = read_back(&shared, client, *node, key, level).await;
                }
                ops.lock().push(op);
            }
        }
    }
    ops.into_inner().into_iter().for_each(|op| shared.record(op));
}

/// Holds what nodes have left over against what they may have.
fn bounded(world: &World) {
    for machine in live(world) {
        let Some(running) = machine.running() else { continue };
        let (id, tasks, bytes) =
            (machine.id(), running.runtime.live_tasks(), machine.disk.total_bytes());
        if tasks > MAX_TASKS {
            let what = format!("node {id} has {tasks} tasks with nothing to do");
            world.shared.broken("tasks-pile-up", what);
        }
        if bytes > MAX_DISK_BYTES {
            let what = format!("node {id} has {bytes} bytes on its disk");
            world.shared.broken("disk-piles-up", what);
        }
    }
}
