//! Experiment 2: a node is killed in the middle of a steady load, and comes back.
//!
//! Many clients together send puts and gets at a steady rate, half of each, whatever the answers
//! are; a client whose last request is still under way skips its turn, and that is counted. A client
//! whose connection fails goes to the next node, as a client library would. In leader mode the
//! victim is the leader, in leaderless mode any node (the seed chooses). A fixed leader is never
//! replaced: without it no write can be done until it is back, and that is a result, not a failure.
//!
//! The kill is SIGKILL: the process is gone at once, what it wrote to the kernel is not. When the
//! node is back and things have settled, every key is read through every node for the checks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;

use super::{Outcome, Stage};
use crate::history::Seeded;
use crate::history::{Action, Ended, Op};
use crate::lab::load::{Ask, LabClient, Scene, read_back};
use crate::lab::results::{Bucket, KilledNode};
use crate::lab::stats::longest_gap;
use crate::lab::workload::keys;
use crate::types::{Key, Mode};

/// A client gives up on a request after this time.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The timeline counts answers in slices of this length.
const BUCKET_MS: u64 = 100;

/// How much to do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub keys: usize,
    pub clients: usize,
    /// Of all clients together.
    pub rate_per_second: u64,
    pub before: Duration,
    pub down: Duration,
    pub after: Duration,
    /// Between the end of the load and the reads at the end.
    pub settle: Duration,
}

/// When things happened, in microseconds on the scene's clock.
#[derive(Clone, Copy)]
struct Times {
    began_us: u64,
    killed_us: u64,
    restarted_us: u64,
    ready_again_us: u64,
    ended_us: u64,
}

/// Runs the experiment.
pub async fn run(stage: &mut Stage<'_>, plan: &Plan) -> anyhow::Result<Outcome<KilledNode>> {
    let scene = stage.scene(TIMEOUT);
    let keys = Arc::new(keys("steady", plan.keys)?);
    stage.progress.step(&format!("{}: a steady load", stage.contestant));
    let began_us = scene.now_us();
    let length = plan.before + plan.down + plan.after;
    let schedule = Schedule {
        began_us,
        ended_us: began_us + length.as_micros() as u64,
        clients: plan.clients,
        rate_per_second: plan.rate_per_second,
    };
    let client = |number| {
        let client = scene.client();
        scene.runtime.spawn(one_client(client, scene.clone(), keys.clone(), schedule, number))
    };
    let clients: Vec<_> = (0..plan.clients).map(client).collect();

    scene.sleep_until_us(began_us + plan.before.as_micros() as u64).await;
    let (victim, was_leader) = choose_victim(stage).await?;
    stage.progress.step(&format!("{}: node {} is killed", stage.contestant, scene.nodes[victim].0));
    let killed_us = scene.now_us();
    stage.cluster.kill(victim)?;
    scene.sleep_until_us(killed_us + plan.down.as_micros() as u64).await;
    stage.progress.step(&format!("{}: it comes back", stage.contestant));
    let restarted_us = scene.now_us();
    stage.cluster.restart(victim)?;
    stage.cluster.wait_until_ready().await?;
    let ready_again_us = scene.now_us();

    let (mut ops, mut skipped) = (Vec::new(), 0);
    for client in clients {
        let (asked, missed) = client.await?;
        ops.extend(asked);
        skipped += missed;
    }
    let ended_us = scene.now_us();
    let times = Times { began_us, killed_us, restarted_us, ready_again_us, ended_us };
    let mut figures = figures(plan, &ops, times);
    (figures.node, figures.was_leader) = (scene.nodes[victim].0, was_leader);
    figures.skipped = skipped;
    scene.runtime.sleep(plan.settle).await;
    stage.progress.step(&format!("{}: reading everything back", stage.contestant));
    ops.extend(read_back(&scene, &keys).await);
    Ok(Outcome { figures, ops })
}

async fn choose_victim(stage: &Stage<'_>) -> anyhow::Result<(usize, bool)> {
    let ids = stage.cluster.ids();
    if stage.contestant.mode == Mode::Leaderless {
        return Ok((Seeded::derived(stage.seed, "victim", 0).below(ids.len()), false));
    }
    let leader = stage.cluster.known_leader().await?;
    if let Some(fixed) = stage.contestant.fixed_leader {
        // Whatever is measured of another leader would be told of the fixed one.
        ensure!(
            ids[leader] == fixed,
            "node {} leads, and not the fixed leader {fixed}",
            ids[leader]
        );
    }
    Ok((leader, true))
}

#[derive(Clone, Copy)]
struct Schedule {
    began_us: u64,
    ended_us: u64,
    clients: usize,
    rate_per_second: u64,
}

impl Schedule {
    /// When the client `number` sends its request `turn`; clients are spread over the interval.
    fn at_us(&self, number: usize, turn: u64) -> u64 {
        let place = turn * self.clients as u64 + number as u64;
        self.began_us + place * 1_000_000 / self.rate_per_second
    }
}

/// Sends on schedule; gives its operations and how many turns it skipped.
async fn one_client(
    mut client: LabClient,
    scene: Arc<Scene>,
    keys: Arc<Vec<Key>>,
    schedule: Schedule,
    number: usize,
) -> (Vec<Op>, u64) {
    let ask = Ask::default_for(scene.mode);
    let (mut node, mut skipped) = (number, 0);
    for turn in 0.. {
        let at_us = schedule.at_us(number, turn);
        if at_us >= schedule.ended_us {
            break;
        }
        let key = &keys[client.random.below(keys.len())];
        let write = client.random.below(2) == 0;
        if schedule.at_us(number, turn + 1) <= scene.now_us() {
            skipped += 1;
            continue;
        }
        scene.sleep_until_us(at_us).await;
        let index = node % scene.nodes.len();
        let told =
            if write { client.put(index, key).await } else { client.get(index, key, ask).await };
        if told.lost_connection {
            node += 1;
        }
    }
    (client.ops, skipped)
}

