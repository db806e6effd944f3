//! Bringing this node what a change of the layout gives it, and proving that it has it.
//!
//! **How.** A replica that comes compares its partitions with those of the old replicas, one after the
//! other, as anti-entropy does: what it lacks it is sent, once, through the commit log. It is throttled
//! as repairs are, and after a crash goes on where it was, since what arrived is equal.
//!
//! **What it proves.** In the last step a node compares with so many of the old replicas that every quorum
//! of them, of writes or of reads, has one of those: what was acknowledged, or returned by a read, before
//! that step is at one of them from before it went by the step's epoch, and [`Core::settled_epoch`] says
//! that it is in its tree. What differs is repaired whatever clocks say. Whatever came later is at a
//! quorum of the new replicas by itself, see [`super::view`].
//!
//! **Does not guarantee** anything of writes with a smaller `w`: one that only an old replica has which
//! cannot be reached is lost to the cluster. A node that leaves brings what it has to others before it
//! drops it, see [`super::departure`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Core;
use super::comparison::{Comparison, Scope};
use super::view::{Usual, View};
use crate::planted::{self, Bug};
use crate::types::{Epoch, LayoutCommand, LayoutState, LayoutStep, NodeId, Partition, Step};

/// How soon what failed, or could not be looked at, is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Partitions that are compared together: where that fails, they are what is compared again.
const TOGETHER: usize = 32;

/// How long the control plane may take to be told.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node waits for the layout to change before it looks by itself.
const LOOK: Duration = Duration::from_secs(1);

/// How far a node is with the step under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub epoch: u64,
    /// Partitions that it has to have, and that it is known to have.
    pub partitions: u64,
    pub proven: u64,
    /// Records that it was brought, or brought others, and their bytes.
    pub records: u64,
    pub bytes: u64,
    /// What stands in the way, where something does.
    pub waits_for: Option<String>,
}

/// Does what each step asks of this node, for as long as it runs.
pub(super) async fn run(core: Arc<Core>) {
    loop {
        // Asked for before looking, so that no change is missed in between.
        let changed = core.active.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let view = core.view();
        let epoch = core.settled_epoch();
        if epoch == view.epoch && epoch.0 > 0 {
            core.found(&view).await;
            match view.to_prove(core.node) {
                Some((step, partitions)) if !partitions.is_empty() => {
                    core.reach(&view, step, &partitions).await;
                    continue;
                }
                _ => *core.progress.lock() = None,
            }
        }
        let wait = core.runtime.now() + LOOK;
        let _ = core.runtime.deadline(wait, changed).await;
    }
}

impl Core {
    /// Tells the control plane the layout of a new cluster, which it needs before it changes it.
    async fn found(&self, view: &View) {
        let Some(state) = view.state() else { return };
        if self.control.watch_layout().borrow().is_some() || self.control.status().leader.is_none()
        {
            return;
        }
        let layout = state.current.clone();
        self.tell_control(LayoutCommand::Found { layout }).await;
    }

    async fn tell_control(&self, command: LayoutCommand) {
        let deadline = self.runtime.now() + TELL_TIMEOUT;
        if let Err(error) = self.control.change_layout(command, deadline).await {
            tracing::debug!(%error, "the control plane was not told; it is tried again");
        }
    }

    /// Comes to have what the step asks for, and says so until the step is over.
    async fn reach(self: &Arc<Core>, view: &View, step: Step, partitions: &[Partition]) {
        let (epoch, node) = (view.epoch, self.node);
        self.learn_horizons(view).await;
        let mut proof = Proof::new(self, view, partitions);
        *self.progress.lock() = Some(proof.progress.clone());
        while self.view().epoch == epoch && !planted::is(Bug::MovedWithoutProof) {
            if proof.round(step).await {
                break;
            }
            self.runtime.sleep(RETRY).await;
        }
        while self.view().epoch == epoch {
            let is_done = |change: &LayoutStep| change.done.contains(&node);
            let knows = |state: &LayoutState| {
                state.epoch == epoch && state.change.as_ref().is_some_and(is_done)
            };
            if !self.control_knows(knows) {
                self.tell_control(LayoutCommand::Reached { epoch, node }).await;
            }
            self.runtime.sleep(RETRY).await;
        }
    }

    /// Whether something is so by what the control plane has told this node.
    fn control_knows(&self, is_so: impl FnOnce(&LayoutState) -> bool) -> bool {
        self.control.watch_layout().borrow().as_deref().is_some_and(is_so)
    }

    /// Tells the control plane that this node has nothing any more of what it does not hold.
    pub(super) async fn say_departed(&self, epoch: Epoch) {
        let node = self.node;
        if self.control_knows(|state| state.departing.contains(&node)) {
            self.tell_control(LayoutCommand::Departed { epoch, node }).await;
        }
    }
}

