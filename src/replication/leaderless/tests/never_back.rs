//! Random schedules of writes, reads, faults and crashes, each from a seed: reads at `quorum` never
//! go back, nothing acknowledged is lost, nothing refused shows up, and replicas end up equal.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use super::*;
use crate::types::Outcome;

/// Schedules tried; each has its own faults.
const SEEDS: u64 = 40;
const STEPS: u64 = 200;
const KEY: &str = "contended";

/// What the clients of a world saw.
#[derive(Default)]
struct Seen {
    /// The highest version that was acknowledged or returned so far.
    floor: Option<Version>,
    refused: BTreeSet<String>,
    unknown: u64,
    acknowledged: u64,
    reads: u64,
    failed_reads: u64,
}

async fn one_write(
    node: Arc<Leaderless>,
    value: String,
    options: RequestOptions,
    seen: &Mutex<Seen>,
) {
    let result = node.write(put(KEY, &value), options).await;
    let mut seen = seen.lock();
    match result {
        Ok(answer) => {
            seen.acknowledged += 1;
            seen.floor = seen.floor.max(Some(answer.version));
        }
        Err(error) if error.outcome() == Outcome::NotApplied => {
            seen.refused.insert(value);
        }
        Err(_) => seen.unknown += 1,
    }
}

async fn one_read(node: Arc<Leaderless>, options: RequestOptions, seen: &Mutex<Seen>, seed: u64) {
    let floor = seen.lock().floor;
    let result = node.read(key(KEY), options).await;
    let mut seen = seen.lock();
    let Ok(answer) = result else {
        seen.failed_reads += 1;
        return;
    };
    seen.reads += 1;
    let version = answer.record.as_ref().map(|record| record.version);
    assert!(version >= floor, "seed {seed}: a read that began at {floor:?} returned {version:?}");
    seen.floor = seen.floor.max(version);
    let value = shown(answer.record);
    let refused = value.is_some_and(|value| seen.refused.contains(&value));
    assert!(!refused, "seed {seed}: a refused write shows up");
}

/// Does one random thing to the world. At most one node is down at a time.
fn disturb(cluster: &mut Cluster, down: &mut Option<u16>) {
    let draw = |bound| cluster.clock.random_below(bound);
    let (from, to) = (draw(3) as u16 + 1, draw(3) as u16 + 1);
    match draw(10) {
        0 => cluster.lose_requests(from, to),
        1 => {
            let fault = Fault { drop_answers_per_mille: 500, ..Fault::default() };
            cluster.plan.set(NodeId(from), NodeId(to), fault);
        }
        2 => {
            let (delay, jitter) = (Duration::from_millis(draw(50)), Duration::from_millis(80));
            let fault = Fault { delay, jitter, ..Fault::default() };
            cluster.plan.set(NodeId(from), NodeId(to), fault);
        }
        3 => cluster.isolate(from),
        4 | 5 => cluster.plan.heal(),
        6 if down.is_none() => {
            cluster.crash(from);
            *down = Some(from);
        }
        7 | 8 => {
            if let Some(id) = down.take() {
                cluster.start_node(id);
            }
        }
        _ => {
            let skew_ms = draw(300) as i64 - 150;
            if *down != Some(from) {
                cluster.set_skew_ms(from, skew_ms);
            }
        }
    }
}

async fn one_world(seed: u64) -> Seen {
    let mut cluster = Cluster::start(3, seed).await;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut down = None;
    let mut clients = Vec::new();
    for step in 0..STEPS {
        if cluster.clock.random_below(4) == 0 {
            disturb(&mut cluster, &mut down);
        }
        let ids: Vec<u16> = (1..=3).filter(|id| Some(*id) != down).collect();
        let id = ids[cluster.clock.random_below(ids.len() as u64) as usize];
        let node = cluster.node(id).leaderless.clone();
        let deadline = cluster.clock.now() + Duration::from_millis(300);
        let options = RequestOptions { deadline, ..cluster.options() };
        let seen = seen.clone();
        // Clients belong to the world and outlive the nodes that they talk to.
        clients.push(if cluster.clock.random_below(2) == 0 {
            let value = format!("{seed}-{step}");
            cluster.clock.spawn(async move { one_write(node, value, options, &seen).await })
        } else {
            cluster.clock.spawn(async move { one_read(node, options, &seen, seed).await })
        });
        // Mostly in quick succession, so that reads meet writes and repairs under way.
        let most_ms = if cluster.clock.random_below(5) == 0 { 100 } else { 6 };
        cluster.sleep_ms(cluster.clock.random_below(most_ms)).await;
    }
    for client in clients {
        let done = cluster.clock.deadline(cluster.options().deadline, client).await;
        // The coordinator of some was killed: those never answer, as a lost connection does not.
        if let Some(joined) = done {
            joined.expect("no assertion failed");
        }
    }
    heal_and_compare(cluster, down, &seen, seed).await;
    Arc::try_unwrap(seen).map_or_else(|seen| std::mem::take(&mut *seen.lock()), Mutex::into_inner)
}

async fn heal_and_compare(mut cluster: Cluster, down: Option<u16>, seen: &Mutex<Seen>, seed: u64) {
    cluster.plan.heal();
    for id in 1..=3 {
        if Some(id) != down {
            cluster.set_skew_ms(id, 0);
        }
    }
    if let Some(id) = down {
        cluster.skews_ms.remove(&NodeId(id));
        cluster.start_node(id);
    }
    cluster.settle().await;
    for _ in 0..60 {
        for id in 1..=3 {
            one_read(cluster.node(id).leaderless.clone(), cluster.options(), seen, seed).await;
            cluster.sleep_ms(20).await;
        }
    }
    let held: Vec<_> = (1..=3).map(|id| cluster.held(id, KEY)).collect();
    assert!(held[0] == held[1] && held[1] == held[2], "seed {seed}: {held:?}");
    let last = held[0].as_ref().map(|record| record.version);
    assert!(last >= seen.lock().floor, "seed {seed}: an acknowledged write is lost");
    for running in cluster.running.values() {
        assert_eq!(running.metrics.version_collisions.get(), 0);
    }
}

#[test]
fn quorum_reads_never_go_back_whatever_happens_to_one_node_and_all_links() {
    let mut total = Seen::default();
    for seed in 0..SEEDS {
        let seen = in_a_paused_world(one_world(seed));
        total.acknowledged += seen.acknowledged;
        total.reads += seen.reads;
        total.unknown += seen.unknown;
        total.failed_reads += seen.failed_reads;
        total.refused.extend(seen.refused);
    }
    // The schedules must reach what they are there for.
    assert!(total.acknowledged > 1_000, "{} acknowledged", total.acknowledged);
    assert!(total.reads > 1_000 && total.failed_reads > 20, "{} reads", total.reads);
    assert!(total.unknown > 20 && total.refused.len() > 20, "{} unknown", total.unknown);
}

#[test]
fn the_same_seed_gives_the_same_world_twice() {
    let trace = |seed| {
        let seen = in_a_paused_world(one_world(seed));
        (seen.floor, seen.acknowledged, seen.unknown, seen.reads, seen.refused)
    };
    for seed in [3, 4] {
        assert_eq!(trace(seed), trace(seed));
    }
}
