//! Which nodes hold which partitions, as whoever operates a cluster sees it, and what a change moves.

use crate::types::{Epoch, NodeId, Share, Spread, Step};

/// Partitions, spread over nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpreadView {
    /// N: replicas a partition.
    pub replicas: u16,
    /// With how many partitions each holds.
    pub nodes: Vec<(NodeId, Share, usize)>,
    /// The nodes of each partition, by its number.
    pub partitions: Vec<Vec<NodeId>>,
}

impl SpreadView {
    /// That of a spread.
    pub fn of(spread: &Spread) -> SpreadView {
        let node = |(node, share): (&NodeId, &Share)| (*node, share.clone(), spread.held_by(*node));
        SpreadView {
            replicas: spread.replicas.min(spread.nodes.len() as u16),
            nodes: spread.nodes.iter().map(node).collect(),
            partitions: spread.partitions.clone(),
        }
    }
}

/// Which nodes hold which partitions, and how far a change of it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutStatus {
    pub epoch: Epoch,
    /// What stands, or what is changed.
    pub current: SpreadView,
    pub change: Option<LayoutChange>,
    /// Nodes that still bring others what they alone may have of partitions that they held before.
    pub departing: Vec<NodeId>,
}

/// A change of the layout that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutChange {
    pub step: Step,
    pub to: SpreadView,
    /// The nodes that the step waits for.
    pub nodes: Vec<NodeProgress>,
}

/// How far a node is with the step under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProgress {
    pub node: NodeId,
    /// Partitions that it has to have, and that it is known to have.
    pub partitions: u64,
    pub proven: u64,
    /// Records that it was brought in this step, or brought others, and their bytes.
    pub records: u64,
    pub bytes: u64,
    /// Whether the control plane knows that it has all.
    pub done: bool,
    /// What stands in the way, where something does.
    pub waits_for: Option<String>,
}

/// What would change if the partitions were spread over other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutPlan {
    pub replicas: u16,
    pub nodes: Vec<PlannedNode>,
    pub partitions: Vec<Vec<NodeId>>,
}

/// What would change for one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedNode {
    pub node: NodeId,
    /// Partitions it holds, and would hold.
    pub holds: usize,
    pub will_hold: usize,
    /// Partitions that it would be sent.
    pub receives: usize,
}

impl LayoutPlan {
    /// Replicas of partitions that would be sent to another node.
    pub fn moves(&self) -> usize {
        self.nodes.iter().map(|node| node.receives).sum()
    }
}
