//! Load and checks for a cluster that somebody else breaks, such as containers under a script.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::segment::{Segment, SegmentReport};
use super::{CLIENT_TIMEOUT, VALUE_BYTES};
use crate::lab::http::Connection;
use crate::lab::load::Scene;
use crate::runtime::Runtime;
use crate::types::Mode;

/// Every node must be ready this long after the load was to end.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How often a node that is not ready is asked again.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Which cluster, and for how long.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// The client address of each node.
    pub addresses: Vec<SocketAddr>,
    pub load_for: Duration,
    pub seed: u64,
    /// Where evidence is written.
    pub out: PathBuf,
}

/// Loads the cluster while something else breaks it, waits until every node is ready again, reads
/// everything back, and checks. The keys begin with the wall clock, so that runs do not meet.
pub async fn attach(runtime: &Runtime, options: &AttachOptions) -> anyhow::Result<SegmentReport> {
    let mut nodes = Vec::new();
    let mut modes = Vec::new();
    for address in &options.addresses {
        until_ready(runtime, *address).await?;
        let (id, mode) = introduce(runtime, *address).await?;
        nodes.push((id, *address));
        modes.push(mode);
    }
    let mode = *modes.first().context("no address was given")?;
    ensure!(modes.iter().all(|other| *other == mode), "the nodes are not of one mode: {modes:?}");
    let scene = Scene::new(runtime, mode, nodes, CLIENT_TIMEOUT, VALUE_BYTES, options.seed);
    let mut segment = Segment::begin(scene, runtime.wall_ms())?;
    segment.until_every_node_serves().await?;
    runtime.sleep(options.load_for).await;
    for address in &options.addresses {
        if let Err(error) = until_ready(runtime, *address).await {
            segment.note_problem(format!("{error:#}"));
        }
    }
    if let Err(error) = segment.until_every_node_serves().await {
        segment.note_problem(format!("{error:#}"));
    }
    segment.finish(options.seed, &options.out).await
}

async fn until_ready(runtime: &Runtime, address: SocketAddr) -> anyhow::Result<()> {
    let deadline = runtime.now() + READY_WITHIN;
    loop {
        let mut connection = Connection::new(runtime.clone(), address, CLIENT_TIMEOUT);
        if connection.call("GET", "/readyz", b"").await.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        if runtime.now() >= deadline {
            bail!("{address} was not ready within {} s", READY_WITHIN.as_secs());
        }
        runtime.sleep(ASK_EVERY).await;
    }
}

/// The id and the mode that a node says it has.
async fn introduce(runtime: &Runtime, address: SocketAddr) -> anyhow::Result<(u16, Mode)> {
    let mut connection = Connection::new(runtime.clone(), address, CLIENT_TIMEOUT);
    let answer = connection.call("GET", "/v1/cluster", b"").await?;
    let status: serde_json::Value = serde_json::from_slice(answer.body)
        .with_context(|| format!("{address}: /v1/cluster is not JSON"))?;
    let id = status["node"].as_u64().and_then(|id| u16::try_from(id).ok());
    let mode = status["mode"].as_str().and_then(|mode| mode.parse().ok());
    id.zip(mode).with_context(|| format!("{address}: /v1/cluster names no node and mode"))
}
