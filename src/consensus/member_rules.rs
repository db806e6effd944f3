//! Which changes of the members are made, and by which step: decided purely, from what the leader
//! sees. `membership` does the rest.
//!
//! **Guarantees.** A change that is made leaves a majority of the voters among the nodes that
//! answered the leader lately, so that it can be committed and undone. An id that left never comes
//! back. A change that was made already is done.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{BasicNode, ChangeMembers};

use crate::error::MemberError;
use crate::planted::{self, Bug};
use crate::types::{MemberChange, Members, NodeId};

/// How many members a cluster may have: each is sent every entry by the leader.
pub(super) const MAX_MEMBERS: usize = 32;

/// What the leader sees.
pub(super) struct View<'a> {
    pub leader: NodeId,
    pub fixed: Option<NodeId>,
    pub members: &'a Members,
    /// How far behind or how long silent a node is, where it is either.
    pub trouble: &'a dyn Fn(NodeId) -> Option<String>,
    /// Whether a node answered the leader lately; the leader itself is.
    pub there: &'a dyn Fn(NodeId) -> bool,
    /// Why a node must not leave, where it has data that no other has taken over yet: partitions of
    /// leaderless mode.
    pub holds: &'a dyn Fn(NodeId) -> Option<MemberError>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is so already.
    Done,
    /// The leader is to leave: another must lead first.
    HandOverFirst,
    Change(ChangeMembers<NodeId, BasicNode>),
}

/// Decides what is to be done for `change`.
pub(super) fn decide(change: &MemberChange, view: &View<'_>) -> Result<Step, MemberError> {
    match change {
        MemberChange::Add { node, address } => add(*node, address, view),
        MemberChange::Promote { node } => promote(*node, view),
        MemberChange::Remove { node } => remove(*node, view),
        MemberChange::Replace { node, with } => replace(*node, *with, view),
    }
}

fn add(node: NodeId, address: &str, view: &View<'_>) -> Result<Step, MemberError> {
    let members = view.members;
    if let Some(known) = members.nodes.get(&node) {
        if known.address == address {
            return Ok(Step::Done);
        }
        let (known, asked) = (known.address.clone(), address.to_owned());
        let hint = "give the new node another id, or give the nodes' settings a new address for \
                    this one"
            .to_owned();
        return Err(MemberError::OtherAddress { node, known, asked, hint });
    }
    if members.removed.contains(&node) && !planted::is(Bug::RemovedIdTakenAgain) {
        return Err(MemberError::IdUsed { node });
    }
    if let Some((other, _)) = members.nodes.iter().find(|(_, facts)| facts.address == address) {
        return Err(MemberError::AddressTaken { node: *other, address: address.to_owned() });
    }
    if members.nodes.len() >= MAX_MEMBERS {
        return Err(MemberError::TooMany { limit: MAX_MEMBERS });
    }
    let nodes = BTreeMap::from([(node, BasicNode::new(address))]);
    Ok(Step::Change(ChangeMembers::AddNodes(nodes)))
}

fn promote(node: NodeId, view: &View<'_>) -> Result<Step, MemberError> {
    if known(node, view)? {
        return Ok(Step::Done);
    }
    caught_up(node, view)?;
    let mut voters = view.members.voters();
    voters.insert(node);
    keeps_quorum(&voters, view)?;
    Ok(Step::Change(ChangeMembers::AddVoterIds(BTreeSet::from([node]))))
}

fn remove(node: NodeId, view: &View<'_>) -> Result<Step, MemberError> {
    if view.members.removed.contains(&node) && !view.members.nodes.contains_key(&node) {
        return Ok(Step::Done);
    }
    let has_vote = known(node, view)?;
    holds_nothing(node, view)?;
    if !has_vote {
        return Ok(Step::Change(ChangeMembers::RemoveNodes(BTreeSet::from([node]))));
    }
    may_leave(node, view)?;
    let mut voters = view.members.voters();
    voters.remove(&node);
    keeps_quorum(&voters, view)?;
    if node == view.leader {
        return Ok(Step::HandOverFirst);
    }
    Ok(Step::Change(ChangeMembers::RemoveVoters(BTreeSet::from([node]))))
}

fn replace(node: NodeId, with: NodeId, view: &View<'_>) -> Result<Step, MemberError> {
    if view.members.removed.contains(&node)
        && view.members.nodes.get(&with).is_some_and(|facts| facts.voter)
    {
        return Ok(Step::Done);
    }
    known(with, view)?;
    if !known(node, view)? {
        // Neither has a vote to give or to lose, or the newcomer has its own already.
        return remove(node, view);
    }
    holds_nothing(node, view)?;
    may_leave(node, view)?;
    caught_up(with, view)?;
    let mut voters = view.members.voters();
    voters.remove(&node);
    voters.insert(with);
    keeps_quorum(&voters, view)?;
    if node == view.leader {
        return Ok(Step::HandOverFirst);
    }
    Ok(Step::Change(ChangeMembers::Batch(vec![
        ChangeMembers::AddVoterIds(BTreeSet::from([with])),
        ChangeMembers::RemoveVoters(BTreeSet::from([node])),
    ])))
}

