//! Which nodes hold which partitions, and how that changes: what the control plane of leaderless mode
//! agrees on.
//!
//! **Why it exists.** Nodes come and go while clients read and write. Every node must know who holds a
//! key, and nobody may read where a write is not yet, or write where nobody reads any more.
//!
//! **How.** A layout is changed in steps, and each raises the epoch. *Copying*: writes go to a quorum of
//! the old replicas and of the new, reads to the old, and the new are brought what they lack. *Checking*:
//! reads go to both as well, so that whatever they return is at both, and the new prove that they have
//! all that was written or read before. Then the new layout stands alone. Each replica refuses requests
//! of another epoch than its own, so that no quorum is made of two.
//!
//! **Guarantees.** Only one change at a time. A step is over when every node that gets a replica has said
//! that it has what the step asks for. A change that was begun can be taken back in any step: whatever
//! was acknowledged is at a quorum of the old replicas too. The same commands in the same order give the
//! same layout on every node.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Epoch, NodeId, PARTITIONS};

/// The epoch of a new cluster's layout, which every node works out by itself.
pub const FOUNDING_EPOCH: Epoch = Epoch(1);

/// Nodes that a layout may spread partitions over: working one out takes a time that grows with them.
pub const MAX_LAYOUT_NODES: usize = 64;

/// The longest name of a zone, in bytes.
pub const MAX_ZONE_BYTES: usize = 64;

/// What a node takes part in a layout with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// In proportion to the weights of the others; more than 0.
    pub weight: u32,
    /// Nodes that fail together have one zone; `None` is one of its own.
    pub zone: Option<String>,
}

/// Partitions, spread over nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// N: replicas a partition is to have; it has fewer where there are fewer nodes.
    pub replicas: u16,
    /// R and W: how many of them reads and writes wait for, where they do not say otherwise.
    pub read_quorum: u16,
    pub write_quorum: u16,
    pub nodes: BTreeMap<NodeId, Share>,
    /// The replicas of each partition, by its number; no node twice.
    pub partitions: Vec<Vec<NodeId>>,
}

/// How far a change of the layout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    Copying,
    Checking,
}

impl Step {
    /// The step in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Step::Copying => "copying",
            Step::Checking => "checking",
        }
    }
}

/// A change of the layout that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutStep {
    pub step: Step,
    pub to: Spread,
    /// Nodes that have what this step asks for.
    pub done: BTreeSet<NodeId>,
}

/// The layout of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutState {
    pub epoch: Epoch,
    /// What stands, and what is read from while it is copied.
    pub current: Spread,
    pub change: Option<LayoutStep>,
    /// Nodes that held partitions before, and have not said yet that they brought all that they had of those
    /// to others.
    pub departing: BTreeSet<NodeId>,
}

/// What changes a layout. It is in logs and travels between nodes, so its order is on disk and on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayoutCommand {
    /// What the layout of a new cluster is; the first one counts.
    Found { layout: Spread },
    /// From the layout of `epoch` to another.
    Begin { epoch: Epoch, to: Spread },
    /// `node` has what the step of `epoch` asks for.
    Reached { epoch: Epoch, node: NodeId },
    /// `node` has nothing any more of partitions that it does not hold in the layout of `epoch`.
    Departed { epoch: Epoch, node: NodeId },
    /// Back to the layout that stood before the change whose step has `epoch`.
    Cancel { epoch: Epoch },
}

/// Why a layout is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum LayoutRefusal {
    #[error("the layout has epoch {now} by now, not {asked}: look at it again, and ask again")]
    OtherEpoch { asked: Epoch, now: Epoch },
    #[error(
        "a change of the layout is under way (epoch {epoch}): wait until it is over, or cancel it"
    )]
    UnderWay { epoch: Epoch },
    #[error("no change of the layout is under way")]
    NothingUnderWay,
    #[error("the cluster is being founded: ask again in a moment")]
    NotFounded,
    #[error("node {node} is not of this cluster: add it first")]
    NoMember { node: NodeId },
    #[error("that layout makes no sense: {0}")]
    Malformed(String),
    #[error("a change of the members is under way: ask again in a moment")]
    MembersChange,
}

