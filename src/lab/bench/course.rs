//! A node that is killed and comes back, under a steady load through the others: what requests cost
//! before, without it, while it gets what it missed, and after.
//!
//! What it misses, and how it is seen that it has it, is an [`Absence`]'s: `snapshots`, `absences`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::options::STEADY_RATE;
use super::pace::{open, stop};
use super::results::Part;
use super::schedule::Schedule;
use super::stage::{Load, Stage};
use super::worker::Ground;
use crate::lab::cluster::Cluster;
use crate::runtime::Instant;
use crate::types::Mode;

/// How often it is looked whether the node has it all.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a node misses while it is away.
pub trait Absence {
    /// What happens meanwhile, and what the node then gets, in words.
    const WORDS: (&'static str, &'static str);

    /// Does to the others what the node misses.
    async fn meanwhile(&mut self, course: &Course<'_>) -> anyhow::Result<()>;

    /// Waits until the node, started at `began`, has what it missed.
    async fn until_back(
        &self,
        course: &Course<'_>,
        cluster: &mut Cluster,
        began: Instant,
    ) -> anyhow::Result<()>;
}

/// What was measured.
pub struct Ran {
    pub node: u16,
    /// From the start of the node's process until it had what it missed.
    pub back_ms: f64,
    /// Arrivals of the load for which there was no room.
    pub missed: u64,
    pub parts: Vec<Part>,
}

/// One run.
pub struct Course<'a> {
    pub stage: &'a Stage<'a>,
    /// The nodes that go on running, through which the load goes.
    pub others: &'a Stage<'a>,
    ground: Arc<Ground>,
    pub load: Load,
    /// The index of the node that is killed.
    pub victim: usize,
}

/// Runs one, on the stage's own nodes.
pub async fn run(
    stage: &mut Stage<'_>,
    load: Load,
    absence: &mut impl Absence,
) -> anyhow::Result<Ran> {
    let rate_per_second = load.rate_per_second.unwrap_or(STEADY_RATE);
    let load = Load { rate_per_second: Some(rate_per_second), ..load };
    let mut cluster = stage.cluster.take().context("the nodes are not bench's own")?;
    let ran = under_load(stage, &mut cluster, load, absence).await;
    stage.cluster = Some(cluster);
    ran
}

async fn under_load(
    stage: &Stage<'_>,
    cluster: &mut Cluster,
    load: Load,
    absence: &mut impl Absence,
) -> anyhow::Result<Ran> {
    let first = match stage.mode {
        Mode::Leader => cluster.known_leader().await?,
        Mode::Leaderless => 0,
    };
    let victim = (first + 1) % stage.nodes.len();
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
        let parts = course.run(cluster, absence).await;
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

impl Course<'_> {
    async fn run<A: Absence>(&self, cluster: &mut Cluster, absence: &mut A) -> anyhow::Result<Ran> {
        let (options, node) = (self.stage.options, self.stage.nodes[self.victim].0);
        let (meanwhile, gets) = A::WORDS;
        let mut parts = Vec::new();
        self.stage.runtime.sleep(options.warm_up).await;
        parts.push(self.part("before", options.duration).await?);
        self.step(&format!("node {node} is killed, and {meanwhile}"));
        cluster.kill(self.victim)?;
        absence.meanwhile(self).await?;
        parts.push(self.part("without", options.duration).await?);
        self.step(&format!("node {node} is back, and {gets}"));
        let (began, began_us) = self.begin()?;
        cluster.restart(self.victim)?;
        absence.until_back(self, cluster, began).await?;
        let back = self.stage.runtime.now().duration_since(began);
        parts.push(self.end("while", began_us)?);
        cluster.wait_until_ready().await?;
        self.stage.runtime.sleep(options.warm_up).await;
        parts.push(self.part("after", options.duration).await?);
        Ok(Ran { node, back_ms: back.as_secs_f64() * 1e3, missed: 0, parts })
    }

    fn step(&self, what: &str) {
        self.stage.progress.step(&format!("{}: {what}", self.stage.mode));
    }

    /// Forgets what was counted so far.
    fn begin(&self) -> anyhow::Result<(Instant, u64)> {
        self.ground.take_tally()?;
        Ok((self.stage.runtime.now(), self.ground.now_us()))
    }

    fn end(&self, name: &str, began_us: u64) -> anyhow::Result<Part> {
        let seconds = (self.ground.now_us() - began_us) as f64 / 1e6;
        let row = self.others.row(self.load, &self.ground.take_tally()?, seconds)?;
        Ok(Part { name: name.to_owned(), row })
    }

    async fn part(&self, name: &str, length: Duration) -> anyhow::Result<Part> {
        let (_, began_us) = self.begin()?;
        self.stage.runtime.sleep(length).await;
        self.end(name, began_us)
    }
}
