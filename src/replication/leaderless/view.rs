//! The layout that a node goes by at one moment, and whom a request needs quorums of under it. Pure.
//!
//! While a layout changes, a key whose replicas change has two sets of them. Writes need a quorum of each
//! all the time. Reads need one of the old set, and in the last step one of each, so that what they return
//! is at both before the old set counts no more (see [`crate::types::LayoutState`]).

use std::collections::BTreeSet;

use super::layout::Layout;
use crate::planted::{self, Bug};
use crate::types::{Epoch, LayoutState, NodeId, Partition, Spread, Step, differ};

/// Before any layout is known: a node that joins holds nothing and coordinates nothing.
const UNKNOWN_EPOCH: Epoch = Epoch(0);

/// What the cluster's requests wait for where they do not say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usual {
    /// Replicas a partition.
    pub n: u16,
    pub r: u16,
    pub w: u16,
}

/// A layout, and the change that is under way.
#[derive(Clone, Debug)]
pub struct View {
    pub epoch: Epoch,
    /// Every node that holds a replica, or is to.
    pub nodes: Vec<NodeId>,
    current: Layout,
    next: Option<(Step, Layout)>,
    state: Option<LayoutState>,
}

/// The sets of replicas that a request needs a quorum of: one, or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sets<'a> {
    first: &'a [NodeId],
    second: Option<&'a [NodeId]>,
}

impl<'a> Sets<'a> {
    /// Each set.
    pub fn iter(self) -> impl Iterator<Item = &'a [NodeId]> + Clone {
        std::iter::once(self.first).chain(self.second)
    }

    /// The nodes of all sets, each once.
    pub fn union(self) -> Vec<NodeId> {
        let mut nodes = self.first.to_vec();
        let others = self.second.unwrap_or_default().iter();
        nodes.extend(others.filter(|node| !self.first.contains(node)));
        nodes
    }

    /// Whether a node is in any of them.
    pub fn contains(self, node: NodeId) -> bool {
        self.iter().any(|set| set.contains(&node))
    }
}

impl View {
    /// No layout is known.
    pub fn unknown() -> View {
        let current = Layout::new([], 0);
        View { epoch: UNKNOWN_EPOCH, nodes: Vec::new(), current, next: None, state: None }
    }

    /// That of a state.
    pub fn of(state: LayoutState) -> View {
        let next = state.change.as_ref().map(|change| (change.step, Layout::of(&change.to)));
        View {
            epoch: state.epoch,
            nodes: state.nodes().into_iter().collect(),
            current: Layout::of(&state.current),
            next,
            state: Some(state),
        }
    }

    /// What it was made of; `None` where no layout is known.
    pub fn state(&self) -> Option<&LayoutState> {
        self.state.as_ref()
    }

    /// N, R and W.
    pub fn usual(&self) -> Usual {
        let n = self.current.replicas();
        let quorums = |spread: &Spread| Usual { n, r: spread.read_quorum, w: spread.write_quorum };
        self.state.as_ref().map_or(Usual { n, r: 1, w: 1 }, |state| quorums(&state.current))
    }

    /// The new replicas of a partition, where they are not the old ones.
    fn coming(&self, partition: Partition) -> Option<(Step, &[NodeId])> {
        let (step, next) = self.next.as_ref()?;
        let (from, to) = (self.current.replicas_of(partition), next.replicas_of(partition));
        differ(from, to).then_some((*step, to))
    }

