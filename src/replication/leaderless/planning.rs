//! What the layout is, what a change of it would move, and having it made.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use super::Core;
use super::active::Answer;
use super::assignment::assign;
use crate::error::{LayoutCallError, LayoutError, Refusal};
use crate::replication::RequestOptions;
use crate::replication::layout::{
    LayoutChange, LayoutPlan, LayoutStatus, NodeProgress, PlannedNode, SpreadView,
};
use crate::runtime::Instant;
use crate::types::{
    Epoch, LayoutCommand, LayoutRefusal, LayoutState, MAX_LAYOUT_NODES, MAX_ZONE_BYTES, NodeId,
    Share, Spread,
};

/// A plan, and what it is a plan of.
pub(super) struct Planned {
    pub plan: LayoutPlan,
    /// The layout that it changes.
    epoch: Epoch,
    to: Spread,
}

impl Core {
    /// The layout that this node goes by, and how far each node is with a change that is under way.
    pub(super) async fn layout_status(&self) -> Result<LayoutStatus, Refusal> {
        self.check_running()?;
        let view = self.view();
        let Some(state) = view.state() else {
            // As `check_running` says.
            return Err(Refusal::NotReady { detail: "it knows no layout".to_owned() });
        };
        // What the control plane knows may be newer in who has said that it is done.
        let told = self.control.watch_layout().borrow().clone();
        let told = told.filter(|told| told.epoch == state.epoch);
        let state = told.map_or_else(|| state.clone(), |told| LayoutState::clone(&told));
        let change = match &state.change {
            None => None,
            Some(change) => Some(LayoutChange {
                step: change.step,
                to: SpreadView::of(&change.to),
                nodes: self.progress_of(&state).await,
            }),
        };
        let departing = state.departing.iter().copied().collect();
        Ok(LayoutStatus {
            epoch: state.epoch,
            current: SpreadView::of(&state.current),
            change,
            departing,
        })
    }

    /// Asks every node that the step under way waits for how far it is.
    async fn progress_of(&self, state: &LayoutState) -> Vec<NodeProgress> {
        let done = |node: &NodeId| state.change.as_ref().is_some_and(|it| it.done.contains(node));
        let asked = state.receivers().into_iter().map(|node| async move {
            let answer = match node == self.node {
                true => Ok(Answer { state: None, progress: self.progress.lock().clone() }),
                false => self.ask_for_layout(node).await,
            };
            (node, answer)
        });
        let view = |(node, answer): (NodeId, Result<Answer, String>)| {
            let (progress, error) = match answer {
                Ok(answer) => (answer.progress.unwrap_or_default(), None),
                Err(reason) => (Default::default(), Some(reason)),
            };
            let is_of_it = progress.epoch == state.epoch.0;
            let progress = if is_of_it { progress } else { Default::default() };
            NodeProgress {
                node,
                partitions: progress.partitions,
                proven: progress.proven,
                records: progress.records,
                bytes: progress.bytes,
                done: done(&node),
                waits_for: error.or(progress.waits_for),
            }
        };
        join_all(asked).await.into_iter().map(view).collect()
    }

    /// What would move if the partitions were spread over these nodes.
    pub(super) async fn plan(&self, wanted: BTreeMap<NodeId, Share>) -> Result<Planned, Refusal> {
        let bad = |problem: String| Err(Refusal::BadParameter { parameter: "nodes", problem });
        if wanted.is_empty() || wanted.len() > MAX_LAYOUT_NODES {
            return bad(format!("{} nodes: expected 1 to {MAX_LAYOUT_NODES}", wanted.len()));
        }
        if let Some((node, _)) = wanted.iter().find(|(_, share)| share.weight == 0) {
            return bad(format!("node {node} has the weight 0: leave it out, or give it more"));
        }
        let zone_bytes = |share: &Share| share.zone.as_ref().map_or(1, String::len);
        let is_odd = |share: &Share| !(1..=MAX_ZONE_BYTES).contains(&zone_bytes(share));
        if let Some((node, _)) = wanted.iter().find(|(_, share)| is_odd(share)) {
            return bad(format!("node {node}: a zone's name has 1 to {MAX_ZONE_BYTES} bytes"));
        }
        self.check_running()?;
        let view = self.view();
        let Some(current) = view.state().map(|state| state.current.clone()) else {
            return Err(Refusal::NotReady { detail: "it knows no layout".to_owned() });
        };
        let epoch = view.epoch;
        let plan = move || {
            let Spread { replicas, read_quorum, write_quorum, .. } = current;
            let partitions = assign(&current.partitions, &wanted, replicas);
            let before = current.partitions.iter().flatten().copied();
            let named: BTreeSet<NodeId> = before.chain(wanted.keys().copied()).collect();
            let nodes =
                named.into_iter().map(|node| planned(node, &current.partitions, &partitions));
            let plan = LayoutPlan {
                replicas: replicas.min(wanted.len() as u16),
                nodes: nodes.collect(),
                partitions: partitions.clone(),
            };
            let to = Spread { replicas, read_quorum, write_quorum, nodes: wanted, partitions };
            Planned { plan, epoch, to }
        };
        Ok(self.runtime.blocking(plan).await)
    }

    /// Begins to spread the partitions over these nodes; answered once that is decided, not once it is
    /// done.
    pub(super) async fn apply_layout(
        &self,
        wanted: BTreeMap<NodeId, Share>,
        options: RequestOptions,
    ) -> Result<LayoutStatus, LayoutCallError> {
        let Planned { epoch, to, .. } = self.plan(wanted).await?;
        self.change_layout(LayoutCommand::Begin { epoch, to }, options.deadline).await
    }

    /// Goes back to the layout that stood before the change that is under way.
    pub(super) async fn cancel_layout(
        &self,
        options: RequestOptions,
    ) -> Result<LayoutStatus, LayoutCallError> {
        self.check_running()?;
        let view = self.view();
        if view.stands() {
            return Err(LayoutError::Refused(LayoutRefusal::NothingUnderWay).into());
        }
        let command = LayoutCommand::Cancel { epoch: view.epoch };
        self.change_layout(command, options.deadline).await
    }

    async fn change_layout(
        &self,
        command: LayoutCommand,
        deadline: Instant,
    ) -> Result<LayoutStatus, LayoutCallError> {
        let epoch = self.control.change_layout(command, deadline).await?;
        // Whoever asked here finds here what was done, unless this node lags.
        while self.view().epoch < epoch {
            let changed = self.active.changed.notified();
            if self.view().epoch >= epoch
                || self.runtime.deadline(deadline, changed).await.is_none()
            {
                break;
            }
        }
        Ok(self.layout_status().await?)
    }
}

fn planned(node: NodeId, before: &[Vec<NodeId>], after: &[Vec<NodeId>]) -> PlannedNode {
    let count = |lists: &[Vec<NodeId>]| lists.iter().filter(|list| list.contains(&node)).count();
    let pairs = before.iter().zip(after);
    let receives =
        pairs.filter(|(before, after)| after.contains(&node) && !before.contains(&node)).count();
    PlannedNode { node, holds: count(before), will_hold: count(after), receives }
}
