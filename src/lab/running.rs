//! Nodes that somebody else started: whether they are ready, and who they are.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::http::Connection;
use crate::runtime::Runtime;
use crate::types::Mode;

/// A node must be ready this long after it was first asked.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How often a node that is not ready is asked again.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// One question must be answered within this time.
const ASK_WITHIN: Duration = Duration::from_millis(2_500);

/// Waits until the node at `address` says that it is ready.
pub async fn until_ready(runtime: &Runtime, address: SocketAddr) -> anyhow::Result<()> {
    let deadline = runtime.now() + READY_WITHIN;
    while !is_ready(runtime, address).await {
        if runtime.now() >= deadline {
            bail!("{address} was not ready within {} s", READY_WITHIN.as_secs());
        }
        runtime.sleep(ASK_EVERY).await;
    }
    Ok(())
}

/// Whether the node at `address` says that it is ready.
pub async fn is_ready(runtime: &Runtime, address: SocketAddr) -> bool {
    let mut connection = Connection::new(runtime.clone(), address, ASK_WITHIN);
    connection.call("GET", "/readyz", b"").await.is_ok_and(|answer| answer.status == 200)
}

/// The id and the mode that a node says it has.
pub async fn introduce(runtime: &Runtime, address: SocketAddr) -> anyhow::Result<(u16, Mode)> {
    let mut connection = Connection::new(runtime.clone(), address, ASK_WITHIN);
    let answer = connection.call("GET", "/v1/cluster", b"").await;
    let answer = answer.with_context(|| format!("{address}: GET /v1/cluster"))?;
    let status: serde_json::Value = serde_json::from_slice(answer.body)
        .with_context(|| format!("{address}: /v1/cluster is not JSON"))?;
    let id = status["node"].as_u64().and_then(|id| u16::try_from(id).ok());
    let mode = status["mode"].as_str().and_then(|mode| mode.parse().ok());
    id.zip(mode).with_context(|| format!("{address}: /v1/cluster names no node and mode"))
}

/// The one mode of a cluster, and the id of each of its nodes, all of which are ready.
pub async fn introduce_all(
    runtime: &Runtime,
    addresses: &[SocketAddr],
) -> anyhow::Result<(Mode, Vec<(u16, SocketAddr)>)> {
    let mut nodes = Vec::new();
    let mut modes = Vec::new();
    for address in addresses {
        until_ready(runtime, *address).await?;
        let (id, mode) = introduce(runtime, *address).await?;
        nodes.push((id, *address));
        modes.push(mode);
    }
    let mode = *modes.first().context("no address was given")?;
    ensure!(modes.iter().all(|other| *other == mode), "the nodes are not of one mode: {modes:?}");
    Ok((mode, nodes))
}