impl Spread {
    /// Whether every partition lies on some of the nodes, on none of them twice, and on as many as it is to.
    pub fn check(&self) -> Result<(), String> {
        if self.nodes.is_empty() || self.nodes.len() > MAX_LAYOUT_NODES {
            return Err(format!("{} nodes: expected 1 to {MAX_LAYOUT_NODES}", self.nodes.len()));
        }
        if self.partitions.len() != PARTITIONS {
            return Err(format!("{} partitions: expected {PARTITIONS}", self.partitions.len()));
        }
        let replicas = usize::from(self.replicas).min(self.nodes.len());
        for (number, holders) in self.partitions.iter().enumerate() {
            let distinct: BTreeSet<_> = holders.iter().collect();
            if distinct.len() != holders.len() || holders.len() != replicas || replicas == 0 {
                return Err(format!("partition {number} is to have {replicas} different nodes"));
            }
            if let Some(stranger) = holders.iter().find(|node| !self.nodes.contains_key(node)) {
                return Err(format!("partition {number} lies on node {stranger}, which has none"));
            }
        }
        Ok(())
    }

    /// How many partitions a node holds.
    pub fn held_by(&self, node: NodeId) -> usize {
        self.partitions.iter().filter(|holders| holders.contains(&node)).count()
    }
}

impl LayoutState {
    /// A layout that stands, without a change under way.
    pub fn standing(epoch: Epoch, current: Spread) -> LayoutState {
        LayoutState { epoch, current, change: None, departing: BTreeSet::new() }
    }

    /// Every node that holds a replica, or is to.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        let next = self.change.iter().flat_map(|change| change.to.nodes.keys());
        self.current.nodes.keys().chain(next).copied().collect()
    }

    /// The nodes that a step waits for: the new replicas of each partition whose replicas change. Also
    /// those that stay, since with fewer of them they may not be a quorum of what was written.
    pub fn receivers(&self) -> BTreeSet<NodeId> {
        let Some(change) = &self.change else { return BTreeSet::new() };
        let pairs = self.current.partitions.iter().zip(&change.to.partitions);
        let moved = pairs.filter(|(from, to)| differ(from, to));
        moved.flat_map(|(_, to)| to.iter().copied()).collect()
    }

    /// Changes the layout; `known` is `None` before it was founded. `is_member` says who may hold partitions.
    pub fn take(
        known: Option<&LayoutState>,
        command: LayoutCommand,
        is_member: impl Fn(NodeId) -> bool,
    ) -> Result<LayoutState, LayoutRefusal> {
        let founded = known.cloned().ok_or(LayoutRefusal::NotFounded);
        match command {
            LayoutCommand::Found { layout } => match known {
                Some(known) => Ok(known.clone()),
                None => {
                    layout.check().map_err(LayoutRefusal::Malformed)?;
                    Ok(LayoutState::standing(FOUNDING_EPOCH, layout))
                }
            },
            LayoutCommand::Begin { epoch, to } => founded?.begin(epoch, to, is_member),
            LayoutCommand::Reached { epoch, node } => founded?.reach(epoch, node),
            LayoutCommand::Departed { epoch, node } => founded?.depart(epoch, node),
            LayoutCommand::Cancel { epoch } => founded?.cancel(epoch),
        }
    }

    fn begin(
        mut self,
        epoch: Epoch,
        to: Spread,
        is_member: impl Fn(NodeId) -> bool,
    ) -> Result<LayoutState, LayoutRefusal> {
        if self.change.is_some() {
            return Err(LayoutRefusal::UnderWay { epoch: self.epoch });
        }
        self.check_epoch(epoch)?;
        to.check().map_err(LayoutRefusal::Malformed)?;
        let quorums = |spread: &Spread| (spread.read_quorum, spread.write_quorum);
        if quorums(&to) != quorums(&self.current) {
            let problem = "its quorums are others than those that the cluster was founded with";
            return Err(LayoutRefusal::Malformed(problem.to_owned()));
        }
        if let Some(node) = to.nodes.keys().find(|node| !is_member(**node)) {
            return Err(LayoutRefusal::NoMember { node: *node });
        }
        self.epoch = Epoch(self.epoch.0 + 1);
        self.change = Some(LayoutStep { step: Step::Copying, to, done: BTreeSet::new() });
        // Nothing moves where weights or zones alone change.
        if self.receivers().is_empty()
            && let Some(change) = self.change.take()
        {
            self.leave(change.to);
        }
        Ok(self)
    }

    fn reach(mut self, epoch: Epoch, node: NodeId) -> Result<LayoutState, LayoutRefusal> {
        self.check_epoch(epoch)?;
        let receivers = self.receivers();
        let Some(change) = &mut self.change else { return Err(LayoutRefusal::NothingUnderWay) };
        change.done.insert(node);
        if !receivers.is_subset(&change.done) {
            return Ok(self);
        }
        self.epoch = Epoch(self.epoch.0 + 1);
        match change.step {
            Step::Copying => (change.step, change.done) = (Step::Checking, BTreeSet::new()),
            Step::Checking => {
                let to = change.to.clone();
                self.leave(to);
            }
        }
        Ok(self)
    }

    /// Lets another spread stand; whoever holds less in it departs.
    fn leave(&mut self, to: Spread) {
        let pairs = self.current.partitions.iter().zip(&to.partitions);
        let left = pairs.flat_map(|(from, to)| from.iter().filter(|node| !to.contains(node)));
        self.departing.extend(left);
        (self.current, self.change) = (to, None);
    }

    fn depart(mut self, epoch: Epoch, node: NodeId) -> Result<LayoutState, LayoutRefusal> {
        self.check_epoch(epoch)?;
        if self.change.is_some() {
            return Err(LayoutRefusal::UnderWay { epoch });
        }
        self.departing.remove(&node);
        Ok(self)
    }

    /// Takes a change back; whoever was to hold more departs from that.
    fn cancel(mut self, epoch: Epoch) -> Result<LayoutState, LayoutRefusal> {
        let Some(change) = &self.change else { return Err(LayoutRefusal::NothingUnderWay) };
        self.check_epoch(epoch)?;
        let pairs = self.current.partitions.iter().zip(&change.to.partitions);
        let came = pairs.flat_map(|(from, to)| to.iter().filter(|node| !from.contains(node)));
        self.departing.extend(came);
        self.epoch = Epoch(self.epoch.0 + 1);
        self.change = None;
        Ok(self)
    }

    fn check_epoch(&self, asked: Epoch) -> Result<(), LayoutRefusal> {
        match asked == self.epoch {
            true => Ok(()),
            false => Err(LayoutRefusal::OtherEpoch { asked, now: self.epoch }),
        }
    }
}

