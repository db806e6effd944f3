//! Every node restarted, with the keys loaded: how long until it is ready, and until it answers its
//! first read at the mode's default level.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::results::{Restart, Restarts};
use super::stage::Stage;
use super::worker::prefix;
use crate::lab::http::Connection;
use crate::lab::running::is_ready;
use crate::lab::workload::key;
use crate::runtime::Instant;
use crate::types::{Level, Mode};

/// A node that was told to stop must have ended within this time.
const STOPS_WITHIN: Duration = Duration::from_secs(60);
/// A restarted node must be ready and answer within this time: a million keys are read in seconds.
const BACK_WITHIN: Duration = Duration::from_secs(300);
/// How often a node that is not ready is asked again: what the figures are exact to.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// The first read is given up, and tried again, after this time.
const READ_WITHIN: Duration = Duration::from_secs(6);
/// The others are given this long to settle before the next node is ended.
const SETTLE: Duration = Duration::from_secs(1);

/// Restarts each node twice: once after SIGTERM, once after SIGKILL.
pub async fn run(stage: &mut Stage<'_>, value_bytes: usize) -> anyhow::Result<Restarts> {
    let mut restarts = Vec::new();
    for killed in [false, true] {
        for index in 0..stage.nodes.len() {
            stage.runtime.sleep(SETTLE).await;
            restarts.push(restart(stage, index, killed, value_bytes).await?);
        }
    }
    Ok(Restarts {
        mode: stage.mode,
        keys: stage.options.keys,
        value_bytes,
        level: Level::default_for(stage.mode).to_string(),
        restarts,
    })
}

async fn restart(
    stage: &mut Stage<'_>,
    index: usize,
    killed: bool,
    value_bytes: usize,
) -> anyhow::Result<Restart> {
    let node = stage.nodes[index].0;
    let ended = if killed { "killed" } else { "stopped" };
    stage.progress.step(&format!("{}: node {node} is {ended} and started again", stage.mode));
    let cluster = stage.cluster.as_mut().context("the nodes are not bench's own")?;
    let was_leader = stage.mode == Mode::Leader && cluster.known_leader().await? == index;
    if killed {
        cluster.kill(index)?;
    } else {
        cluster.terminate(index)?;
        let (status, _) = cluster.ended(index, STOPS_WITHIN).await?;
        ensure!(status.success(), "node {node} was told to stop and ended with {status}");
    }
    let began = stage.runtime.now();
    cluster.restart(index)?;
    until_ready(stage, index, began).await?;
    let ready = stage.runtime.now().duration_since(began);
    until_read(stage, index, began, value_bytes).await?;
    let first_read = stage.runtime.now().duration_since(began);
    if let Some(cluster) = &mut stage.cluster {
        cluster.wait_until_ready().await?;
    }
    Ok(Restart {
        node,
        was_leader,
        ended: ended.to_owned(),
        ready_ms: ready.as_secs_f64() * 1e3,
        first_read_ms: first_read.as_secs_f64() * 1e3,
    })
}

async fn until_ready(stage: &mut Stage<'_>, index: usize, began: Instant) -> anyhow::Result<()> {
    let (node, address) = stage.nodes[index];
    while !is_ready(stage.runtime, address).await {
        let runs = stage.cluster.as_mut().map(|cluster| cluster.is_running(index)).transpose()?;
        ensure!(runs != Some(false), "node {node} ended instead of coming back");
        if stage.runtime.now() >= began + BACK_WITHIN {
            bail!("node {node} was not ready again within {} s", BACK_WITHIN.as_secs());
        }
        stage.runtime.sleep(ASK_EVERY).await;
    }
    Ok(())
}

/// Reads the first key through the node until it is there.
async fn until_read(
    stage: &Stage<'_>,
    index: usize,
    began: Instant,
    value_bytes: usize,
) -> anyhow::Result<()> {
    let (node, address) = stage.nodes[index];
    let target = format!("/v1/kv/{}", key(&prefix(value_bytes), 0)?);
    let mut connection = Connection::new(stage.runtime.clone(), address, READ_WITHIN);
    let mut last = "no answer".to_owned();
    while stage.runtime.now() < began + BACK_WITHIN {
        match connection.call("GET", &target, b"").await {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => last = crate::lab::answers::code_of(answer.status, answer.body),
            Err(failure) => last = failure.to_string(),
        }
        stage.runtime.sleep(ASK_EVERY).await;
    }
    bail!("node {node} did not answer a read within {} s: {last}", BACK_WITHIN.as_secs())
}