fn figures(plan: &Plan, ops: &[Op], times: Times) -> KilledNode {
    let since_start_ms = |instant_us: u64| (instant_us - times.began_us) as f64 / 1e3;
    let first_write_us = ops
        .iter()
        .filter(|op| op.is_acknowledged_write() && op.invoked_us >= times.killed_us)
        .map(|op| op.answered_us)
        .min();
    let after = (times.killed_us, times.ended_us.min(end_of_schedule(plan, times)));
    KilledNode {
        node: 0,
        was_leader: false,
        clients: plan.clients,
        rate_per_second: plan.rate_per_second as f64,
        timeout_ms: TIMEOUT.as_millis() as u64,
        killed_ms: since_start_ms(times.killed_us),
        restarted_ms: since_start_ms(times.restarted_us),
        ready_again_ms: since_start_ms(times.ready_again_us),
        ended_ms: since_start_ms(times.ended_us),
        bucket_ms: BUCKET_MS,
        buckets: buckets(ops, times.began_us),
        writes: super::throughput::count(ops.iter().filter(|op| op.action.is_write())),
        reads: super::throughput::count(ops.iter().filter(|op| !op.action.is_write())),
        skipped: 0,
        first_write_ms: first_write_us.map(|at_us| (at_us - times.killed_us) as f64 / 1e3),
        longest_write_gap_ms: longest_gap_ms(ops, Action::Put, after),
        longest_read_gap_ms: longest_gap_ms(ops, Action::Get, after),
        usual_write_gap_ms: longest_gap_ms(ops, Action::Put, (times.began_us, times.killed_us)),
    }
}

fn end_of_schedule(plan: &Plan, times: Times) -> u64 {
    times.began_us + (plan.before + plan.down + plan.after).as_micros() as u64
}

/// The longest time between two done operations of this kind within the window.
fn longest_gap_ms(ops: &[Op], action: Action, window: (u64, u64)) -> f64 {
    let done = |op: &&Op| op.action == action && op.ended == Ended::Ok;
    let answered = ops.iter().filter(done).map(|op| op.answered_us);
    longest_gap(answered, window) as f64 / 1e3
}

/// What clients were told in each slice of time. A request counts when its client was told.
fn buckets(ops: &[Op], began_us: u64) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    for op in ops {
        let slice = ((op.answered_us - began_us) / (BUCKET_MS * 1_000)) as usize;
        if buckets.len() <= slice {
            buckets.resize(slice + 1, Bucket::default());
        }
        match op.ended {
            Ended::Ok => buckets[slice].done += 1,
            Ended::Failed => buckets[slice].failed += 1,
            Ended::Unknown => buckets[slice].unknown += 1,
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Level;

    fn op(action: Action, answered_ms: u64, ended: Ended) -> Op {
        let key = Key::new("k", 8).expect("a key");
        let invoked_us = answered_ms * 1_000 - 1_000;
        let op = Op::begun(1, action, key, 1, Level::Quorum, invoked_us);
        Op { answered_us: answered_ms * 1_000, ended, ..op }
    }

    #[test]
    fn an_outage_shows_as_a_gap_and_in_its_slices() {
        let mut ops: Vec<Op> = (1..20).map(|n| op(Action::Put, n * 10, Ended::Ok)).collect();
        ops.push(op(Action::Put, 350, Ended::Unknown));
        ops.push(op(Action::Put, 360, Ended::Failed));
        ops.extend((70..100).map(|n| op(Action::Put, n * 10, Ended::Ok)));
        ops.push(op(Action::Get, 500, Ended::Ok));
        let times = Times {
            began_us: 0,
            killed_us: 195_000,
            restarted_us: 800_000,
            ready_again_us: 900_000,
            ended_us: 1_000_000,
        };
        let plan = Plan {
            keys: 1,
            clients: 1,
            rate_per_second: 100,
            before: Duration::from_millis(195),
            down: Duration::from_millis(605),
            after: Duration::from_millis(200),
            settle: Duration::ZERO,
        };
        let found = figures(&plan, &ops, times);
        assert_eq!(found.first_write_ms, Some(505.0));
        assert_eq!(found.longest_write_gap_ms, 505.0);
        assert_eq!(found.longest_read_gap_ms, 500.0);
        assert_eq!(found.usual_write_gap_ms, 10.0);
        assert_eq!(found.buckets.len(), 10);
        assert_eq!(found.buckets[3], Bucket { done: 0, failed: 1, unknown: 1 });
        assert_eq!(found.buckets[5], Bucket { done: 1, failed: 0, unknown: 0 });
        assert_eq!((found.writes.unknown, found.writes.failed, found.reads.done), (1, 1, 1));
    }

    #[test]
    fn without_a_write_after_the_kill_there_is_no_first_write() {
        let ops = [op(Action::Put, 100, Ended::Ok)];
        assert_eq!(longest_gap_ms(&ops, Action::Put, (200_000, 900_000)), 700.0);
        let schedule =
            Schedule { began_us: 1_000, ended_us: 0, clients: 4, rate_per_second: 1_000 };
        let all: Vec<u64> = (0..2)
            .flat_map(|turn| (0..4).map(move |n| (n, turn)))
            .map(|(n, turn)| schedule.at_us(n, turn))
            .collect();
        assert_eq!(all, (1..9).map(|ms| ms * 1_000).collect::<Vec<u64>>(), "evenly spread");
    }
}
