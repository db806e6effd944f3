//! One segment of a campaign: fresh keys, load, cycles of faults, reading back, and the checks.
//!
//! A campaign may last for hours; what has to be kept in memory and checked at once is one segment.
//! The nodes and their data directories live on from segment to segment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::faults::Cycle;
use super::marks::Marks;
use super::strike::{Field, strike, undo};
use super::traffic::{HOT_KEYS, Traffic};
use crate::check::{self, Finding};
use crate::history::{Ended, Header, History, Op};
use crate::lab::load::{Ask, Scene, read_back, read_back_at};
use crate::lab::workload::keys;
use crate::runtime::Instant;
use crate::types::{Key, Level, Mode};

/// How many keys the clients of a segment work on: a few that are written again and again, so that
/// clients meet, and some that are written once or twice, so that a write that a replica missed is
/// not made good by the next one.
const KEYS: usize = HOT_KEYS + 72;
/// The longest prefix of a segment's keys, in bytes.
const MAX_PREFIX_BYTES: usize = 64;
/// Replicas must be equal this long after faults and load have ended.
const CONVERGES_WITHIN: Duration = Duration::from_secs(30);
/// The pause between two looks at the replicas.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What a segment came to.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    pub mode: Mode,
    pub number: u64,
    pub cycles: u64,
    /// Processes killed, those of clock changes not counted.
    pub kills: u64,
    /// How often each kind of fault struck.
    pub faults: BTreeMap<String, u64>,
    pub operations: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub findings: Vec<Finding>,
    /// What went wrong beside the histories: a node that ended, or did not serve again.
    pub problems: Vec<String>,
    pub took: Duration,
    /// Where the history and the nemesis's marks were written.
    pub directory: PathBuf,
}

impl SegmentReport {
    /// Every promise that was broken, in words.
    pub fn broken(&self) -> Vec<String> {
        let broken = self.findings.iter().filter(|finding| finding.is_broken());
        let in_words = |finding: &Finding| {
            let example = finding.examples.first().map(String::as_str).unwrap_or_default();
            let Finding { check, level, found, looks_for, .. } = finding;
            format!("{check} at {level}: {found} × {looks_for}: {example}")
        };
        self.problems.iter().cloned().chain(broken.map(in_words)).collect()
    }

    /// Every promise that could not be looked at, in words.
    pub fn unverified(&self) -> Vec<String> {
        let unverified = self.findings.iter().filter(|finding| finding.is_unverified());
        unverified
            .map(|Finding { check, level, unverified, .. }| {
                format!("{check} at {level}: {unverified} could not be looked at")
            })
            .collect()
    }
}

/// A segment under way.
pub struct Segment {
    scene: Arc<Scene>,
    number: u64,
    keys: Vec<Key>,
    /// `None` once the load has ended.
    traffic: Option<Traffic>,
    ops: Vec<Op>,
    marks: Marks,
    cycles: u64,
    problems: Vec<String>,
    began: Instant,
}

impl Segment {
    /// Begins the load on keys that no segment with another number uses.
    pub fn begin(scene: Arc<Scene>, number: u64) -> anyhow::Result<Segment> {
        let name = format!("segment-{number}");
        let prefix = Key::new(&format!("{name}-"), MAX_PREFIX_BYTES)?;
        let keys = keys(&name, KEYS)?;
        let traffic = Some(Traffic::start(&scene, &keys, &prefix));
        let (marks, began) = (Marks::new(&scene), scene.runtime.now());
        let (ops, problems) = (Vec::new(), Vec::new());
        Ok(Segment { scene, number, keys, traffic, ops, marks, cycles: 0, problems, began })
    }

    /// One cycle: the faults strike, are held and end, and every node serves again.
    pub async fn cycle(&mut self, field: &mut Field, cycle: &Cycle) -> anyhow::Result<()> {
        self.cycles += 1;
        let struck = strike(field, cycle, &self.marks).await?;
        self.scene.runtime.sleep(Duration::from_millis(cycle.hold_ms)).await;
        undo(field, struck, &self.marks).await?;
        field.cluster.wait_until_ready().await?;
        self.until_every_node_serves().await
    }

    /// Waits until every node acknowledges writes.
    pub async fn until_every_node_serves(&self) -> anyhow::Result<()> {
        if let Some(traffic) = &self.traffic {
            traffic.until_every_node_serves().await?;
            self.marks.ready();
        }
        Ok(())
    }

    /// Ends the load.
    pub async fn end_load(&mut self) -> anyhow::Result<()> {
        if let Some(traffic) = self.traffic.take() {
            self.ops.extend(traffic.stop().await?);
        }
        Ok(())
    }

