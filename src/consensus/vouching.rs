//! What a follower vouches for when it asks its leader for something.
//!
//! **Why it exists.** Before a read is answered, a majority must confirm that nobody else led when it
//! was asked for (Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 6.4). The leader may
//! send heartbeats for that, and wait. But a follower that asks it for a read index can say in the
//! question itself what its answer to such a heartbeat would have said: *when I sent this, I stood by
//! you.* Where it and the leader are a majority, no more is needed.
//!
//! **The rule.** Votes are ordered by term and node (openraft's `leader_id_adv`), and a node never votes
//! for an earlier one than it has stored. It stands by the leader of the vote that it stored last.
//! Whoever was elected with a later vote was elected, and had each of its entries committed, by a
//! majority; where the follower and the leader are a majority too, one of them was part of it, and
//! stored the later vote before it answered. So where the follower's vote, as it was when the question
//! was sent, and the leader's, as it is when the question is looked at, both name this leader in this
//! term, nothing was acknowledged by a later leader before the question was sent. A term alone would
//! not do: it may have a leader, and then another of a higher number.
//!
//! **While members change** the two must be a majority of each set of voters in force at the leader. The
//! first leader elected after it has its committed entry in the log, so that the voters it counts are
//! those, or those one step before or after; a majority of either meets these two.
//!
//! **Guarantees.** A table that has applied the index that [`Consensus::vouched`] gives shows every
//! write that any node acknowledged, and everything that any linearizable read had shown, before the
//! question was sent.
//!
//! **Rests on** votes being stored before they are answered (`log_store`), on a leader that was started
//! again never leading in its old term (`settings`), and on no clock.

use futures_util::FutureExt;
use openraft::RaftState;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use super::Consensus;
use super::raft_types::{LogId, TypeConfig, Vote};
use super::standing::majority_of_each;
use crate::planted::{self, Bug};
use crate::types::NodeId;

/// Whom a node stands by: it votes for nobody who comes before this in the order of (term, node).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allegiance {
    pub term: u64,
    pub leader: NodeId,
}

impl Allegiance {
    fn of(vote: &Vote) -> Allegiance {
        let leader_id = vote.leader_id();
        Allegiance { term: leader_id.term, leader: leader_id.node_id }
    }
}

impl Consensus {
    /// Whom this node stands by from its last stored vote; `None` where it never voted.
    pub fn stands_by(&self) -> Option<Allegiance> {
        self.log.vote().map(|vote| Allegiance::of(&vote))
    }

    /// Looks whether a follower's word will do to answer reads, and hands `then` the index that they
    /// must wait for; `None` where it will not do: where the two are no majority, the follower stands
    /// by another, or this node does not lead, or has committed nothing in its term yet.
    ///
    /// Does not wait. `then` is called in openraft's own task, where vote, members and commit position
    /// are those of one moment, and must be short; it is dropped where openraft has stopped, or more
    /// calls wait for it than it takes.
    pub fn vouched(
        &self,
        word: (NodeId, Allegiance),
        then: impl FnOnce(Option<u64>) + Send + 'static,
    ) {
        let node = self.node;
        let look = move |state: &RaftState<TypeConfig>| then(vouched_index(node, word, state));
        // Sent at once, or not: a caller that takes messages from a link must not wait.
        let sent = tokio::task::unconstrained(self.raft.external_request(look));
        let _ = sent.now_or_never();
    }
}

fn vouched_index(
    node: NodeId,
    (follower, allegiance): (NodeId, Allegiance),
    state: &RaftState<TypeConfig>,
) -> Option<u64> {
    let index = committed_as_leader(node, state.vote_ref(), state.cluster_committed())?;
    let loyal = allegiance == Allegiance::of(state.vote_ref()) || planted::is(Bug::WordOfAnyTerm);
    let membership = state.membership_state.effective().membership();
    let sets = membership.get_joint_config();
    let both = [node, follower];
    (loyal && majority_of_each(sets, |voter| both.contains(&voter))).then_some(index)
}

/// The committed index of a node that leads, once it has committed an entry of its own term: only then
/// does it know of all that leaders before it committed (Raft, section 5.4.2).
fn committed_as_leader(node: NodeId, vote: &Vote, committed: Option<&LogId>) -> Option<u64> {
    let committed = committed?;
    let leads = vote.is_committed() && vote.leader_id().node_id == node;
    let in_own_term = *committed.committed_leader_id() == vote.leader_id().to_committed();
    (leads && in_own_term).then_some(committed.index)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn two_nodes_must_be_a_majority_of_every_set_of_voters() {
        let set = |ids: &[u16]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let are = |one, other, sets: &[&[u16]]| {
            let sets: Vec<_> = sets.iter().map(|ids| set(ids)).collect();
            majority_of_each(&sets, |voter| [NodeId(one), NodeId(other)].contains(&voter))
        };
        assert!(are(1, 2, &[&[1]]) && are(1, 2, &[&[1, 2]]) && are(1, 2, &[&[1, 2, 3]]));
        assert!(!are(1, 2, &[&[1, 2, 3, 4]]), "two of four");
        assert!(!are(1, 4, &[&[1, 2, 3]]), "one of them has no vote");
        assert!(!are(1, 2, &[&[1, 2, 3], &[1, 4, 5]]), "of the old voters alone");
        assert!(!are(1, 4, &[&[1, 2, 3], &[1, 4, 5]]), "of the new voters alone");
        assert!(are(1, 2, &[&[1, 2, 3], &[1, 2, 4]]));
        assert!(!are(1, 2, &[&[2, 3, 4]]), "a leader that was removed does not count");
    }
}
