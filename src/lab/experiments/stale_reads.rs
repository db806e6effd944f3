//! Experiment 3: how often does a read on another node miss a write that was just acknowledged?
//!
//! Each trial writes a key of its own reader through one node, waits, and reads it through another,
//! at one level. Nobody else writes that key, so a read either shows the write or missed it. Where
//! the level promises freshness, one miss is a broken promise; the checks of the history find it.

use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, Stage};
use crate::history::{Ended, Op};
use crate::lab::load::{Ask, LabClient, Scene, read_back};
use crate::lab::results::{StalePoint, StaleReads};
use crate::lab::stats::median;
use crate::lab::workload::keys;
use crate::types::{Key, Level, Mode, Version};

/// A request of this experiment is given up after this time.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How much to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Readers at the same time.
    pub readers: usize,
    /// Of each reader, for each level and delay.
    pub trials: usize,
    pub delays_ms: Vec<u64>,
}

/// The levels that a mode offers for reads, and whether each promises freshness.
fn levels(mode: Mode, nodes: usize) -> Vec<(Ask, bool)> {
    let local = (Ask::level(Level::Local), false);
    match mode {
        Mode::Leader => vec![(Ask::level(Level::Linearizable), true), local],
        Mode::Leaderless => {
            let one = Ask { level: Level::Quorum, r: Some(1) };
            // Alone, one replica is every replica.
            vec![(Ask::level(Level::Quorum), true), (one, nodes == 1), local]
        }
    }
}

/// Runs the experiment.
pub async fn run(stage: &mut Stage<'_>, plan: &Plan) -> anyhow::Result<Outcome<StaleReads>> {
    let scene = stage.scene(TIMEOUT);
    let keys = keys("fresh", plan.readers)?;
    let (mut points, mut ops) = (Vec::new(), Vec::new());
    for (ask, promised) in levels(stage.contestant.mode, scene.nodes.len()) {
        let label = label(ask);
        stage.progress.step(&format!("{}: fresh or stale at {label}", stage.contestant));
        for delay_ms in &plan.delays_ms {
            let delay = Duration::from_millis(*delay_ms);
            let readers = keys.iter().map(|key| {
                let client = scene.client();
                let trials = trials(client, scene.clone(), key.clone(), ask, delay, plan.trials);
                scene.runtime.spawn(trials)
            });
            let mut all = Trials::default();
            for reader in readers.collect::<Vec<_>>() {
                let (trials, asked) = reader.await?;
                all.add(trials);
                ops.extend(asked);
            }
            points.push(StalePoint {
                level: label.clone(),
                served: served_at(&ops),
                promised,
                delay_ms: *delay_ms,
                real_delay_ms: median(all.delays_ms),
                reads: all.reads,
                missed: all.missed,
                no_verdict: all.no_verdict,
            });
        }
    }
    stage.progress.step(&format!("{}: reading everything back", stage.contestant));
    ops.extend(read_back(&scene, &keys).await);
    Ok(Outcome { figures: StaleReads { readers: plan.readers, points }, ops })
}

fn label(ask: Ask) -> String {
    ask.r.map_or(ask.level.to_string(), |r| format!("{} r={r}", ask.level))
}

/// The level that the last answered read says it was served at.
fn served_at(ops: &[Op]) -> Option<String> {
    let last = ops.iter().rev().find(|op| op.is_answered_read())?;
    last.served.map(|served| served.to_string())
}

#[derive(Default)]
struct Trials {
    reads: u64,
    missed: u64,
    no_verdict: u64,
    delays_ms: Vec<f64>,
}

impl Trials {
    fn add(&mut self, other: Trials) {
        self.reads += other.reads;
        self.missed += other.missed;
        self.no_verdict += other.no_verdict;
        self.delays_ms.extend(other.delays_ms);
    }
}

async fn trials(
    mut client: LabClient,
    scene: Arc<Scene>,
    key: Key,
    ask: Ask,
    delay: Duration,
    count: usize,
) -> (Trials, Vec<Op>) {
    let mut trials = Trials::default();
    let nodes = scene.nodes.len();
    for _ in 0..count {
        let writer = client.random.below(nodes);
        let reader = (writer + 1 + client.random.below(nodes.max(2) - 1)) % nodes;
        let written = client.put(writer, &key).await;
        let Some(version) = written.version.filter(|_| written.ended == Ended::Ok) else {
            trials.no_verdict += 1;
            continue;
        };
        if !delay.is_zero() {
            scene.runtime.sleep(delay).await;
        }
        let read = client.get(reader, &key, ask).await;
        if read.ended == Ended::Ok {
            trials.reads += 1;
            trials.missed += u64::from(read.version.unwrap_or(Version::ZERO) < version);
            trials.delays_ms.push((read.invoked_us - written.answered_us) as f64 / 1e3);
        } else {
            trials.no_verdict += 1;
        }
    }
    (trials, client.ops)
}
