//! Who is of a cluster, and how that changes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Incarnation, NodeId};

/// A change of who is of the cluster. Asked for again after it was made, it changes nothing and is
/// answered as done. It travels between nodes, so its order is on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// A new node, as a learner: it is sent everything and has no vote.
    Add { node: NodeId, address: String },
    /// A learner that has caught up gets a vote.
    Promote { node: NodeId },
    /// A voter or learner leaves; its id is never used again.
    Remove { node: NodeId },
    /// The learner `with` gets the vote of `node`, which leaves, in one step.
    Replace { node: NodeId, with: NodeId },
}

/// What is known of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFacts {
    /// Where other nodes reach it, `host:port`.
    pub address: String,
    /// Whether it has a vote; a learner has none.
    pub voter: bool,
    /// What its data directory was minted with, once the group has agreed on it.
    pub incarnation: Option<Incarnation>,
}

/// Who is of a cluster, as one node has applied it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Voters and learners; empty before the node knows of any.
    pub nodes: BTreeMap<NodeId, MemberFacts>,
    /// Ids that were members once, and never will be again.
    pub removed: BTreeSet<NodeId>,
}

impl Members {
    /// The ids of those with a vote.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        let voters = self.nodes.iter().filter(|(_, facts)| facts.voter);
        voters.map(|(id, _)| *id).collect()
    }

    /// Whether they are as `change` would have them.
    pub fn show(&self, change: &MemberChange) -> bool {
        let votes = |node: &NodeId| self.nodes.get(node).is_some_and(|facts| facts.voter);
        match change {
            MemberChange::Add { node, .. } => self.nodes.contains_key(node),
            MemberChange::Promote { node } => votes(node),
            MemberChange::Remove { node } => !self.nodes.contains_key(node),
            MemberChange::Replace { node, with } => !self.nodes.contains_key(node) && votes(with),
        }
    }
}
