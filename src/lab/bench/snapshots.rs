//! A follower that comes back to a log that was cut: what puts cost while it is sent a snapshot.
//!
//! A follower is killed, every key is written again until the leader's log begins beyond what the
//! follower has, and it is started again. All the while an open loop of puts goes through the other
//! nodes, and each part of it is a row of its own: before the kill, without the follower, while the
//! snapshot goes over and is installed, and after.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::loading::{self, Loading};
use super::options::STEADY_RATE;
use super::pace::{open, stop};
use super::results::{Snapshot, SnapshotPart};
use super::schedule::Schedule;
use super::stage::{Load, Stage};
use super::worker::{Ground, TIMEOUT};
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
/// How often it is looked whether it is: what the time until then is exact to.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Measures one snapshot in leader mode.
pub async fn run(stage: &mut Stage<'_>, load: Load) -> anyhow::Result<Snapshot> {
    let rate_per_second = load.rate_per_second.unwrap_or(STEADY_RATE);
    let load = Load { rate_per_second: Some(rate_per_second), ..load };
    let mut cluster = stage.cluster.take().context("the nodes are not bench's own")?;
    let ran = under_load(stage, &mut cluster, load).await;
    stage.cluster = Some(cluster);
    ran
}

async fn under_load(
    stage: &Stage<'_>,
    cluster: &mut Cluster,
    load: Load,
) -> anyhow::Result<Snapshot> {
    let leader = cluster.known_leader().await?;
    let victim = (leader + 1) % stage.nodes.len();
    let others = Stage {
        nodes: except(&stage.nodes, victim),
        cluster: None,
        runtime: stage.runtime,
        options: stage.options,
        progress: stage.progress,
        mode: stage.mode,
    };
    let course =
        Course { stage, others: &others, ground: others.ground(load, false)?, load, victim };
    let (stop, stopped) = stop();
    let workers = course.ground.workers(load.connections);
    let schedule = Schedule::new(load.rate_per_second.unwrap_or(STEADY_RATE), u64::MAX);
    let parts = async {
        let parts = course.run(cluster).await;
        // Whether it went well or not, the load ends here.
        drop(stop);
        parts
    };
    let offered = open(workers, schedule, stage.options.max_in_flight, stopped);
    let (found, offered) = tokio::join!(biased; parts, offered);
    let (_, offered) = offered?;
    let mut found = found?;
    found.missed = offered.missed;
    Ok(found)
}

fn except<T: Copy>(all: &[T], index: usize) -> Vec<T> {
    let others = all.iter().enumerate().filter(|(at, _)| *at != index);
    others.map(|(_, one)| *one).collect()
}

/// The course of one snapshot.
struct Course<'a> {
    stage: &'a Stage<'a>,
    /// The nodes that go on running, through which the load goes.
    others: &'a Stage<'a>,
    ground: Arc<Ground>,
    load: Load,
    /// The index of the follower.
    victim: usize,
}

impl Course<'_> {
    async fn run(&self, cluster: &mut Cluster) -> anyhow::Result<Snapshot> {
        let (options, node) = (self.stage.options, self.stage.nodes[self.victim].0);
        let mut parts = Vec::new();
        self.stage.runtime.sleep(options.warm_up).await;
        parts.push(self.part("before", options.duration).await?);
        self.step(&format!("node {node} is killed, and every key is written again"));
        cluster.kill(self.victim)?;
        self.write_until_cut().await?;
        parts.push(self.part("without", options.duration).await?);
        self.step(&format!("node {node} is back, and is sent a snapshot"));
        let (began, began_us) = self.begin()?;
        cluster.restart(self.victim)?;
        self.until_installed(cluster, began).await?;
        let installed = self.stage.runtime.now().duration_since(began);
        parts.push(self.end("while", began_us)?);
        cluster.wait_until_ready().await?;
        self.stage.runtime.sleep(options.warm_up).await;
        parts.push(self.part("after", options.duration).await?);
        Ok(Snapshot {
            mode: self.stage.mode,
            node,
            keys: options.keys,
            value_bytes: self.load.value_bytes,
            installed_ms: installed.as_secs_f64() * 1e3,
            missed: 0,
            parts,
        })
    }

    fn step(&self, what: &str) {
        self.stage.progress.step(&format!("{}: {what}", self.stage.mode));
    }

    /// Forgets what was counted so far.
    fn begin(&self) -> anyhow::Result<(Instant, u64)> {
        self.ground.take_tally()?;
        Ok((self.stage.runtime.now(), self.ground.now_us()))
    }

    fn end(&self, name: &str, began_us: u64) -> anyhow::Result<SnapshotPart> {
        let seconds = (self.ground.now_us() - began_us) as f64 / 1e6;
        let row = self.others.row(self.load, &self.ground.take_tally()?, seconds)?;
        Ok(SnapshotPart { name: name.to_owned(), row })
    }

    async fn part(&self, name: &str, length: Duration) -> anyhow::Result<SnapshotPart> {
        let (_, began_us) = self.begin()?;
        self.stage.runtime.sleep(length).await;
        self.end(name, began_us)
    }

    /// Writes every key again until the logs of the other nodes begin where they end now, or later: what
    /// the follower has is no longer in them.
    async fn write_until_cut(&self) -> anyhow::Result<()> {
        let stage = self.stage;
        let mut ends = Vec::new();
        for index in 0..self.others.nodes.len() {
            ends.push(log_of(self.others, index).await?.next_position);
        }
        for _ in 0..REWRITES {
            let loading = Loading {
                nodes: self.others.nodes.clone(),
                keys: stage.options.keys,
                value_bytes: self.load.value_bytes,
            };
            loading::load(stage.runtime, loading).await?;
            let give_up_at = stage.runtime.now() + CUT_WITHIN;
            while stage.runtime.now() < give_up_at {
                let mut cut = true;
                for (index, end) in ends.iter().enumerate() {
                    cut &= log_of(self.others, index).await?.first_position >= *end;
                }
                if cut {
                    return Ok(());
                }
                stage.runtime.sleep(LOOK_EVERY * 10).await;
            }
        }
        bail!("every key was written {REWRITES} times, and no log was cut: expected more --keys")
    }

    async fn until_installed(&self, cluster: &mut Cluster, began: Instant) -> anyhow::Result<()> {
        let (node, address) = self.stage.nodes[self.victim];
        while self.stage.runtime.now() < began + INSTALLED_WITHIN {
            // It cannot be asked before it listens.
            if let Ok(counters) = Counters::of(self.stage.runtime, &[address]).await
                && counters.get("snapshots_installed").is_some_and(|installed| installed > 0.0)
            {
                return Ok(());
            }
            ensure!(cluster.is_running(self.victim)?, "node {node} ended instead of coming back");
            self.stage.runtime.sleep(LOOK_EVERY).await;
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
