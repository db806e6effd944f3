//! Which nodes hold which partitions, as whoever operates a cluster sees it, and what a change moves.

use crate::types::{Epoch, NodeId};

/// What a node takes part in a layout with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// In proportion to the weights of the others; more than 0.
    pub weight: u32,
    /// Nodes that fail together have one zone; `None` is one of its own.
    pub zone: Option<String>,
}

/// Which nodes hold which partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutStatus {
    pub epoch: Epoch,
    /// N: replicas a partition.
    pub replicas: u16,
    /// With how many partitions each holds.
    pub nodes: Vec<(NodeId, Share, usize)>,
    /// The nodes of each partition, by its number.
    pub partitions: Vec<Vec<NodeId>>,
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
