//! The nemesis of real processes: a cluster of this very program, under load, that is killed,
//! paused, cut off, slowed down, misled about the time and denied its disk, again and again.
//!
//! **Why it exists.** The simulator tries far more worlds, but not the kernel, the sockets, the
//! table engines and the disk that nodes really run on. What happens here goes through the same
//! checks as every other history.
//!
//! **What it guarantees.** The same seed strikes with the same faults in the same order. It ends
//! only processes that it has started. Every fault that struck is counted and written down with its
//! time; a kind of fault that could not be tried is reported with its reason. A run that found
//! something keeps data directories, logs and histories.
//!
//! **What it does not do.** It does not imitate power loss: what a killed process wrote is in the
//! page cache of the kernel. It does not replay: the same seed gives the same faults, not the same
//! moments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::cluster::{Cluster, ClusterSpec};
use super::load::Scene;
use super::proxy::Tally;
use crate::config::Engine;
use crate::runtime::Runtime;
use crate::types::Mode;

mod attach;
mod disk;
mod faults;
mod marks;
mod schedule;
mod segment;
mod strike;
mod traffic;

pub use attach::{AttachOptions, attach};
pub use disk::SmallDisk;
pub use faults::{Cycle, Family, Fault, Shape, Who};
pub use schedule::Schedule;
pub use segment::{Segment, SegmentReport};
pub use strike::Field;

/// How many cycles a segment has at most.
pub const CYCLES_A_SEGMENT: u64 = 25;
/// How long a value is, in bytes.
const VALUE_BYTES: usize = 64;
/// A patient client gives up on an answer after this time: later than nodes do.
const CLIENT_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Settings of every node. Requests are given up soon, and segments, checkpoints and what is kept
/// of the log are so small that a few hundred writes cut the log and make a snapshot needed.
const SETTINGS: [&str; 4] = [
    "limits.request_timeout_ms=2000",
    "storage.log_segment_bytes=64KiB",
    "storage.checkpoint_log_bytes=256KiB",
    "leader.keep_entries=200",
];
/// How many nodes a cluster may have.
const MAX_NODES: u16 = 9;

/// What to do to what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `quorate` executable.
    pub binary: PathBuf,
    pub mode: Mode,
    pub nodes: u16,
    pub engine: Engine,
    pub families: Vec<Family>,
    pub seed: u64,
    /// Where evidence is written; data directories and logs are made here too.
    pub out: PathBuf,
}

/// A kind of fault that was asked for and could not be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTried {
    pub family: Family,
    pub reason: String,
}

/// A cluster and its nemesis.
pub struct Campaign {
    /// The cluster, for whoever wants to do more to it.
    pub field: Field,
    plan: Plan,
    schedule: Schedule,
    not_tried: Vec<NotTried>,
    segments: u64,
}

impl Campaign {
    /// Starts the cluster and waits until it is ready.
    pub async fn start(runtime: &Runtime, plan: Plan) -> anyhow::Result<Campaign> {
        ensure!(
            (2..=MAX_NODES).contains(&plan.nodes),
            "{} nodes: expected 2 to {MAX_NODES}, so that there is a link to break",
            plan.nodes
        );
        let mut families = plan.families.clone();
        let mut not_tried = Vec::new();
        let mut small_disk = None;
        if families.contains(&Family::Disk) {
            match small_disk_for_the_last(&plan) {
                Ok(disk) => small_disk = Some(disk),
                Err(error) => {
                    let reason = format!("{error:#}");
                    not_tried.push(NotTried { family: Family::Disk, reason });
                    families.retain(|family| *family != Family::Disk);
                }
            }
        }
        ensure!(!families.is_empty(), "no fault that could be tried: {}", describe(&not_tried));
        let schedule = Schedule::new(plan.seed, &families, usize::from(plan.nodes));
        let cluster = Cluster::start_linked(runtime, spec(&plan)).await?;
        let field = Field { runtime: runtime.clone(), cluster, disk: small_disk };
        Ok(Campaign { field, plan, schedule, not_tried, segments: 0 })
    }

    /// The kinds of faults that were asked for and cannot be tried here.
    pub fn not_tried(&self) -> &[NotTried] {
        &self.not_tried
    }