/// What a node has compared of the partitions that it is to have.
struct Proof<'a> {
    core: &'a Arc<Core>,
    epoch: Epoch,
    usual: Usual,
    /// With the old replicas of each, and those that it was compared with.
    partitions: BTreeMap<Partition, (BTreeSet<NodeId>, BTreeSet<NodeId>)>,
    progress: Progress,
}

impl<'a> Proof<'a> {
    fn new(core: &'a Arc<Core>, view: &View, partitions: &[Partition]) -> Proof<'a> {
        let of = |partition: &Partition| {
            let old: BTreeSet<NodeId> = view.old_replicas(*partition).iter().copied().collect();
            // What it holds itself it has.
            let heard = old.iter().copied().filter(|node| *node == core.node).collect();
            (*partition, (old, heard))
        };
        let partitions: BTreeMap<_, _> = partitions.iter().map(of).collect();
        let progress = Progress {
            epoch: view.epoch.0,
            partitions: partitions.len() as u64,
            ..Progress::default()
        };
        Proof { core, epoch: view.epoch, usual: view.usual(), partitions, progress }
    }

    /// How many of the old replicas of a partition must have been heard: one of every quorum of writes, and
    /// one of every quorum of reads that finds those.
    fn needed(&self, old: usize) -> usize {
        let w = usize::from(self.usual.w).clamp(1, old.max(1));
        w.max(old + 1 - w)
    }

    fn is_proven(&self, (old, heard): &(BTreeSet<NodeId>, BTreeSet<NodeId>)) -> bool {
        heard.len() >= self.needed(old.len())
    }

    /// Compares with every old replica that can be reached; whether all is proven then.
    async fn round(&mut self, step: Step) -> bool {
        self.progress.waits_for = None;
        for peer in self.whom_to_ask() {
            if self.core.view().epoch != self.epoch {
                return false;
            }
            if let Err(reason) = self.compare_with(peer, step).await {
                self.progress.waits_for = Some(format!("node {peer}: {reason}"));
            }
            self.show();
        }
        let missing = self.partitions.values().filter(|it| !self.is_proven(it)).count();
        if missing > 0 && self.progress.waits_for.is_none() {
            let reason = format!("{missing} partitions have too few replicas that can be reached");
            self.progress.waits_for = Some(reason);
        }
        self.show();
        missing == 0
    }

    /// The old replicas that are up and were not heard of all, the next id first: so that not all who
    /// come begin with the same.
    fn whom_to_ask(&self) -> Vec<NodeId> {
        let unheard = self.partitions.values().flat_map(|(old, heard)| old.difference(heard));
        let nodes: BTreeSet<NodeId> =
            unheard.copied().filter(|node| self.core.peers.is_connected(*node)).collect();
        let (before, after): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|node| *node < self.core.node);
        after.into_iter().chain(before).collect()
    }

    /// Compares with one old replica what it was not compared with, some partitions at a time.
    async fn compare_with(&mut self, peer: NodeId, step: Step) -> Result<(), String> {
        let of_peer: Vec<Partition> = self
            .partitions
            .iter()
            .filter(|(_, (old, heard))| old.contains(&peer) && !heard.contains(&peer))
            .map(|(partition, _)| *partition)
            .collect();
        let mut ended = Ok(());
        for some in of_peer.chunks(TOGETHER) {
            let compared = self.compare_some(peer, some, step).await;
            ended = ended.and(compared);
            self.show();
        }
        ended
    }

    async fn compare_some(
        &mut self,
        peer: NodeId,
        some: &[Partition],
        step: Step,
    ) -> Result<(), String> {
        let partitions: BTreeSet<Partition> = some.iter().copied().collect();
        let comparison = Comparison::new(self.core, peer, false).of(partitions, self.epoch);
        // What is too new for a first look is left to the last step, which takes everything.
        let comparison = match step {
            Step::Copying => comparison,
            Step::Checking => comparison.everything(),
        };
        let ended = comparison.run(&mut BTreeMap::new()).await;
        let (records, bytes) = comparison.moved();
        self.progress.records += records;
        self.progress.bytes += bytes;
        if ended? == Scope::Part {
            return Err(
                "some hash trees are being built, or some records were not taken".to_owned()
            );
        }
        for partition in some {
            if let Some((_, heard)) = self.partitions.get_mut(partition) {
                heard.insert(peer);
            }
        }
        Ok(())
    }

    fn show(&mut self) {
        let proven = self.partitions.values().filter(|it| self.is_proven(it)).count();
        self.progress.proven = proven as u64;
        *self.core.progress.lock() = Some(self.progress.clone());
    }
}
