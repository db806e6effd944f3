//! Reading back what was acknowledged, once everything has settled.

use std::collections::BTreeMap;

use super::ledger::{self, Answer, Written, lost};
use super::results::ReadBack;
use super::stage::{Load, Stage};
use super::worker::{TIMEOUT, prefix};
use crate::history::Ended;
use crate::lab::cluster::Cluster;
use crate::lab::load::{Scene, read_back};
use crate::lab::workload::key;
use crate::types::Key;

/// How many keys are read back at a time: every answer is kept until they are judged.
const READ_BACK_KEYS: usize = 10_000;

/// Reads every written key through every node, at the mode's default level. Where one is lost, the nodes' data
/// is kept.
pub async fn read_all_back(
    stage: &Stage<'_>,
    cluster: &mut Cluster,
    load: Load,
    written: &[Written],
) -> anyhow::Result<ReadBack> {
    stage.progress.step(&format!("{}: reading back what was written", stage.mode));
    let mut numbers: Vec<u32> = written.iter().map(|write| write.key).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let (seed, nodes) = (stage.options.seed, stage.nodes.clone());
    let scene = Scene::new(stage.runtime, stage.mode, nodes, TIMEOUT, load.value_bytes, seed);
    let prefix = prefix(load.value_bytes);
    let mut reads = Vec::new();
    for part in numbers.chunks(READ_BACK_KEYS) {
        let named = part.iter().map(|number| Ok((key(&prefix, *number as usize)?, *number)));
        let named: BTreeMap<Key, u32> = named.collect::<anyhow::Result<_>>()?;
        let keys: Vec<Key> = named.keys().cloned().collect();
        let mut last: BTreeMap<(u32, u16), Answer> = BTreeMap::new();
        for op in read_back(&scene, &keys).await {
            let answer = match (op.ended, op.version) {
                (Ended::Ok, Some(version)) => Answer::Version(version),
                (Ended::Ok, None) => Answer::Nothing,
                _ => Answer::None,
            };
            // A read without an answer is tried again: the last try counts.
            last.insert((named[&op.key], op.node), answer);
        }
        reads.extend(last.into_iter().map(|((key, node), answer)| ledger::ReadBack {
            key,
            node,
            answer,
        }));
    }
    let lost = lost(written, &reads);
    Ok(ReadBack {
        acknowledged_writes: written.len() as u64,
        lost_writes: lost.writes,
        unread_keys: lost.unread_keys,
        examples: lost.examples,
        evidence: (lost.writes > 0).then(|| cluster.keep_data().display().to_string()),
    })
}
