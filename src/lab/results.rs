//! What a comparison found: the figures that every report is made from, and `results.json`.
//!
//! A figure that could not be taken is absent, with its reason; nothing is ever filled in.

use serde::{Deserialize, Serialize};

use super::contestant::Contestant;
use super::process::Machine;
use super::stats::Percentiles;
use crate::check::Finding;
use crate::history::Action;

/// The version of `results.json`. A change that a reader of the old form would misread raises it:
/// since 2 two contestants may have the same mode, and are told apart by name.
pub const FORMAT: u32 = 2;

/// A whole comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub format: u32,
    pub quorate_version: String,
    pub seed: u64,
    /// Whether this was the short form.
    pub quick: bool,
    /// Milliseconds since 1970.
    pub started_wall_ms: u64,
    pub duration_s: f64,
    /// Whether it was ended before it was done.
    pub interrupted: bool,
    pub machine: Machine,
    pub nodes: u16,
    pub engine: String,
    pub contestants: Vec<ContestantResults>,
}

/// One of the things compared, with everything that was measured of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContestantResults {
    pub name: String,
    #[serde(flatten)]
    pub contestant: Contestant,
    /// The level of requests that name none.
    pub default_level: String,
    /// The level as answers named it, such as `quorum; r=2; w=2; n=3`; absent where none did.
    pub served_level: Option<String>,
    /// How its nodes were started: the command of the first.
    pub command: Option<String>,
    pub throughput: Section<Throughput>,
    pub killed_node: Section<KilledNode>,
    pub stale_reads: Section<StaleReads>,
    pub checked: Vec<CheckedHistory>,
}

/// An experiment's figures, or why there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Section<T> {
    Done {
        figures: T,
    },
    /// It was started and did not come to an end.
    Failed {
        reason: String,
    },
    /// It was not asked for, or the comparison ended before it.
    Skipped,
}

impl<T> Section<T> {
    /// The figures, where there are any.
    pub fn figures(&self) -> Option<&T> {
        match self {
            Section::Done { figures } => Some(figures),
            Section::Failed { .. } | Section::Skipped => None,
        }
    }

    /// Why there are no figures, in words; `None` where there are.
    pub fn missing(&self) -> Option<String> {
        match self {
            Section::Done { .. } => None,
            Section::Failed { reason } => Some(format!("it failed: {reason}")),
            Section::Skipped => Some("it was not run".to_owned()),
        }
    }
}

/// How operations ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub done: u64,
    pub failed: u64,
    pub unknown: u64,
}

/// Experiment 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    pub value_bytes: usize,
    pub keys: usize,
    pub loads: Vec<Load>,
    pub idle: Option<Idle>,
}

impl Throughput {
    /// The load of `action` over `connections`.
    pub fn load(&self, action: Action, connections: usize) -> Option<&Load> {
        self.loads.iter().find(|load| load.action == action && load.connections == connections)
    }
}

/// One action over some connections, each with one request under way at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    pub action: Action,
    pub connections: usize,
    pub seconds: f64,
    pub counts: Counts,
    pub per_second: f64,
    /// Of operations that were done.
    pub latency: Option<Percentiles>,
    /// Of all nodes together, per operation done; absent where it could not be measured.
    pub cpu_us_per_op: Option<f64>,
    pub syncs_per_op: Option<f64>,
    pub messages_per_op: Option<f64>,
    pub peer_bytes_per_op: Option<f64>,
    /// Resident memory of all nodes together, after the load.
    pub resident_bytes: Option<u64>,
}

/// What the nodes do when nobody asks anything, all of them together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    pub seconds: f64,
    pub cpu_us_per_second: Option<f64>,
    pub syncs_per_second: Option<f64>,
    pub messages_per_second: Option<f64>,
    pub peer_bytes_per_second: Option<f64>,
}

/// Experiment 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KilledNode {
    pub node: u16,
    pub was_leader: bool,
    pub clients: usize,
    pub rate_per_second: f64,
    pub timeout_ms: u64,
    /// When, from the start of the load.
    pub killed_ms: f64,
    pub restarted_ms: f64,
    /// When the restarted node said that it was ready.
    pub ready_again_ms: f64,
    pub ended_ms: f64,
    pub bucket_ms: u64,
    pub buckets: Vec<Bucket>,
    pub writes: Counts,
    pub reads: Counts,
    /// Requests that a client did not send on time because its last one was still under way.
    pub skipped: u64,
    /// From the kill until a write that was asked for after it was done; absent where none was.
    pub first_write_ms: Option<f64>,
    /// The longest time without a done write, from the kill on.
    pub longest_write_gap_ms: f64,
    pub longest_read_gap_ms: f64,
    /// The same before the kill, for scale.
    pub usual_write_gap_ms: f64,
}