    /// Where writes of a partition go.
    pub fn write_sets(&self, partition: Partition) -> Sets<'_> {
        let second = self.coming(partition).map(|(_, to)| to);
        let second = second.filter(|_| !planted::is(Bug::MovedWritesToOldAlone));
        Sets { first: self.current.replicas_of(partition), second }
    }

    /// Where reads of a partition go.
    pub fn read_sets(&self, partition: Partition) -> Sets<'_> {
        let coming = self.coming(partition).filter(|(step, _)| *step == Step::Checking);
        let second = coming.map(|(_, to)| to);
        Sets { first: self.current.replicas_of(partition), second }
    }

    /// Whether a node takes writes of a partition.
    pub fn holds(&self, node: NodeId, partition: Partition) -> bool {
        self.current.holds(node, partition)
            || self.coming(partition).is_some_and(|(_, to)| to.contains(&node))
    }

    /// Whether a node has all that a read of one replica of a partition should find.
    pub fn reads_from(&self, node: NodeId, partition: Partition) -> bool {
        self.current.holds(node, partition)
    }

    /// The same of every partition.
    pub fn reads_all_from(&self, node: NodeId) -> bool {
        self.current.replicas() > 0 && self.current.holds_all(node)
    }

    /// The partitions that a node takes writes of.
    pub fn held_by(&self, node: NodeId) -> impl Iterator<Item = Partition> + '_ {
        Partition::all().filter(move |partition| self.holds(node, *partition))
    }

    /// The partitions that two nodes both hold and that do not move: what moves is compared by those who
    /// are to have it, and would be brought there twice.
    pub fn shared(&self, one: NodeId, other: NodeId) -> BTreeSet<Partition> {
        let stays = |partition: &Partition| self.coming(*partition).is_none();
        let held = Partition::all().filter(stays).filter(|it| self.current.holds(one, *it));
        held.filter(|partition| self.current.holds(other, *partition)).collect()
    }

    /// The partitions that a node has to prove that it has, as the step under way asks for, and the step.
    pub fn to_prove(&self, node: NodeId) -> Option<(Step, Vec<Partition>)> {
        let (step, _) = self.next.as_ref()?;
        let is_new = |partition: &Partition| {
            self.coming(*partition).is_some_and(|(_, to)| to.contains(&node))
        };
        Some((*step, Partition::all().filter(is_new).collect()))
    }

    /// The replicas that a partition has, or had before the change under way.
    pub fn old_replicas(&self, partition: Partition) -> &[NodeId] {
        self.current.replicas_of(partition)
    }

    /// Whether no change is under way.
    pub fn stands(&self) -> bool {
        self.next.is_none() && self.state.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::types::{LayoutCommand, PARTITIONS, Share};

    fn ids(ids: &[u16]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    /// Nodes 1 to 4; partition 0 on these, all others on 1 to 3.
    fn spread(first: &[u16]) -> Spread {
        let share = Share { weight: 1, zone: None };
        let mut partitions = vec![ids(&[1, 2, 3]); PARTITIONS];
        partitions[0] = ids(first);
        let nodes: BTreeMap<_, _> = (1..=4).map(|id| (NodeId(id), share.clone())).collect();
        Spread { replicas: 3, read_quorum: 2, write_quorum: 2, nodes, partitions }
    }

    fn changing(step: Step) -> View {
        let founded = LayoutCommand::Found { layout: spread(&[1, 2, 3]) };
        let mut state = LayoutState::take(None, founded, |_| true).expect("founded");
        let begin = LayoutCommand::Begin { epoch: Epoch(1), to: spread(&[2, 3, 4]) };
        state = LayoutState::take(Some(&state), begin, |_| true).expect("begins");
        if step == Step::Checking {
            for node in ids(&[2, 3, 4]) {
                let reached = LayoutCommand::Reached { epoch: Epoch(2), node };
                state = LayoutState::take(Some(&state), reached, |_| true).expect("reached");
            }
        }
        View::of(state)
    }

    #[test]
    fn writes_need_both_sets_and_reads_the_new_one_only_when_it_is_checked() {
        for step in [Step::Copying, Step::Checking] {
            let view = changing(step);
            let both = Sets { first: &ids(&[1, 2, 3]), second: Some(&ids(&[2, 3, 4])) };
            let old = Sets { second: None, ..both };
            assert_eq!(view.write_sets(Partition(0)), both);
            assert_eq!(both.union(), ids(&[1, 2, 3, 4]));
            let read = if step == Step::Checking { both } else { old };
            assert_eq!(view.read_sets(Partition(0)), read);
            // What does not move is as before.
            assert_eq!(view.write_sets(Partition(1)), old);
            assert_eq!(view.read_sets(Partition(1)), old);
        }
    }

    #[test]
    fn a_new_replica_takes_writes_and_is_not_read_alone() {
        let view = changing(Step::Copying);
        assert!(view.holds(NodeId(4), Partition(0)) && !view.reads_from(NodeId(4), Partition(0)));
        assert!(!view.holds(NodeId(4), Partition(1)));
        assert_eq!(view.to_prove(NodeId(4)), Some((Step::Copying, vec![Partition(0)])));
        assert_eq!(view.to_prove(NodeId(2)), Some((Step::Copying, vec![Partition(0)])));
        assert_eq!(view.to_prove(NodeId(1)), Some((Step::Copying, Vec::new())));
        assert!(view.shared(NodeId(1), NodeId(4)).is_empty());
        assert_eq!(view.shared(NodeId(1), NodeId(2)).len(), PARTITIONS - 1, "all but what moves");
    }

    #[test]
    fn where_no_layout_is_known_nobody_holds_anything() {
        let view = View::unknown();
        assert!(!view.holds(NodeId(1), Partition(0)) && !view.reads_all_from(NodeId(1)));
        assert!(view.nodes.is_empty() && !view.stands());
    }
}