    /// Takes down what went wrong beside the history.
    pub fn note_problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Ends the load, reads everything back, checks, and writes down the evidence under `out`.
    pub async fn finish(mut self, seed: u64, out: &Path) -> anyhow::Result<SegmentReport> {
        self.end_load().await?;
        let mut ops = std::mem::take(&mut self.ops);
        if self.problems.is_empty() {
            ops.extend(read_back(&self.scene, &self.keys).await);
            let (looks, differ) = settle(&self.scene, &self.keys).await;
            ops.extend(looks);
            self.problems.extend(differ);
        }
        let (mode, nodes) = (self.scene.mode, self.scene.nodes.len() as u16);
        let history = History::new(Header::new(mode, "nemesis", seed, nodes), ops);
        let directory = out.join(mode.as_str()).join(format!("segment-{:04}", self.number));
        write_down(&directory, &history, &self.marks)?;
        let count = |wanted: fn(&Op) -> bool| history.ops.iter().filter(|op| wanted(op)).count();
        let acknowledged = count(Op::is_acknowledged_write) as u64;
        let unknown = count(|op| op.ended == Ended::Unknown) as u64;
        let operations = history.ops.len() as u64;
        let findings = self.scene.runtime.blocking(move || check::check(&history)).await;
        Ok(SegmentReport {
            mode,
            number: self.number,
            cycles: self.cycles,
            kills: self.marks.kills(),
            faults: self.marks.faults(),
            operations,
            acknowledged,
            unknown,
            findings,
            problems: self.problems,
            took: self.scene.runtime.now() - self.began,
            directory,
        })
    }
}

fn write_down(directory: &Path, history: &History, marks: &Marks) -> anyhow::Result<()> {
    let at = || format!("cannot write into {}", directory.display());
    std::fs::create_dir_all(directory).with_context(at)?;
    let to = File::create(directory.join("history.jsonl")).with_context(at)?;
    history.write(BufWriter::new(to)).with_context(at)?;
    std::fs::write(directory.join("nemesis.jsonl"), marks.lines()?).with_context(at)
}

/// Reads at the default level, which repairs what it finds, until every node's own copy shows the
/// same. Gives the reads that count, and what differed to the end.
async fn settle(scene: &Arc<Scene>, keys: &[Key]) -> (Vec<Op>, Option<String>) {
    let deadline = scene.runtime.now() + CONVERGES_WITHIN;
    let mut ops = Vec::new();
    loop {
        let local = read_back_at(scene, keys, Ask::level(Level::Local)).await;
        let differs = first_difference(&local, scene.nodes.len());
        let over = scene.runtime.now() >= deadline;
        if differs.is_none() || over {
            let after = CONVERGES_WITHIN.as_secs();
            ops.extend(local);
            return (
                ops,
                differs.map(|key| {
                    format!("replicas still differ {after} s after every fault had ended: {key}")
                }),
            );
        }
        scene.runtime.sleep(LOOK_AGAIN_AFTER).await;
        ops.extend(read_back(scene, keys).await);
    }
}

/// The first key whose last answered read through every node does not show the same, in words.
fn first_difference(reads: &[Op], nodes: usize) -> Option<String> {
    let mut shown: BTreeMap<&Key, BTreeMap<u16, &Op>> = BTreeMap::new();
    for op in reads {
        let by_node = shown.entry(&op.key).or_default();
        if op.ended == Ended::Ok {
            by_node.insert(op.node, op);
        }
    }
    let same = |by_node: &BTreeMap<u16, &Op>| {
        let mut all = by_node.values().map(|op| (op.version, &op.value));
        let first = all.next();
        by_node.len() == nodes && all.all(|one| Some(one) == first)
    };
    shown.into_iter().find(|(_, by_node)| !same(by_node)).map(|(key, by_node)| {
        let each = by_node.iter().map(|(node, op)| match op.version {
            Some(version) => format!("node {node} has {version}"),
            None => format!("node {node} has nothing"),
        });
        format!("{key}: {}", each.collect::<Vec<_>>().join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Action;
    use crate::types::{NodeId, Version};

    fn read(key: &str, node: u16, version: Option<u64>) -> Op {
        let key = Key::new(key, 8).expect("a key");
        let op = Op::begun(1, Action::Get, key, node, Level::Local, 0);
        let version = version.map(|n| Version::new(n, NodeId(1)));
        Op { ended: Ended::Ok, version, ..op }
    }

    #[test]
    fn replicas_are_equal_only_where_every_node_answered_the_same() {
        let same = [read("a", 1, Some(7)), read("a", 2, Some(7)), read("b", 1, None)];
        let mut all = same.to_vec();
        all.push(read("b", 2, None));
        assert_eq!(first_difference(&all, 2), None);
        assert!(first_difference(&same, 2).is_some_and(|found| found.starts_with("b:")));
        all.push(read("b", 2, Some(8)));
        let found = first_difference(&all, 2).expect("a difference");
        assert!(found.contains("node 1 has nothing") && found.contains("node 2 has"), "{found}");
    }

    #[test]
    fn a_read_that_was_answered_in_the_end_counts() {
        let failed = Op { ended: Ended::Failed, ..read("a", 2, None) };
        let all = [read("a", 1, Some(7)), failed.clone(), read("a", 2, Some(7))];
        assert_eq!(first_difference(&all, 2), None);
        assert!(first_difference(&[read("a", 1, Some(7)), failed], 2).is_some());
    }
}
