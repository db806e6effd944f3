//! Experiment 1: how fast, and what an operation costs.
//!
//! Closed loops: each connection sends its next request as soon as the last was answered, so the
//! rates are peaks and the latencies those of a busy cluster. One connection asks the nodes in
//! turn; many are spread over them evenly. Costs are those of all nodes together, per operation
//! that was done; the load generator's own are not in them, but it shares the cores.

use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, Stage, VALUE_BYTES};
use crate::history::{Action, Ended, Op};
use crate::lab::cluster::Cluster;
use crate::lab::load::{Ask, LabClient, Scene, read_back};
use crate::lab::readings::{Costs, Readings};
use crate::lab::results::{Counts, Idle, Load, Throughput};
use crate::lab::stats::Latencies;
use crate::types::Key;

/// A request of these loads is given up after this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long the cluster is left alone before it counts as idle.
const SETTLE: Duration = Duration::from_secs(1);
/// How many clients write every key once before anything is measured.
const LOADERS: usize = 16;

/// How much to do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub keys: usize,
    /// Before each measured load, the same load runs for this long unmeasured.
    pub warm_up: Duration,
    /// Over one connection.
    pub alone: Duration,
    /// Over many.
    pub together: Duration,
    pub connections: usize,
    pub idle: Duration,
}

/// Runs the experiment.
pub async fn run(stage: &mut Stage<'_>, plan: &Plan) -> anyhow::Result<Outcome<Throughput>> {
    let scene = stage.scene(TIMEOUT);
    let keys = Arc::new(crate::lab::workload::keys("load", plan.keys)?);
    stage.progress.step(&format!("{}: {} keys", stage.contestant, plan.keys));
    let mut ops = write_every_key(&scene, &keys).await?;
    let mut loads = Vec::new();
    for action in [Action::Put, Action::Get] {
        for (connections, length) in [(1, plan.alone), (plan.connections, plan.together)] {
            let what = if action == Action::Put { "put" } else { "get" };
            stage.progress.step(&format!("{}: {what}, {connections} at a time", stage.contestant));
            let shape = Shape { action, connections };
            ops.extend(closed_loop(&scene, &keys, shape, plan.warm_up).await?);
            let (load, measured) = measure(stage.cluster, &scene, &keys, shape, length).await?;
            loads.push(load);
            ops.extend(measured);
        }
    }
    stage.progress.step(&format!("{}: nothing asked", stage.contestant));
    let idle = measure_idle(stage, plan.idle).await?;
    stage.progress.step(&format!("{}: reading everything back", stage.contestant));
    ops.extend(read_back(&scene, &keys).await);
    let figures = Throughput { value_bytes: VALUE_BYTES, keys: plan.keys, loads, idle: Some(idle) };
    Ok(Outcome { figures, ops })
}

async fn write_every_key(scene: &Arc<Scene>, keys: &Arc<Vec<Key>>) -> anyhow::Result<Vec<Op>> {
    let loader = |first: usize| {
        let (mut client, keys) = (scene.client(), keys.clone());
        let nodes = scene.nodes.len();
        scene.runtime.spawn(async move {
            for key in keys.iter().skip(first).step_by(LOADERS) {
                client.put(first % nodes, key).await;
            }
            client.ops
        })
    };
    collect((0..LOADERS).map(loader).collect()).await
}

async fn collect(clients: Vec<crate::runtime::Task<Vec<Op>>>) -> anyhow::Result<Vec<Op>> {
    let mut ops = Vec::new();
    for client in clients {
        ops.extend(client.await?);
    }
    Ok(ops)
}

#[derive(Clone, Copy)]
struct Shape {
    action: Action,
    connections: usize,
}

async fn closed_loop(
    scene: &Arc<Scene>,
    keys: &Arc<Vec<Key>>,
    shape: Shape,
    length: Duration,
) -> anyhow::Result<Vec<Op>> {
    let until_us = scene.now_us() + length.as_micros() as u64;
    let clients = (0..shape.connections).map(|number| {
        let client = scene.client();
        scene.runtime.spawn(one_client(
            client,
            scene.clone(),
            keys.clone(),
            shape,
            number,
            until_us,
        ))
    });
    collect(clients.collect()).await
}

async fn one_client(
    mut client: LabClient,
    scene: Arc<Scene>,
    keys: Arc<Vec<Key>>,
    shape: Shape,
    number: usize,
    until_us: u64,
) -> Vec<Op> {
    let ask = Ask::default_for(scene.mode);
    let mut node = number;
    while scene.now_us() < until_us {
        let key = &keys[client.random.below(keys.len())];
        let index = node % scene.nodes.len();
        let told = if shape.action.is_write() {
            client.put(index, key).await
        } else {
            client.get(index, key, ask).await
        };
        // One connection alone asks every node in turn; a lost one is moved on from.
        if shape.connections == 1 || told.lost_connection {
            node += 1;
        }
    }
    client.ops
}

async fn measure(
    cluster: &Cluster,
    scene: &Arc<Scene>,
    keys: &Arc<Vec<Key>>,
    shape: Shape,
    length: Duration,
) -> anyhow::Result<(Load, Vec<Op>)> {
    let before = Readings::of_cluster(cluster).await?;
    let began_us = scene.now_us();
    let ops = closed_loop(scene, keys, shape, length).await?;
    let seconds = (scene.now_us() - began_us) as f64 / 1e6;
    let after = Readings::of_cluster(cluster).await?;
    let counts = count(&ops);
    let done = counts.done as f64;
    let costs = Costs::between(&before, &after, done);
    let latencies = ops.iter().filter(|op| op.ended == Ended::Ok);
    let latencies = Latencies::of(latencies.map(|op| op.answered_us - op.invoked_us))?;
    let load = Load {
        action: shape.action,
        connections: shape.connections,
        seconds,
        counts,
        per_second: done / seconds,
        latency: latencies.percentiles(),
        cpu_us_per_op: costs.cpu_us,
        syncs_per_op: costs.syncs,
        messages_per_op: costs.messages,
        peer_bytes_per_op: costs.peer_bytes,
        resident_bytes: cluster.resident_bytes().ok().map(|nodes| nodes.iter().sum()),
    };
    Ok((load, ops))
}

/// How operations ended.
pub fn count<'a>(ops: impl IntoIterator<Item = &'a Op>) -> Counts {
    let mut counts = Counts::default();
    for op in ops {
        match op.ended {
            Ended::Ok => counts.done += 1,
            Ended::Failed => counts.failed += 1,
            Ended::Unknown => counts.unknown += 1,
        }
    }
    counts
}

async fn measure_idle(stage: &Stage<'_>, length: Duration) -> anyhow::Result<Idle> {
    stage.runtime.sleep(SETTLE).await;
    let before = Readings::of_cluster(stage.cluster).await?;
    let began = stage.runtime.now();
    stage.runtime.sleep(length).await;
    let after = Readings::of_cluster(stage.cluster).await?;
    let seconds = stage.runtime.now().duration_since(began).as_secs_f64();
    let costs = Costs::between(&before, &after, seconds);
    Ok(Idle {
        seconds,
        cpu_us_per_second: costs.cpu_us,
        syncs_per_second: costs.syncs,
        messages_per_second: costs.messages,
        peer_bytes_per_second: costs.peer_bytes,
    })
}
