//! What a repair of a node's replicas has come to.

use crate::types::NodeId;

/// A repair: this node's replicas compared with those of every other node, and each brought what it
/// lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairStatus {
    pub running: bool,
    /// In the order in which they are compared with; none before the first repair.
    pub peers: Vec<PeerRepair>,
}

/// The part of a repair that concerns one other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRepair {
    pub node: NodeId,
    pub state: RepairState,
    /// Partitions that were found to differ, so far.
    pub differing: u64,
    /// How many of those were gone through.
    pub compared: u64,
    /// Records that were written to either of the two.
    pub repaired: u64,
    /// Why it failed, where it did.
    pub error: Option<String>,
}

/// How far the part of a repair is that concerns one other node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepairState {
    #[default]
    Waiting,
    Running,
    Done,
    Failed,
}

impl RepairState {
    /// The word for it in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            RepairState::Waiting => "waiting",
            RepairState::Running => "running",
            RepairState::Done => "done",
            RepairState::Failed => "failed",
        }
    }
}
