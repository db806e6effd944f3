//! Many small worlds in which everything that may go wrong does, each from a seed.
//!
//! Whatever happens, an answer must be true: a write that was acknowledged is applied once, one
//! that was answered *not applied* never is, one that was answered *unknown* is at most once; and a
//! linearizable read returns nothing older than what was acknowledged before it was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use parking_lot::Mutex;

use super::world::{NODES, World, in_a_world, key, ms, put, within};
use crate::error::WriteError;
use crate::replication::Replicator;
use crate::types::{Outcome, Version};

const SEEDS: u64 = 40;
const CLIENTS: u64 = 9;
const OPERATIONS: u64 = 25;
const KEYS: u64 = 3;

/// What the clients of a world saw.
#[derive(Default)]
struct Seen {
    writes: BTreeMap<String, (Outcome, Option<Version>)>,
    /// The newest acknowledged version of each key.
    acknowledged: BTreeMap<String, Version>,
    reads: usize,
}

async fn write(world: &Arc<World>, seen: &Mutex<Seen>, client: u64, to: &str, value: String) {
    let part = world.node(1 + (client % u64::from(NODES)) as u16);
    let options = within(world, ms(20 + world.runtime.random_below(4_000)));
    let result = Replicator::write(&*part, put(to, &value), options).await;
    let mut seen = seen.lock();
    let entry = match &result {
        Ok(answer) => {
            let newest = seen.acknowledged.entry(to.to_owned()).or_insert(answer.version);
            *newest = (*newest).max(answer.version);
            (Outcome::Done, Some(answer.version))
        }
        Err(error) => (WriteError::outcome(error), None),
    };
    seen.writes.insert(value, entry);
}

async fn read(world: &Arc<World>, seen: &Mutex<Seen>, client: u64, from: &str) {
    let part = world.node(1 + (client % u64::from(NODES)) as u16);
    let before = seen.lock().acknowledged.get(from).copied();
    let options = within(world, ms(20 + world.runtime.random_below(4_000)));
    if let Ok(answer) = Replicator::read(&*part, key(from), options).await {
        let version = answer.record.map(|record| record.version);
        assert!(version >= before, "{from}: read {version:?} after {before:?} was acknowledged");
        seen.lock().reads += 1;
    }
}

/// Leaders come and go, and nodes learn of it at different times.
async fn trouble(world: &Arc<World>) {
    loop {
        let random = |below| world.runtime.random_below(below);
        world.runtime.sleep(ms(random(1_500))).await;
        let leader = random(u64::from(NODES) + 1) as u16;
        // One node at most believes that it leads, as a majority would see to.
        let lagging = 1 + random(u64::from(NODES)) as u16;
        for id in (1..=NODES).filter(|id| *id != lagging) {
            world.tell(id, (leader > 0).then_some(leader));
        }
        world.tell(lagging, None);
        world.runtime.sleep(ms(random(500))).await;
        world.tell(lagging, (leader > 0).then_some(leader));
        world.set_apply_lag(1 + random(u64::from(NODES)) as u16, ms(random(100)));
    }
}

fn check(world: &World, seen: &Seen, totals: &mut BTreeMap<&'static str, usize>) {
    let machine = world.machine.lock();
    for (value, (outcome, version)) in &seen.writes {
        let applied = machine.applications.get(value.as_bytes()).map_or(&[][..], Vec::as_slice);
        let honest = match outcome {
            Outcome::Done => applied == version.as_slice(),
            Outcome::NotApplied => applied.is_empty(),
            Outcome::Unknown => applied.len() <= 1,
        };
        assert!(honest, "{value}: answered {outcome} {version:?}, applied as {applied:?}");
        *totals.entry(outcome.as_str()).or_default() += 1;
        if *outcome == Outcome::Unknown && !applied.is_empty() {
            *totals.entry("unknown and applied").or_default() += 1;
        }
    }
    *totals.entry("duplicates discarded").or_default() += machine.duplicates;
    *totals.entry("reads").or_default() += seen.reads;
}

#[test]
fn whatever_fails_answers_are_true() {
    let mut totals = BTreeMap::new();
    for seed in 0..SEEDS {
        in_a_world(seed, async |world| {
            world.chaos.store(true, Ordering::Relaxed);
            let seen = Arc::new(Mutex::new(Seen::default()));
            let client = async |client: u64| {
                for n in 0..OPERATIONS {
                    let to = format!("k{}", world.runtime.random_below(KEYS));
                    match world.runtime.random_below(3) {
                        0 => read(&world, &seen, client, &to).await,
                        _ => write(&world, &seen, client, &to, format!("{client}-{n}")).await,
                    }
                    world.runtime.sleep(ms(world.runtime.random_below(30))).await;
                }
            };
            tokio::select! {
                biased;
                _ = join_all((0..CLIENTS).map(client)) => {}
                () = trouble(&world) => {}
            }
            // What is still under way arrives, and is applied or not.
            world.runtime.sleep(ms(10_000)).await;
            check(&world, &seen.lock(), &mut totals);
        });
    }
    // The worlds were as bad as they were meant to be, and not hopeless.
    for seen in ["done", "not_applied", "unknown", "unknown and applied", "duplicates discarded"] {
        assert!(totals.get(seen).is_some_and(|count| *count > 20), "{totals:?}");
    }
    assert!(totals["done"] > totals["unknown"] && totals["reads"] > 500, "{totals:?}");
}
