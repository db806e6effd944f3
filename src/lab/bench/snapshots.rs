//! A follower that comes back to a log that was cut: what puts cost while it is sent a snapshot.
//!
//! A follower is killed, every key is written again until the leader's log begins beyond what the
//! follower has, and it is started again. All the while an open loop of puts goes through the other
//! nodes, and each part of it is a row of its own: before the kill, without the follower, while the
//! snapshot goes over and is installed, and after.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::course::{self, Absence, Course, LOOK_EVERY};
use super::loading::{self, Loading};
use super::results::Snapshot;
use super::stage::{Load, Stage};
use super::worker::{TIMEOUT, prefix};
use crate::lab::cluster::Cluster;
use crate::lab::http::Connection;
use crate::lab::readings::Counters;
use crate::runtime::Instant;

/// How often every key is written again, at most, until the log was cut far enough.
const REWRITES: usize = 50;
/// A checkpoint cuts the log within this time of the writes.
const CUT_WITHIN: Duration = Duration::from_secs(15);
/// A snapshot is sent and installed within this time.
const INSTALLED_WITHIN: Duration = Duration::from_secs(900);

/// Measures one snapshot in leader mode.
pub async fn run(stage: &mut Stage<'_>, load: Load) -> anyhow::Result<Snapshot> {
    let ran = course::run(stage, load, &mut CutLog).await?;
    Ok(Snapshot {
        mode: stage.mode,
        node: ran.node,
        keys: stage.options.keys,
        value_bytes: load.value_bytes,
        installed_ms: ran.back_ms,
        missed: ran.missed,
        parts: ran.parts,
    })
}

/// A follower misses the end of a log that is cut.
struct CutLog;

impl Absence for CutLog {
    const WORDS: (&'static str, &'static str) =
        ("every key is written again", "is sent a snapshot");

    /// Writes every key again until the logs of the other nodes begin where they end now, or later: what
    /// the follower has is no longer in them.
    async fn meanwhile(&mut self, course: &Course<'_>) -> anyhow::Result<()> {
        let (stage, others) = (course.stage, course.others);
        let mut ends = Vec::new();
        for index in 0..others.nodes.len() {
            ends.push(log_of(others, index).await?.next_position);
        }
        for _ in 0..REWRITES {
            let loading = Loading {
                nodes: others.nodes.clone(),
                prefix: prefix(course.load.value_bytes),
                keys: stage.options.keys,
                value_bytes: course.load.value_bytes,
            };
            loading::load(stage.runtime, loading).await?;
            let give_up_at = stage.runtime.now() + CUT_WITHIN;
            while stage.runtime.now() < give_up_at {
                let mut cut = true;
                for (index, end) in ends.iter().enumerate() {
                    cut &= log_of(others, index).await?.first_position >= *end;
                }
                if cut {
                    return Ok(());
                }
                stage.runtime.sleep(LOOK_EVERY * 2).await;
            }
        }
        bail!("every key was written {REWRITES} times, and no log was cut: expected more --keys")
    }

    async fn until_back(
        &self,
        course: &Course<'_>,
        cluster: &mut Cluster,
        began: Instant,
    ) -> anyhow::Result<()> {
        let (stage, (node, address)) = (course.stage, course.stage.nodes[course.victim]);
        while stage.runtime.now() < began + INSTALLED_WITHIN {
            // It cannot be asked before it listens.
            if let Ok(counters) = Counters::of(stage.runtime, &[address]).await
                && counters.get("snapshots_installed").is_some_and(|installed| installed > 0.0)
            {
                return Ok(());
            }
            ensure!(cluster.is_running(course.victim)?, "node {node} ended instead of coming back");
            stage.runtime.sleep(LOOK_EVERY).await;
        }
        bail!("node {node} was sent no snapshot within {} s", INSTALLED_WITHIN.as_secs())
    }
}

/// What `/v1/node` tells of a node's commit log.
#[derive(Deserialize)]
struct LogFacts {
    first_position: u64,
    next_position: u64,
}

#[derive(Deserialize)]
struct NodeFacts {
    log: LogFacts,
}

async fn log_of(stage: &Stage<'_>, index: usize) -> anyhow::Result<LogFacts> {
    let (node, address) = stage.nodes[index];
    let mut connection = Connection::new(stage.runtime.clone(), address, TIMEOUT);
    match connection.call("GET", "/v1/node", b"").await {
        Ok(answer) => {
            let facts: NodeFacts = serde_json::from_slice(answer.body)
                .with_context(|| format!("node {node} tells nothing of its log"))?;
            Ok(facts.log)
        }
        Err(failure) => bail!("node {node} was asked for its log: {failure}"),
    }
}
