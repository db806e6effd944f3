//! Who the members are beyond openraft's membership: their incarnations, and who left.
//!
//! **Why it exists.** openraft knows ids, addresses and votes. That an id means one data directory,
//! and that an id that left never comes back, must be known to every member alike, also to those
//! that joined later and never met the node in question; so it is part of the state machine.
//!
//! **Guarantees.** A node that was a member in one applied membership entry and is in none of the
//! next is removed for good. The first incarnation that is introduced for an id counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::raft_types::StoredMembership;
use crate::types::{Incarnation, MemberFacts, Members, NodeId};

/// Part of the state machine's state, in the same row and in snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roster {
    /// Of present members.
    incarnations: BTreeMap<NodeId, Incarnation>,
    removed: BTreeSet<NodeId>,
}

impl Roster {
    /// Takes a membership entry that follows `before`: who is gone is removed.
    pub(super) fn change(&mut self, before: &StoredMembership, now: &StoredMembership) {
        for (node, _) in before.nodes() {
            if now.get_node(node).is_none() {
                self.incarnations.remove(node);
                self.removed.insert(*node);
            }
        }
    }

    /// Takes a member's incarnation, unless it has one already or is no member.
    pub(super) fn introduce(
        &mut self,
        membership: &StoredMembership,
        node: NodeId,
        incarnation: Incarnation,
    ) {
        if membership.get_node(&node).is_some() {
            self.incarnations.entry(node).or_insert(incarnation);
        }
    }

    /// The members of whom no incarnation is known.
    pub(super) fn strangers(&self, membership: &StoredMembership) -> Vec<NodeId> {
        let unknown = |node: &&NodeId| !self.incarnations.contains_key(node);
        membership.nodes().map(|(node, _)| node).filter(unknown).copied().collect()
    }

    /// How many members were introduced; only a change of the membership lowers it.
    pub(super) fn introduced(&self) -> usize {
        self.incarnations.len()
    }

    /// All that is known, for those who do not know openraft.
    pub(super) fn members(&self, membership: &StoredMembership) -> Members {
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let facts = |(id, node): (&NodeId, &openraft::BasicNode)| {
            let facts = MemberFacts {
                address: node.addr.clone(),
                voter: voters.contains(id),
                incarnation: self.incarnations.get(id).copied(),
            };
            (*id, facts)
        };
        let nodes = membership.nodes().map(facts).collect();
        Members { nodes, removed: self.removed.clone() }
    }
}

#[cfg(test)]
mod tests {
    use openraft::{BasicNode, Membership};

    use super::*;

    fn membership(ids: &[u16]) -> StoredMembership {
        let nodes: BTreeMap<_, _> =
            ids.iter().map(|id| (NodeId(*id), BasicNode::new(format!("node-{id}")))).collect();
        let voters = BTreeSet::from([NodeId(ids[0])]);
        StoredMembership::new(None, Membership::new(vec![voters], nodes).expect("valid"))
    }

    #[test]
    fn who_left_is_removed_for_good_and_its_incarnation_forgotten() {
        let (before, after) = (membership(&[1, 2]), membership(&[1]));
        let mut roster = Roster::default();
        roster.introduce(&before, NodeId(2), Incarnation(7));
        roster.change(&before, &after);
        let members = roster.members(&after);
        assert_eq!(members.removed, BTreeSet::from([NodeId(2)]));
        assert_eq!(members.nodes.keys().copied().collect::<Vec<_>>(), [NodeId(1)]);
        roster.introduce(&after, NodeId(2), Incarnation(8));
        assert_eq!(roster.members(&before).nodes[&NodeId(2)].incarnation, None);
    }

    #[test]
    fn the_first_incarnation_counts() {
        let now = membership(&[1, 2]);
        let mut roster = Roster::default();
        assert_eq!(roster.strangers(&now), [NodeId(1), NodeId(2)]);
        roster.introduce(&now, NodeId(2), Incarnation(7));
        roster.introduce(&now, NodeId(2), Incarnation(8));
        assert_eq!(roster.strangers(&now), [NodeId(1)]);
        let members = roster.members(&now);
        assert_eq!(members.nodes[&NodeId(2)].incarnation, Some(Incarnation(7)));
        assert_eq!(members.voters(), BTreeSet::from([NodeId(1)]));
    }
}
