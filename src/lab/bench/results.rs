//! What a bench found: the figures that its tables are made from, and `bench.json`.
//!
//! A figure that could not be taken is absent; nothing is ever filled in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::lab::process::Machine;
use crate::lab::readings::Costs;
use crate::lab::results::Counts;
use crate::lab::stats::Percentiles;
use crate::types::Mode;

/// The version of `bench.json`. A change that a reader of the old form would misread raises it.
pub const FORMAT: u32 = 1;

/// A whole bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchResults {
    pub format: u32,
    pub quorate_version: String,
    /// Milliseconds since 1970.
    pub started_wall_ms: u64,
    pub seconds: f64,
    pub seed: u64,
    pub machine: Machine,
    pub setup: Setup,
    pub rows: Vec<Row>,
    pub kills: Vec<Kills>,
    pub restarts: Vec<Restarts>,
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    #[serde(default)]
    pub absences: Vec<Absent>,
    #[serde(default)]
    pub growths: Vec<Growth>,
    /// Why it ended before it was done; absent where it did not.
    pub ended_early: Option<String>,
}

/// What was measured, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The nodes that somebody else started; empty for clusters of bench's own.
    pub targets: Vec<String>,
    pub nodes: usize,
    /// Absent where the nodes were started by somebody else.
    pub engine: Option<String>,
    /// Settings of the nodes that are not the defaults.
    pub settings: Vec<String>,
    pub keys: usize,
    /// Whether every key was written first.
    pub loaded: bool,
    pub duration_s: f64,
    pub warm_up_s: f64,
    /// A request without an answer was given up after this time.
    pub timeout_ms: u64,
    /// Of an open loop: how many arrivals may wait or be under way.
    pub max_in_flight: Option<usize>,
}

/// One load: a mix, over some connections, with values of one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub mode: Mode,
    pub mix: String,
    /// The level of the reads; absent where there are none.
    pub level: Option<String>,
    pub value_bytes: usize,
    pub connections: usize,
    /// Absent for a closed loop.
    pub rate_per_second: Option<u64>,
    pub seconds: f64,
    /// Of an open loop: how many requests were to start, and how many of them never did.
    pub offered: Option<u64>,
    pub missed: u64,
    pub operations: Counts,
    pub errors: BTreeMap<String, u64>,
    /// Reads that found nothing; they count as done.
    pub not_found: u64,
    /// Acknowledged writes that had already lost to a newer version.
    pub superseded: u64,
    /// Operations done.
    pub per_second: f64,
    /// Of operations that were done; in an open loop from the intended start.
    pub latency: Option<Percentiles>,
    /// The same of writes and of reads alone, where the row has both.
    pub put_latency: Option<Percentiles>,
    pub get_latency: Option<Percentiles>,
    /// How late this program was in starting what was due, in an open loop.
    pub start_delay: Option<Percentiles>,
    /// Of all nodes together, for each operation that was done.
    pub costs: Costs,
    /// CPU time of this program, for each operation that was done.
    pub client_cpu_us: Option<f64>,
    /// Checkpoints that the nodes took meanwhile.
    pub checkpoints: Option<u64>,
    /// The sum of each node's peak.
    pub peak_resident_bytes: Option<u64>,
    /// Elections won meanwhile: none, unless heartbeats came too late, or somebody asked for one.
    #[serde(default)]
    pub elections: Option<u64>,
    /// Memory and disk use meanwhile, where they were watched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
}

/// What all nodes together used at one moment of a load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// From the beginning of the measured part.
    pub at_s: f64,
    pub resident_bytes: u64,
    /// What the commit logs take on the disk.
    pub log_bytes: u64,
    /// What everything else in the data directories takes.
    pub table_bytes: u64,
}

/// Nodes killed one after the other under a steady load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kills {
    pub mode: Mode,
    /// `leader`, `follower`, or `node` where none leads.
    pub victims: String,
    /// `killed` by SIGKILL, `stopped` by SIGTERM, or `paused` by SIGSTOP.
    #[serde(default = "killed")]
    pub ended: String,
    pub kills: Vec<Kill>,
    /// Of nodes that were killed: until a write was served again, where one was. Of nodes that were
    /// stopped: the longest time without one.
    pub gap: Option<GapSummary>,
    /// The load, all of it.
    pub load: Row,
    #[serde(flatten)]
    pub kept: ReadBack,
}

/// What became of the writes that were acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadBack {
    pub acknowledged_writes: u64,
    /// Acknowledged writes that later read back missing or older: must be 0.
    pub lost_writes: u64,
    /// Written keys that could not be read back through every node.
    pub unread_keys: u64,
    /// The first lost writes, in words.
    pub examples: Vec<String>,
    /// Where the nodes' data was left, where something was lost.
    pub evidence: Option<String>,
}

fn killed() -> String {
    "killed".to_owned()
}

/// One kill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    pub node: u16,
    /// From the kill until a write that was asked for after it was acknowledged.
    pub first_write_ms: Option<f64>,
    /// The longest time without an acknowledged write, until the next kill.
    pub longest_gap_ms: f64,
    /// From its restart until it said that it was ready.
    pub ready_ms: f64,
    /// Requests not done, until the next kill.
    pub failed: u64,
    pub unknown: u64,
}

