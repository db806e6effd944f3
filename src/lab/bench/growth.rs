//! Partitions that move to nodes that join, and back again, under a steady load: how long it takes, what
//! requests cost meanwhile, and how much is sent for it.
//!
//! Two nodes join a cluster of three, the partitions are spread over all five, and then over the first three
//! again. The least that can be sent is known beforehand: every record of a partition once to each node that
//! comes to hold it. In the end every key that was written meanwhile is read through every node.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::course::LOOK_EVERY;
use super::ledger::Written;
use super::reading_back::read_all_back;
use super::results::{Growth, Moved, Part};
use super::stage::{Load, Stage};
use super::steady::Steady;
use super::worker::{Kept, TIMEOUT, prefix};
use crate::lab::answers::code_of;
use crate::lab::cluster::Cluster;
use crate::lab::http::Connection;
use crate::lab::workload::key;
use crate::types::PARTITIONS;

/// How many nodes join.
const JOIN: usize = 2;
/// A change is over within this time.
const MOVED_WITHIN: Duration = Duration::from_secs(1_800);

/// What a node says of the layout.
#[derive(Debug, Deserialize)]
struct Layout {
    epoch: u64,
    partitions: Vec<Vec<u16>>,
    /// Whatever it is while one is under way.
    change: Option<serde_json::Value>,
    departing: Vec<u16>,
}

/// Measures both changes, on the stage's own nodes.
pub async fn run(stage: &mut Stage<'_>, load: Load) -> anyhow::Result<Growth> {
    stage.with_cluster(async |stage, cluster| under_load(stage, cluster, load).await).await
}

async fn under_load(
    stage: &Stage<'_>,
    cluster: &mut Cluster,
    load: Load,
) -> anyhow::Result<Growth> {
    let steady = Steady::new(stage, load, true)?;
    let course = Course {
        stage,
        steady: &steady,
        connection: Connection::new(stage.runtime.clone(), stage.nodes[0].1, TIMEOUT),
        keys: keys_of_partitions(stage, load)?,
        ran: Ran::default(),
    };
    let (Ran { changes, parts, written }, offered) = steady.during(course.run(cluster)).await?;
    Ok(Growth {
        mode: stage.mode,
        keys: stage.options.keys,
        value_bytes: load.value_bytes,
        changes,
        missed: offered.missed,
        parts,
        kept: read_all_back(stage, cluster, load, &written).await?,
    })
}

/// How many of the loaded keys lie in each partition.
fn keys_of_partitions(stage: &Stage<'_>, load: Load) -> anyhow::Result<Vec<u64>> {
    let mut keys = vec![0; PARTITIONS];
    let prefix = prefix(load.value_bytes);
    for number in 0..stage.options.keys {
        keys[usize::from(key(&prefix, number)?.partition().0)] += 1;
    }
    Ok(keys)
}

/// How many records are to be sent at least: of each partition all, to each node that is new to it.
fn least(keys: &[u64], before: &[Vec<u16>], after: &[Vec<u16>]) -> u64 {
    let gained = |(before, after): (&Vec<u16>, &Vec<u16>)| {
        after.iter().filter(|node| !before.contains(node)).count() as u64
    };
    keys.iter().zip(before.iter().zip(after).map(gained)).map(|(keys, nodes)| keys * nodes).sum()
}

struct Course<'a> {
    stage: &'a Stage<'a>,
    steady: &'a Steady<'a>,
    connection: Connection,
    /// By partition.
    keys: Vec<u64>,
    ran: Ran,
}

/// What was measured.
#[derive(Default)]
struct Ran {
    changes: Vec<Moved>,
    parts: Vec<Part>,
    written: Vec<Written>,
}

impl Course<'_> {
    async fn run(mut self, cluster: &mut Cluster) -> anyhow::Result<Ran> {
        let options = self.stage.options;
        let few = cluster.ids();
        self.stage.runtime.sleep(options.warm_up).await;
        let before = self.steady.part("before", options.duration).await?;
        self.keep(before);
        let indexes = (0..JOIN).map(|_| cluster.prepare_to_join(0));
        for index in indexes.collect::<anyhow::Result<Vec<_>>>()? {
            cluster.restart(index)?;
        }
        cluster.wait_until_ready().await?;
        let many = cluster.ids();
        for (name, nodes) in [("growing", many), ("shrinking", few)] {
            self.change(cluster, name, &nodes).await?;
        }
        self.stage.runtime.sleep(options.warm_up).await;
        let after = self.steady.part("after", options.duration).await?;
        self.keep(after);
        Ok(self.ran)
    }

    fn keep(&mut self, (part, kept): (Part, Kept)) {
        self.ran.parts.push(part);
        self.ran.written.extend(kept.written);
    }

    /// Spreads the partitions over these nodes.
    async fn change(&mut self, cluster: &Cluster, name: &str, nodes: &[u16]) -> anyhow::Result<()> {
        let step = format!("{}: the partitions move to {} nodes", self.stage.mode, nodes.len());
        self.stage.progress.step(&step);
        let before = self.layout().await?;
        let counted_before = cluster.counters().await?;
        let (began, began_us) = self.steady.begin()?;
        self.ask_for(nodes).await?;
        let after = loop {
            let layout = self.layout().await?;
            let stands = layout.epoch > before.epoch && layout.change.is_none();
            if stands && layout.departing.is_empty() {
                break layout;
            }
            let took = self.stage.runtime.now().duration_since(began);
            ensure!(took < MOVED_WITHIN, "the layout changes for {} s by now", took.as_secs());
            self.stage.runtime.sleep(LOOK_EVERY).await;
        };
        let took = self.stage.runtime.now().duration_since(began);
        let part = self.steady.end(name, began_us)?;
        let counted = cluster.counters().await?;
        let sent = counted.since(&counted_before, "comparison_repairs");
        self.ran.changes.push(Moved {
            nodes: nodes.to_vec(),
            seconds: took.as_secs_f64(),
            records: sent.context("the nodes do not count what they send")? as u64,
            least_records: least(&self.keys, &before.partitions, &after.partitions),
        });
        self.keep(part);
        Ok(())
    }

    async fn layout(&mut self) -> anyhow::Result<Layout> {
        let answer = self.connection.call("GET", "/v1/cluster/layout", b"").await;
        let answer = answer.map_err(|failure| anyhow::anyhow!("{failure}"))?;
        ensure!(answer.status == 200, "a node answered with {} for the layout", answer.status);
        serde_json::from_slice(answer.body).context("not a layout")
    }

    async fn ask_for(&mut self, nodes: &[u16]) -> anyhow::Result<()> {
        let nodes: Vec<_> = nodes.iter().map(|id| serde_json::json!({ "id": id })).collect();
        let body = serde_json::json!({ "nodes": nodes }).to_string();
        let answer = self.connection.call("POST", "/v1/cluster/layout", body.as_bytes()).await;
        let answer = answer.map_err(|failure| anyhow::anyhow!("{failure}"))?;
        match answer.status {
            200 => Ok(()),
            status => bail!("the layout was not changed: {}", code_of(status, answer.body)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_moves_is_every_record_once_to_each_node_that_is_new_to_it() {
        let before = [vec![1, 2, 3], vec![1, 2, 3]];
        let after = [vec![3, 4, 5], vec![2, 1, 3]];
        assert_eq!(least(&[10, 7], &before, &after), 20, "an order is no move");
        assert_eq!(least(&[10, 7], &after, &before), 20);
    }
}