/// Whether a member has a vote; an error where it is no member.
fn known(node: NodeId, view: &View<'_>) -> Result<bool, MemberError> {
    match view.members.nodes.get(&node) {
        Some(facts) => Ok(facts.voter),
        None if view.members.removed.contains(&node) => Err(MemberError::IdUsed { node }),
        None => {
            let members = view.members.nodes.keys().copied().collect();
            Err(MemberError::UnknownNode { node, members })
        }
    }
}

fn caught_up(node: NodeId, view: &View<'_>) -> Result<(), MemberError> {
    match (view.trouble)(node) {
        None => Ok(()),
        Some(reason) => Err(MemberError::Behind { node, reason }),
    }
}

fn may_leave(node: NodeId, view: &View<'_>) -> Result<(), MemberError> {
    match view.fixed {
        Some(fixed) if fixed == node => Err(MemberError::Fixed { fixed }),
        _ => Ok(()),
    }
}

fn holds_nothing(node: NodeId, view: &View<'_>) -> Result<(), MemberError> {
    (view.holds)(node).map_or(Ok(()), Err)
}

/// Refuses voters of whom too few answer to decide anything.
fn keeps_quorum(voters: &BTreeSet<NodeId>, view: &View<'_>) -> Result<(), MemberError> {
    if voters.is_empty() {
        let reason = "it is the only voter: without it there is no cluster".to_owned();
        return Err(MemberError::LosesQuorum { reason });
    }
    let there = voters.iter().filter(|node| (view.there)(**node)).count();
    let needed = voters.len() / 2 + 1;
    if there >= needed || planted::is(Bug::QuorumGivenAway) {
        return Ok(());
    }
    let silent: Vec<String> =
        voters.iter().filter(|node| !(view.there)(**node)).map(NodeId::to_string).collect();
    let reason = format!(
        "of the {} voters that there would be, {needed} must answer and {there} do (silent: {}): \
         bring one back, or remove a silent one first",
        voters.len(),
        silent.join(", "),
    );
    Err(MemberError::LosesQuorum { reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MemberFacts;

    const LEADER: NodeId = NodeId(1);

    /// Nodes by id, those from 11 on learners.
    fn members(ids: &[u16], removed: &[u16]) -> Members {
        let facts = |id: u16| MemberFacts {
            address: format!("node-{id}:1"),
            voter: id < 11,
            incarnation: None,
        };
        Members {
            nodes: ids.iter().map(|id| (NodeId(*id), facts(*id))).collect(),
            removed: removed.iter().copied().map(NodeId).collect(),
        }
    }

    /// Decides with node 1 leading and the nodes of `silent` not answering.
    fn decided(
        change: MemberChange,
        members: &Members,
        silent: &[u16],
    ) -> Result<Step, MemberError> {
        let is_silent = |node: NodeId| silent.contains(&node.0);
        decide(
            &change,
            &View {
                leader: LEADER,
                fixed: None,
                members,
                trouble: &|node| is_silent(node).then(|| "silent".to_owned()),
                there: &|node| !is_silent(node),
                holds: &|node| (node.0 == 8).then_some(MemberError::HoldsPartitions { node }),
            },
        )
    }

    fn add(id: u16, address: &str) -> MemberChange {
        MemberChange::Add { node: NodeId(id), address: address.to_owned() }
    }

    fn remove(id: u16) -> MemberChange {
        MemberChange::Remove { node: NodeId(id) }
    }

    fn promote(id: u16) -> MemberChange {
        MemberChange::Promote { node: NodeId(id) }
    }

    fn ids(ids: &[u16]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_new_node_is_added_once_and_its_id_and_address_are_its_own() {
        let three = members(&[1, 2, 3], &[4]);
        let nodes = BTreeMap::from([(NodeId(5), BasicNode::new("new:1"))]);
        let step = Step::Change(ChangeMembers::AddNodes(nodes));
        assert_eq!(decided(add(5, "new:1"), &three, &[]), Ok(step));
        assert_eq!(decided(add(3, "node-3:1"), &three, &[]), Ok(Step::Done));
        let other = decided(add(3, "new:1"), &three, &[]);
        assert!(matches!(other, Err(MemberError::OtherAddress { .. })), "{other:?}");
        let used = decided(add(4, "new:1"), &three, &[]);
        assert_eq!(used, Err(MemberError::IdUsed { node: NodeId(4) }));
        let taken = decided(add(5, "node-2:1"), &three, &[]);
        assert!(matches!(taken, Err(MemberError::AddressTaken { .. })), "{taken:?}");
        let full = members(&(1..=32).collect::<Vec<_>>(), &[]);
        assert_eq!(decided(add(33, "x:1"), &full, &[]), Err(MemberError::TooMany { limit: 32 }));
    }

    #[test]
    fn a_learner_is_promoted_once_it_has_caught_up_and_where_a_majority_answers() {
        let grown = members(&[1, 2, 3, 11], &[]);
        let step = Step::Change(ChangeMembers::AddVoterIds(ids(&[11])));
        assert_eq!(decided(promote(11), &grown, &[3]), Ok(step));
        assert_eq!(decided(promote(2), &grown, &[]), Ok(Step::Done));
        let behind = decided(promote(11), &grown, &[11]);
        assert!(matches!(behind, Err(MemberError::Behind { .. })), "{behind:?}");
        let alone = decided(promote(11), &members(&[1, 2, 11], &[]), &[2]);
        assert!(matches!(alone, Ok(Step::Change(_))), "{alone:?}");
        let lost = decided(promote(11), &grown, &[2, 3]);
        assert!(matches!(lost, Err(MemberError::LosesQuorum { .. })), "{lost:?}");
        let unknown = decided(promote(12), &grown, &[]);
        assert!(matches!(unknown, Err(MemberError::UnknownNode { .. })), "{unknown:?}");
    }

    #[test]
    fn a_removal_that_loses_the_quorum_is_refused_and_one_of_a_dead_node_is_not() {
        let three = members(&[1, 2, 3], &[9]);
        let step = |id| Ok(Step::Change(ChangeMembers::RemoveVoters(ids(&[id]))));
        assert_eq!(decided(remove(3), &three, &[3]), step(3));
        assert_eq!(decided(remove(2), &three, &[]), step(2));
        let lost = decided(remove(2), &three, &[3]);
        assert!(matches!(lost, Err(MemberError::LosesQuorum { .. })), "{lost:?}");
        let last = decided(remove(1), &members(&[1], &[]), &[]);
        assert!(matches!(last, Err(MemberError::LosesQuorum { .. })), "{last:?}");
        assert_eq!(decided(remove(1), &three, &[]), Ok(Step::HandOverFirst));
        assert_eq!(decided(remove(9), &three, &[]), Ok(Step::Done));
        let learner = decided(remove(11), &members(&[1, 11], &[]), &[11]);
        assert_eq!(learner, Ok(Step::Change(ChangeMembers::RemoveNodes(ids(&[11])))));
    }

    #[test]
    fn a_node_is_replaced_by_a_learner_that_has_caught_up_in_one_step() {
        let grown = members(&[1, 2, 3, 11], &[9]);
        let replace =
            |node: u16, with: u16| MemberChange::Replace { node: NodeId(node), with: NodeId(with) };
        let both = Step::Change(ChangeMembers::Batch(vec![
            ChangeMembers::AddVoterIds(ids(&[11])),
            ChangeMembers::RemoveVoters(ids(&[3])),
        ]));
        assert_eq!(decided(replace(3, 11), &grown, &[3]), Ok(both));
        assert_eq!(decided(replace(1, 11), &grown, &[]), Ok(Step::HandOverFirst));
        assert_eq!(decided(replace(9, 2), &grown, &[]), Ok(Step::Done));
        let behind = decided(replace(3, 11), &grown, &[11]);
        assert!(matches!(behind, Err(MemberError::Behind { .. })), "{behind:?}");
        let unknown = decided(replace(3, 12), &grown, &[]);
        assert!(matches!(unknown, Err(MemberError::UnknownNode { .. })), "{unknown:?}");
    }

    #[test]
    fn who_holds_partitions_cannot_leave_before_others_took_them_over() {
        let four = members(&[1, 2, 8, 11], &[]);
        let holds = Err(MemberError::HoldsPartitions { node: NodeId(8) });
        assert_eq!(decided(remove(8), &four, &[]), holds);
        let replace = MemberChange::Replace { node: NodeId(8), with: NodeId(11) };
        assert_eq!(decided(replace, &four, &[]), holds);
    }

    #[test]
    fn a_fixed_leader_cannot_leave() {
        let three = members(&[1, 2, 3], &[]);
        let view = View {
            leader: LEADER,
            fixed: Some(LEADER),
            members: &three,
            trouble: &|_| None,
            there: &|_| true,
            holds: &|_| None,
        };
        assert_eq!(decide(&remove(1), &view), Err(MemberError::Fixed { fixed: LEADER }));
    }
}
