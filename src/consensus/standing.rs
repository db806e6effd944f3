//! How the other nodes stand, as the leader has heard from them.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;

use super::raft_types::{Raft, TypeConfig};
use crate::types::NodeId;

/// How many entries a node may lack to take over or get a vote: it is sent those at once, and under
/// load every follower lacks the few that are on their way to it.
const MAX_LAG_ENTRIES: u64 = 64;

/// A leader's picture of the others at one moment. On a node that does not lead, nobody is there.
pub(super) struct Standing {
    node: NodeId,
    metrics: RaftMetrics<TypeConfig>,
    /// A node that answered within this time is taken to be there.
    heard_within: Duration,
}

impl Standing {
    pub(super) fn of(raft: &Raft, node: NodeId, heard_within: Duration) -> Standing {
        Standing { node, metrics: raft.metrics().borrow_watched().clone(), heard_within }
    }

    /// openraft's numbers that this was made of.
    pub(super) fn metrics(&self) -> &RaftMetrics<TypeConfig> {
        &self.metrics
    }

    /// Whether a node answered lately; the leader itself is there.
    pub(super) fn is_there(&self, id: NodeId) -> bool {
        let heard = self.metrics.heartbeat.as_ref().and_then(|all| all.get(&id).copied().flatten());
        // openraft's clock, which is what it notes answers by.
        id == self.node || heard.is_some_and(|it| *it + self.heard_within >= TypeConfig::now())
    }

    /// Whether of each set of voters a majority is there and follows the log, so that what is written
    /// is committed without those that are to be sent a snapshot.
    pub(super) fn has_majority_at_hand(&self) -> bool {
        let sets = self.metrics.membership_config.membership().get_joint_config();
        majority_of_each(sets, |id| self.follows(id))
    }

    /// Whether a node is there and has what the leader's log no longer holds.
    fn follows(&self, id: NodeId) -> bool {
        let matched = self.metrics.replication.as_ref().and_then(|all| all.get(&id).copied());
        id == self.node || (self.is_there(id) && matched.flatten() >= self.metrics.purged)
    }

    /// How far a node has come, or why it could not take over.
    pub(super) fn matched(&self, id: NodeId) -> Result<u64, String> {
        if !self.is_there(id) {
            let within = self.heard_within.as_millis();
            return Err(format!("it has not answered the leader for {within} ms"));
        }
        let last = self.metrics.last_log_index.unwrap_or(0);
        let matched = self.metrics.replication.as_ref().and_then(|all| all.get(&id).copied());
        let matched = matched.flatten().map_or(0, |log_id| log_id.index);
        match last.saturating_sub(matched) {
            lag if lag <= MAX_LAG_ENTRIES => Ok(matched),
            lag => Err(format!("it lacks {lag} entries of the log, at most {MAX_LAG_ENTRIES}")),
        }
    }
}

/// Whether of each set of voters a majority is as asked.
pub(super) fn majority_of_each(sets: &[BTreeSet<NodeId>], is_so: impl Fn(NodeId) -> bool) -> bool {
    sets.iter().all(|voters| {
        let so = voters.iter().filter(|id| is_so(**id)).count();
        so > voters.len() / 2
    })
}
