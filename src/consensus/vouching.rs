//! What a follower vouches for when it asks its leader for something.
//!
//! **Why it exists.** Before a read is answered, a majority must confirm that nobody else led when it
//! was asked for (Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 6.4). The leader may
//! send heartbeats for that, and wait. But a follower that asks it for a read index can say in the
//! question itself what its answer to such a heartbeat would have said: *when I sent this, I stood by
//! you.* Where it and the leader are a majority, no more is needed.
//!
//! **The rule.** A node stands by the leader of the vote that it stored last. Whoever was elected later
//! was elected, and had each of its entries committed, by a majority; where the follower and the leader
//! are a majority too, one of them was part of it, and stores the later vote before it answers. So
//! where the follower's vote, as it was when the question was sent, and the leader's, as it is when the
//! question is looked at, are both of this leader's term, nothing was acknowledged by another leader
//! before the question was sent.
//!
//! **Guarantees.** A table that has applied [`Vouched::index`] shows every write that any node
//! acknowledged, and everything that any linearizable read had shown, before the question was sent.
//!
//! **Rests on** votes being stored before they are answered (`log_store`), on a leader that was started
//! again never leading in its old term (`settings`), and on no clock.

use std::collections::BTreeSet;

use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use super::Consensus;
use super::raft_types::{LogId, Vote};
use crate::planted::{self, Bug};
use crate::types::NodeId;

/// Whom a node stands by: it votes in no earlier term, and for nobody else in this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allegiance {
    pub term: u64,
    pub leader: NodeId,
}

/// What a leader may answer on its followers' word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// The index that a read must wait for.
    pub index: u64,
    /// Those of the followers who are, each with this node, a majority that stands by it.
    pub by: BTreeSet<NodeId>,
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

    /// Which of the followers' words will do, each by itself, to answer reads; `None` where this node
    /// does not lead, or has committed nothing in its term yet.
    pub async fn vouched(&self, words: Vec<(NodeId, Allegiance)>) -> Option<Vouched> {
        let node = self.node;
        let vouched = self.raft.with_raft_state(move |state| {
            let index = committed_as_leader(node, state.vote_ref(), state.cluster_committed())?;
            let own = Allegiance::of(state.vote_ref());
            let membership = state.membership_state.effective();
            let majority = |follower: NodeId| {
                let both = BTreeSet::from([node, follower]);
                membership
                    .membership()
                    .get_joint_config()
                    .iter()
                    .all(|voters| voters.intersection(&both).count() > voters.len() / 2)
            };
            let unchecked = planted::is(Bug::WordOfAnyTerm);
            let loyal =
                |word: &(NodeId, Allegiance)| (word.1 == own || unchecked) && majority(word.0);
            Some(Vouched {
                index,
                by: words.into_iter().filter(loyal).map(|word| word.0).collect(),
            })
        });
        vouched.await.ok().flatten()
    }
}

/// The committed index of a node that leads, once it has committed an entry of its own term: only then
/// does it know of all that leaders before it committed (Raft, section 5.4.2).
fn committed_as_leader(node: NodeId, vote: &Vote, committed: Option<&LogId>) -> Option<u64> {
    let committed = committed?;
    let leads = vote.is_committed() && vote.leader_id().node_id == node;
    let in_own_term = *committed.committed_leader_id() == vote.leader_id().to_committed();
    (leads && in_own_term).then_some(committed.index)
}