impl KilledNode {
    /// What ended the time without writes.
    pub fn writes_returned(&self) -> WritesReturned {
        match self.first_write_ms {
            None => WritesReturned::Never,
            Some(first_ms) if self.killed_ms + first_ms < self.restarted_ms => {
                WritesReturned::WithoutTheNode
            }
            Some(_) => WritesReturned::WithTheNode,
        }
    }
}

/// When writes that were asked for after the kill were done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritesReturned {
    /// While the killed node was still gone.
    WithoutTheNode,
    /// Not before it was started again.
    WithTheNode,
    Never,
}

/// What clients were told in one slice of the timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    pub done: u64,
    pub failed: u64,
    pub unknown: u64,
}

/// Experiment 3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StaleReads {
    pub readers: usize,
    pub points: Vec<StalePoint>,
}

impl StaleReads {
    /// The levels that were read at, in order.
    pub fn levels(&self) -> Vec<&str> {
        let mut levels: Vec<&str> = Vec::new();
        for point in &self.points {
            if !levels.contains(&point.level.as_str()) {
                levels.push(&point.level);
            }
        }
        levels
    }

    /// The point of `level` after `delay_ms`.
    pub fn point(&self, level: &str, delay_ms: u64) -> Option<&StalePoint> {
        self.points.iter().find(|point| point.level == level && point.delay_ms == delay_ms)
    }
}

/// Reads on another node, some time after a write was acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StalePoint {
    pub level: String,
    pub served: Option<String>,
    /// Whether this level promises that no read misses an acknowledged write.
    pub promised: bool,
    pub delay_ms: u64,
    /// How long the wait really was, in the middle.
    pub real_delay_ms: Option<f64>,
    pub reads: u64,
    pub missed: u64,
    /// Trials that gave no verdict: the write or the read was not done.
    pub no_verdict: u64,
}

impl StalePoint {
    /// The share of reads that missed the write.
    pub fn share(&self) -> Option<f64> {
        (self.reads > 0).then(|| self.missed as f64 / self.reads as f64)
    }
}

/// A history, and what the checks found in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckedHistory {
    pub experiment: String,
    /// Where the history lies, from the report's directory.
    pub file: String,
    pub operations: u64,
    pub acknowledged_writes: u64,
    /// Acknowledged writes whose answer said that a newer version was already there.
    pub superseded_writes: u64,
    pub findings: Vec<Finding>,
}

/// What came of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every promise that was checked held.
    Kept,
    /// Promises were broken: one line each.
    Broken(Vec<String>),
    /// No promise was seen broken, but not everything could be checked: one line a reason.
    Unknown(Vec<String>),
}

impl Results {
    /// What follows from the results.
    pub fn verdict(&self) -> Verdict {
        let mut broken = Vec::new();
        let mut unknown = Vec::new();
        for contestant in &self.contestants {
            let name = &contestant.name;
            for history in &contestant.checked {
                for finding in &history.findings {
                    let place = format!("{name}, {}", history.experiment);
                    let Finding { check, level, found, unverified, examined, .. } = finding;
                    if finding.is_broken() {
                        let example = finding.examples.first().map_or("", String::as_str);
                        broken.push(format!(
                            "{place}: {check} at {level}: {found} of {examined}, such as: {example}"
                        ));
                    } else if finding.is_unverified() {
                        unknown.push(format!(
                            "{place}: {check} at {level}: {unverified} could not be checked"
                        ));
                    }
                }
            }
            let sections = [
                ("throughput", failure(&contestant.throughput)),
                ("killed-node", failure(&contestant.killed_node)),
                ("stale-reads", failure(&contestant.stale_reads)),
            ];
            let failed = sections.iter().filter_map(|(what, why)| why.map(|why| (what, why)));
            unknown.extend(failed.map(|(what, why)| format!("{name}, {what} failed: {why}")));
        }
        if self.interrupted {
            unknown.push("the comparison was interrupted".to_owned());
        }
        match (broken.is_empty(), unknown.is_empty()) {
            (false, _) => Verdict::Broken(broken),
            (true, false) => Verdict::Unknown(unknown),
            (true, true) => Verdict::Kept,
        }
    }
}

fn failure<T>(section: &Section<T>) -> Option<&str> {
    match section {
        Section::Failed { reason } => Some(reason),
        Section::Done { .. } | Section::Skipped => None,
    }
}