/// Of several gaps; the percentiles are nearest ranks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GapSummary {
    pub count: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Nodes restarted one after the other, with the keys loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restarts {
    pub mode: Mode,
    pub keys: usize,
    pub value_bytes: usize,
    /// The level of the first read: the mode's default.
    pub level: String,
    pub restarts: Vec<Restart>,
}

/// One restart, from the start of the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    pub node: u16,
    pub was_leader: bool,
    /// `stopped` by SIGTERM, or `killed`.
    pub ended: String,
    pub ready_ms: f64,
    pub first_read_ms: f64,
}

/// A follower that came back to a log that was cut, under a steady load through the other nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub mode: Mode,
    /// The follower.
    pub node: u16,
    pub keys: usize,
    pub value_bytes: usize,
    /// From the start of its process until the snapshot was installed.
    pub installed_ms: f64,
    /// Arrivals of the load, in all parts and between them, for which there was no room.
    pub missed: u64,
    /// `before` it was killed, `without` it, `while` the snapshot went over and was installed, and
    /// `after`.
    pub parts: Vec<Part>,
}

/// A replica that was away while keys were written, under a steady load through the other nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Absent {
    pub mode: Mode,
    pub node: u16,
    /// Keys that were written while it was away, beside the load.
    pub writes: usize,
    pub value_bytes: usize,
    /// From the start of its process until its own copy had the version of each that the others have.
    pub equal_ms: f64,
    /// Arrivals of the load, in all parts and between them, for which there was no room.
    pub missed: u64,
    /// `before` it was killed, `without` it, `while` it got what it missed, and `after`.
    pub parts: Vec<Part>,
}

/// Partitions that moved to nodes that joined, and back, under a steady load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    pub mode: Mode,
    pub keys: usize,
    pub value_bytes: usize,
    pub changes: Vec<Moved>,
    /// Arrivals of the load, in all parts and between them, for which there was no room.
    pub missed: u64,
    /// `before`, `growing`, `shrinking` and `after`.
    pub parts: Vec<Part>,
    #[serde(flatten)]
    pub kept: ReadBack,
}

/// One change of the layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Who holds partitions after it.
    pub nodes: Vec<u16>,
    /// Until nobody had anything left to bring to others.
    pub seconds: f64,
    /// Records that nodes sent each other for it, and to repair what differed meanwhile.
    pub records: u64,
    /// Every loaded record of a partition once to each node that came to hold it.
    pub least_records: u64,
}

/// A part of the load. What it cost is not in its row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    pub row: Row,
}

/// The p99 of one of the parts, in microseconds.
pub fn p99_us(parts: &[Part], name: &str) -> Option<u64> {
    let part = parts.iter().find(|part| part.name == name)?;
    part.row.latency.map(|latency| latency.p99_us)
}

/// What came of a bench.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BenchVerdict {
    /// Everything was measured, and nothing was lost.
    Done,
    /// Writes were lost, or something could not be measured: one line each.
    Failed(Vec<String>),
    /// It could not all be read back: one line each.
    Unknown(Vec<String>),
}

impl BenchResults {
    /// What was read back, and in which mode.
    pub fn read_back(&self) -> impl Iterator<Item = (Mode, &ReadBack)> {
        let kills = self.kills.iter().map(|kills| (kills.mode, &kills.kept));
        kills.chain(self.growths.iter().map(|growth| (growth.mode, &growth.kept)))
    }

    /// What follows from the results.
    pub fn verdict(&self) -> BenchVerdict {
        let (mut failed, mut unknown) = (Vec::new(), Vec::new());
        failed.extend(self.ended_early.clone());
        let parts = self.snapshots.iter().flat_map(|snapshot| &snapshot.parts);
        let parts = parts.chain(self.absences.iter().flat_map(|absent| &absent.parts));
        let parts = parts.chain(self.growths.iter().flat_map(|growth| &growth.parts));
        // A node may be back before the load has done anything.
        let parts = parts.filter(|part| part.name != "while");
        let rows = self.rows.iter().chain(parts.map(|part| &part.row));
        for row in rows.filter(|row| row.operations.done == 0) {
            let codes: Vec<&str> = row.errors.keys().map(String::as_str).collect();
            failed.push(format!(
                "no {} was done in {} mode: {}",
                row.mix,
                row.mode,
                codes.join(", ")
            ));
        }
        for (mode, ReadBack { lost_writes, unread_keys, .. }) in self.read_back() {
            if *lost_writes > 0 {
                failed.push(format!("{mode} mode lost {lost_writes} acknowledged writes"));
            }
            if *unread_keys > 0 {
                unknown.push(format!("{unread_keys} keys could not be read back in {mode} mode"));
            }
        }
        for kills in &self.kills {
            let mode = kills.mode;
            let silent = kills.kills.iter().filter(|kill| kill.first_write_ms.is_none()).count();
            if silent > 0 {
                failed
                    .push(format!("no write was served again after {silent} kills in {mode} mode"));
            }
        }
        match (failed.is_empty(), unknown.is_empty()) {
            (false, _) => BenchVerdict::Failed(failed),
            (true, false) => BenchVerdict::Unknown(unknown),
            (true, true) => BenchVerdict::Done,
        }
    }
}
