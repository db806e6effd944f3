//! Load and checks for a cluster that somebody else breaks, such as containers under a script.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::segment::{Segment, SegmentReport};
use super::{CLIENT_TIMEOUT, VALUE_BYTES};
use crate::lab::load::Scene;
use crate::lab::running::{introduce_all, until_ready};
use crate::runtime::Runtime;

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
    let (mode, nodes) = introduce_all(runtime, &options.addresses).await?;
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
