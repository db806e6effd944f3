//! A node that is killed and comes back, under a steady load through the others: what requests cost
//! before, without it, while it gets what it missed, and after.
//!
//! What it misses, and how it is seen that it has it, is an [`Absence`]'s: `snapshots`, `absences`.

use std::time::Duration;

use super::results::Part;
use super::stage::{Load, Stage};
use super::steady::Steady;
use crate::lab::cluster::Cluster;
use crate::runtime::Instant;
use crate::types::Mode;

/// How often it is looked whether the node has it all. A look may read a page of a thousand rows on the
/// node that is measured: twenty a second took a seventh of two cores.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

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
    pub load: Load,
    /// The index of the node that is killed.
    pub victim: usize,
    steady: &'a Steady<'a>,
}

/// Runs one, on the stage's own nodes.
pub async fn run(
    stage: &mut Stage<'_>,
    load: Load,
    absence: &mut impl Absence,
) -> anyhow::Result<Ran> {
    stage.with_cluster(async |stage, cluster| under_load(stage, cluster, load, absence).await).await
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
    let steady = Steady::new(&others, load, false)?;
    let course = Course { stage, others: &others, load: steady.load, victim, steady: &steady };
    let (mut ran, offered) = steady.during(course.run(cluster, absence)).await?;
    ran.missed = offered.missed;
    Ok(ran)
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
        parts.push(self.part("before").await?);
        self.step(&format!("node {node} is killed, and {meanwhile}"));
        cluster.kill(self.victim)?;
        absence.meanwhile(self).await?;
        parts.push(self.part("without").await?);
        self.step(&format!("node {node} is back, and {gets}"));
        let (began, began_us) = self.steady.begin()?;
        cluster.restart(self.victim)?;
        absence.until_back(self, cluster, began).await?;
        let back = self.stage.runtime.now().duration_since(began);
        parts.push(self.steady.end("while", began_us)?.0);
        cluster.wait_until_ready().await?;
        self.stage.runtime.sleep(options.warm_up).await;
        parts.push(self.part("after").await?);
        Ok(Ran { node, back_ms: back.as_secs_f64() * 1e3, missed: 0, parts })
    }

    fn step(&self, what: &str) {
        self.stage.progress.step(&format!("{}: {what}", self.stage.mode));
    }

    async fn part(&self, name: &str) -> anyhow::Result<Part> {
        Ok(self.steady.part(name, self.stage.options.duration).await?.0)
    }
}