    /// What the proxies between the nodes did so far.
    pub fn links(&self) -> Tally {
        self.field.cluster.links().map(super::proxy::Links::tally).unwrap_or_default()
    }

    /// The next cycle of the schedule.
    pub fn draw(&mut self) -> Cycle {
        self.schedule.draw()
    }

    /// Begins a segment without faults; [`Segment::cycle`] makes them.
    pub async fn begin(&mut self) -> anyhow::Result<Segment> {
        self.segments += 1;
        let (mode, seed) = (self.plan.mode, self.plan.seed.wrapping_add(self.segments));
        let ids = self.field.cluster.ids();
        let nodes = ids.into_iter().zip(self.field.cluster.addresses()).collect();
        let runtime = &self.field.runtime;
        let scene = Scene::new(runtime, mode, nodes, CLIENT_TIMEOUT, VALUE_BYTES, seed);
        let segment = Segment::begin(scene, self.segments)?;
        segment.until_every_node_serves().await?;
        Ok(segment)
    }

    /// One whole segment of so many cycles. It ends early where the cluster does not come back.
    pub async fn segment(&mut self, cycles: u64) -> anyhow::Result<SegmentReport> {
        let mut segment = self.begin().await?;
        for _ in 0..cycles {
            let cycle = self.schedule.draw();
            if let Err(error) = segment.cycle(&mut self.field, &cycle).await {
                segment.note_problem(format!("{error:#}"));
                break;
            }
        }
        for panic in self.field.cluster.panics()? {
            segment.note_problem(panic);
        }
        segment.finish(self.plan.seed, &self.plan.out).await
    }

    /// Stops every node as it is and keeps what they wrote; says where.
    pub fn keep_evidence(&mut self) -> anyhow::Result<PathBuf> {
        for index in 0..self.field.cluster.ids().len() {
            if self.field.cluster.is_running(index)? {
                self.field.cluster.kill(index)?;
            }
        }
        let kept = self.field.cluster.keep_data();
        if let Some(disk) = &self.field.disk {
            // The small disk goes away: what is on it takes the place of the link to it.
            let data = data_of_the_last(&self.plan);
            std::fs::remove_file(&data)?;
            copy_all(&disk.data_dir(), &data)?;
        }
        Ok(kept)
    }

    /// Says that all went well: the nodes' logs are not kept.
    pub fn forget_logs(&mut self) {
        self.field.cluster.forget_logs();
    }
}

/// Adds up how often each kind of fault struck.
pub fn add_faults(sum: &mut BTreeMap<String, u64>, report: &SegmentReport) {
    for (kind, count) in &report.faults {
        *sum.entry(kind.clone()).or_default() += count;
    }
}

fn describe(not_tried: &[NotTried]) -> String {
    let each = not_tried.iter().map(|NotTried { family, reason }| format!("{family}: {reason}"));
    each.collect::<Vec<_>>().join("; ")
}

fn spec(plan: &Plan) -> ClusterSpec {
    let flags = SETTINGS.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]);
    ClusterSpec {
        binary: plan.binary.clone(),
        mode: plan.mode,
        nodes: plan.nodes,
        engine: plan.engine,
        name: name(plan),
        data_dir: plan.out.join("data"),
        logs_dir: plan.out.join("logs"),
        flags: flags.collect(),
    }
}

fn name(plan: &Plan) -> String {
    format!("nemesis-{}", plan.mode)
}

fn data_of_the_last(plan: &Plan) -> PathBuf {
    plan.out.join("data").join(name(plan)).join(format!("node-{}", plan.nodes))
}

/// Mounts a small disk and puts the last node's data directory on it.
fn small_disk_for_the_last(plan: &Plan) -> anyhow::Result<SmallDisk> {
    let disk = SmallDisk::mount(&plan.out.join(format!("small-disk-{}", plan.mode)))?;
    std::fs::create_dir_all(disk.data_dir())?;
    let data = data_of_the_last(plan);
    if let Some(parent) = data.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // The other nodes' directories are absolute or relative as `out` is; a link must be absolute.
    let target = std::fs::canonicalize(disk.data_dir())?;
    std::os::unix::fs::symlink(target, &data)
        .with_context(|| format!("cannot make {}", data.display()))?;
    Ok(disk)
}

fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_all(&entry.path(), &to)?,
            false => drop(std::fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}
