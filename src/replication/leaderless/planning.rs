//! What a change of the layout would move.

use std::collections::{BTreeMap, BTreeSet};

use super::Core;
use super::assignment::assign;
use super::layout::STATIC_EPOCH;
use crate::error::Refusal;
use crate::replication::layout::{LayoutPlan, LayoutStatus, PlannedNode, Share};
use crate::types::NodeId;

/// Nodes that a plan may name: finding one takes a time that grows with them.
const MAX_NODES: usize = 64;

impl Core {
    pub(super) fn layout_status(&self) -> LayoutStatus {
        let partitions: Vec<Vec<NodeId>> = self.layout.partitions().map(<[_]>::to_vec).collect();
        let node = |node: &NodeId| {
            let held = partitions.iter().filter(|holders| holders.contains(node)).count();
            (*node, Share { weight: 1, zone: None }, held)
        };
        let nodes = self.nodes.iter().map(node).collect();
        let replicas = self.layout.replicas();
        LayoutStatus { epoch: STATIC_EPOCH, replicas, nodes, partitions }
    }

    /// What would move if the partitions were spread over these nodes.
    pub(super) async fn plan(
        &self,
        wanted: BTreeMap<NodeId, Share>,
    ) -> Result<LayoutPlan, Refusal> {
        let bad = |problem: String| Err(Refusal::BadParameter { parameter: "nodes", problem });
        if wanted.is_empty() || wanted.len() > MAX_NODES {
            return bad(format!("{} nodes: expected 1 to {MAX_NODES}", wanted.len()));
        }
        if let Some((node, _)) = wanted.iter().find(|(_, share)| share.weight == 0) {
            return bad(format!("node {node} has the weight 0: leave it out, or give it more"));
        }
        let current: Vec<Vec<NodeId>> = self.layout.partitions().map(<[_]>::to_vec).collect();
        let replicas = self.settings.replicas;
        let plan = move || {
            let partitions = assign(&current, &wanted, replicas);
            let before = current.iter().flatten().copied();
            let named: BTreeSet<NodeId> = before.chain(wanted.keys().copied()).collect();
            let nodes = named.into_iter().map(|node| planned(node, &current, &partitions));
            LayoutPlan {
                replicas: replicas.min(wanted.len() as u16),
                nodes: nodes.collect(),
                partitions,
            }
        };
        Ok(self.runtime.blocking(plan).await)
    }
}

fn planned(node: NodeId, before: &[Vec<NodeId>], after: &[Vec<NodeId>]) -> PlannedNode {
    let count = |lists: &[Vec<NodeId>]| lists.iter().filter(|list| list.contains(&node)).count();
    let pairs = before.iter().zip(after);
    let receives =
        pairs.filter(|(before, after)| after.contains(&node) && !before.contains(&node)).count();
    PlannedNode { node, holds: count(before), will_hold: count(after), receives }
}
