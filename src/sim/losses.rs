//! Whose disks are lost, and whose may be.
//!
//! **Why it exists.** An acknowledged write lasts while a majority of the current voters keep their
//! disks (leader mode), or its replicas do (leaderless mode). Which voters those are changes while
//! disks are lost, so every loss, and every change of the voters, is held against it first.
//!
//! **How it counts.** Against each set of voters that may be in force: while a change is under way
//! the old one and the new one, of which a joint configuration needs both; and after a change that
//! was refused, of which an earlier try may have been made all the same, both for ever. A node that
//! has no vote is in no set: it may always lose its disk. A node that was removed counts no more.

use std::collections::BTreeSet;

use super::plan::Plan;
use crate::types::{Mode, NodeId};

/// What a change of the members does to the votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Votes {
    Gain(NodeId),
    Lose(NodeId),
    /// The first node's vote goes to the second; where the first has none, nobody gains one.
    Pass(NodeId, NodeId),
}

impl Votes {
    fn after(self, voters: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut after = voters.clone();
        match self {
            Votes::Gain(node) => drop(after.insert(node)),
            Votes::Lose(node) => drop(after.remove(&node)),
            Votes::Pass(from, to) => {
                if after.remove(&from) {
                    after.insert(to);
                }
            }
        }
        after
    }
}

/// See the module.
pub(super) struct Losses {
    lost: BTreeSet<NodeId>,
    /// The sets of voters that may be in force; in leaderless mode none.
    voters: BTreeSet<BTreeSet<NodeId>>,
    /// How many nodes may be without their disks in leaderless mode, whichever they are.
    most_replicas: usize,
}

impl Losses {
    pub fn new(plan: &Plan) -> Losses {
        let all = (1..=plan.nodes).map(NodeId).collect();
        Losses {
            lost: BTreeSet::new(),
            voters: if plan.mode == Mode::Leader { [all].into() } else { BTreeSet::new() },
            most_replicas: (usize::from(plan.replicas) - 1) / 2,
        }
    }

    /// Whether a node is without what it synced.
    pub fn is_lost(&self, node: NodeId) -> bool {
        self.lost.contains(&node)
    }

    /// Whether a node may have a vote.
    pub fn may_vote(&self, node: NodeId) -> bool {
        self.voters.iter().any(|voters| voters.contains(&node))
    }

    /// Lets a node be without what it synced; false where that would be more than is promised for.
    pub fn lose(&mut self, node: NodeId) -> bool {
        let fresh = self.lost.insert(node);
        let borne = match self.voters.is_empty() {
            true => self.lost.len() <= self.most_replicas,
            false => self.voters.iter().all(|voters| self.is_borne_by(voters)),
        };
        if fresh && !borne {
            self.lost.remove(&node);
        }
        borne
    }

    /// A node has what it synced again.
    pub fn find(&mut self, node: NodeId) {
        self.lost.remove(&node);
    }

    /// A change of the votes is about to be asked for; false where the voters that there would be
    /// have lost too many disks, and it must not be.
    pub fn begin(&mut self, votes: Votes) -> bool {
        let after: BTreeSet<_> = self.voters.iter().map(|voters| votes.after(voters)).collect();
        let borne = after.iter().all(|voters| self.is_borne_by(voters));
        if borne {
            self.voters.extend(after);
        }
        borne
    }

    /// A change of the votes was made.
    pub fn end(&mut self, votes: Votes) {
        self.voters = self.voters.iter().map(|voters| votes.after(voters)).collect();
    }

    fn is_borne_by(&self, voters: &BTreeSet<NodeId>) -> bool {
        let lost = voters.intersection(&self.lost).count();
        lost < voters.len().div_ceil(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn node(id: u16) -> NodeId {
        NodeId(id)
    }

    fn of(nodes: u16) -> Losses {
        let seeds = (0..).map(|seed| Plan::of(Mode::Leader, seed));
        let plan = seeds.into_iter().find(|plan| plan.nodes == nodes).expect("such a world");
        Losses::new(&plan)
    }

    #[test]
    fn a_minority_of_the_voters_may_lose_their_disks_and_not_half_of_them() {
        for (nodes, most) in [(1, 0), (3, 1), (5, 2)] {
            let mut losses = of(nodes);
            let lost = (1..=nodes).filter(|id| losses.lose(node(*id))).count();
            assert_eq!(lost, most, "of {nodes}");
            assert!(losses.lose(node(99)), "a learner's always");
        }
        let mut four = of(3);
        assert!(four.begin(Votes::Gain(node(4))));
        four.end(Votes::Gain(node(4)));
        assert!(four.lose(node(1)));
        assert!(!four.lose(node(2)), "two of four leave no majority");
    }

    #[test]
    fn while_a_change_is_under_way_the_old_voters_count_and_the_new() {
        let mut losses = of(5);
        assert!(losses.lose(node(1)));
        assert!(losses.begin(Votes::Lose(node(5))));
        assert!(!losses.lose(node(2)), "two of the four that there may be");
        losses.end(Votes::Lose(node(5)));
        assert!(!losses.begin(Votes::Lose(node(4))) || losses.lose(node(1)));
        assert!(!losses.lose(node(2)));
    }

    #[test]
    fn who_lost_its_disk_and_was_replaced_counts_no_more() {
        let mut losses = of(3);
        assert!(losses.lose(node(3)));
        assert!(!losses.lose(node(2)));
        let votes = Votes::Pass(node(3), node(4));
        assert!(losses.begin(votes));
        assert!(!losses.lose(node(2)), "the old voters may still be in force");
        losses.end(votes);
        assert!(losses.lose(node(2)));
        assert!(!losses.may_vote(node(3)) && losses.may_vote(node(4)));
    }

    #[test]
    fn a_learner_without_its_disk_gets_no_vote_where_too_few_are_left_then() {
        let mut losses = of(3);
        assert!(losses.lose(node(1)) && losses.lose(node(4)));
        assert!(!losses.begin(Votes::Gain(node(4))), "two of four");
        assert!(!losses.begin(Votes::Pass(node(2), node(4))), "two of three");
        assert!(losses.begin(Votes::Pass(node(1), node(4))), "one of three, as before");
    }
}