/// Whether two lists of replicas are of different nodes; their order does not matter.
pub fn differ(from: &[NodeId], to: &[NodeId]) -> bool {
    from.len() != to.len() || from.iter().any(|node| !to.contains(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every partition on all of these nodes.
    fn all_on(ids: &[u16]) -> Spread {
        let nodes: Vec<NodeId> = ids.iter().copied().map(NodeId).collect();
        let share = Share { weight: 1, zone: None };
        Spread {
            replicas: ids.len() as u16,
            read_quorum: 1,
            write_quorum: 1,
            nodes: nodes.iter().map(|node| (*node, share.clone())).collect(),
            partitions: vec![nodes; PARTITIONS],
        }
    }

    fn founded() -> LayoutState {
        take(None, LayoutCommand::Found { layout: all_on(&[1, 2]) }).expect("founded")
    }

    fn begin(epoch: u64, to: &[u16]) -> LayoutCommand {
        LayoutCommand::Begin { epoch: Epoch(epoch), to: all_on(to) }
    }

    fn reached(epoch: u64, node: u16) -> LayoutCommand {
        LayoutCommand::Reached { epoch: Epoch(epoch), node: NodeId(node) }
    }

    fn take(
        known: Option<&LayoutState>,
        command: LayoutCommand,
    ) -> Result<LayoutState, LayoutRefusal> {
        LayoutState::take(known, command, |node| node.0 < 9)
    }

    #[test]
    fn a_change_goes_through_its_steps_as_all_new_replicas_say_so() {
        let mut state = take(Some(&founded()), begin(1, &[2, 3])).expect("begins");
        assert_eq!(state.receivers(), BTreeSet::from([NodeId(2), NodeId(3)]));
        for (epoch, step) in [(2, Step::Copying), (3, Step::Checking)] {
            assert_eq!(
                (state.epoch, state.change.as_ref().map(|it| it.step)),
                (Epoch(epoch), Some(step))
            );
            state = take(Some(&state), reached(epoch, 3)).expect("one");
            assert_eq!(state.epoch, Epoch(epoch), "the other is waited for");
            state = take(Some(&state), reached(epoch, 3)).expect("again");
            assert_eq!(state.epoch, Epoch(epoch), "it counts once");
            state = take(Some(&state), reached(epoch, 2)).expect("both");
        }
        let mut stands = LayoutState::standing(Epoch(4), all_on(&[2, 3]));
        stands.departing.insert(NodeId(1));
        assert_eq!(state, stands);
        let departed = LayoutCommand::Departed { epoch: Epoch(4), node: NodeId(1) };
        let after = take(Some(&state), departed).expect("departed");
        assert_eq!(after, LayoutState { departing: BTreeSet::new(), ..stands });
        let late = take(Some(&state), reached(3, 2));
        assert_eq!(late, Err(LayoutRefusal::OtherEpoch { asked: Epoch(3), now: Epoch(4) }));
    }

    #[test]
    fn a_change_is_taken_back_in_either_step_and_the_epoch_never_falls() {
        let copying = take(Some(&founded()), begin(1, &[2, 3])).expect("begins");
        let one = take(Some(&copying), reached(2, 2)).expect("one");
        let checking = take(Some(&one), reached(2, 3)).expect("both");
        for state in [copying, checking] {
            let cancel = LayoutCommand::Cancel { epoch: state.epoch };
            let back = take(Some(&state), cancel.clone()).expect("cancelled");
            let mut stands = LayoutState::standing(Epoch(state.epoch.0 + 1), all_on(&[1, 2]));
            // Whoever was to hold more may have been brought some of it.
            stands.departing.insert(NodeId(3));
            assert_eq!(back, stands);
            assert_eq!(take(Some(&back), cancel), Err(LayoutRefusal::NothingUnderWay));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let first = begin(1, &[2, 3]);
        assert_eq!(take(None, first.clone()), Err(LayoutRefusal::NotFounded));
        let state = take(Some(&founded()), first.clone()).expect("begins");
        assert_eq!(take(Some(&state), first), Err(LayoutRefusal::UnderWay { epoch: Epoch(2) }));
        let other = LayoutRefusal::OtherEpoch { asked: Epoch(5), now: Epoch(1) };
        assert_eq!(take(Some(&founded()), begin(5, &[2, 3])), Err(other));
        let stranger = LayoutRefusal::NoMember { node: NodeId(9) };
        assert_eq!(take(Some(&founded()), begin(1, &[2, 9])), Err(stranger));
        assert_eq!(take(Some(&founded()), reached(1, 2)), Err(LayoutRefusal::NothingUnderWay));
        let again = take(Some(&state), LayoutCommand::Found { layout: all_on(&[7]) });
        assert_eq!(again, Ok(state), "it is founded once");
        let spoiled = |spoil: fn(&mut Spread)| {
            let mut to = all_on(&[2, 3]);
            spoil(&mut to);
            take(Some(&founded()), LayoutCommand::Begin { epoch: Epoch(1), to })
        };
        for refused in [
            spoiled(|to| to.partitions.truncate(9)),
            spoiled(|to| to.partitions[7] = vec![NodeId(2)]),
            spoiled(|to| to.partitions[7] = vec![NodeId(2), NodeId(2)]),
            spoiled(|to| to.partitions[7] = vec![NodeId(2), NodeId(4)]),
            spoiled(|to| to.nodes.clear()),
            spoiled(|to| to.write_quorum = 2),
        ] {
            assert!(matches!(refused, Err(LayoutRefusal::Malformed(_))), "{refused:?}");
        }
    }

    #[test]
    fn where_nothing_moves_the_change_is_done_at_once() {
        let mut to = all_on(&[1, 2]);
        to.nodes.values_mut().for_each(|share| share.weight = 7);
        let command = LayoutCommand::Begin { epoch: Epoch(1), to: to.clone() };
        assert_eq!(take(Some(&founded()), command), Ok(LayoutState::standing(Epoch(2), to)));
    }
}
