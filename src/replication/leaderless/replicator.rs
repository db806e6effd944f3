//! Leaderless mode as every architecture is asked: see [`Replicator`].

use std::collections::BTreeMap;

use futures_util::future::{BoxFuture, FutureExt};

use super::Leaderless;
use super::view::View;
use crate::error::{LayoutCallError, MembershipError, ReadError, Refusal, WriteError};
use crate::peer::Inbound;
use crate::replication::explain::Explanation;
use crate::replication::layout::{LayoutPlan, LayoutStatus};
use crate::replication::repair::RepairStatus;
use crate::replication::{
    ClusterStatus, List, ListAnswer, Member, ReadAnswer, Replicator, RequestOptions, Standing,
    WriteAnswer,
};
use crate::types::{Key, MemberChange, Members, Mode, NodeId, Share, Write};

impl Leaderless {
    fn members(&self, view: &View, known: &Members) -> Vec<Member> {
        let holds = |id: NodeId| view.nodes.contains(&id);
        let member = |(id, address, votes): (NodeId, String, bool)| {
            let own = id == self.core.node;
            let peer = self.core.transport.peer(id).unwrap_or_default();
            let standing = if own { Standing::Normal } else { Standing::of(&peer) };
            Member {
                id,
                peer_address: address,
                client_address: match own {
                    true => Some(self.all.advertise.clone()),
                    false => peer.client_address,
                },
                role: match (holds(id), votes) {
                    (true, _) => "replica",
                    (false, true) => "voter",
                    (false, false) => "learner",
                },
                votes,
                standing,
            }
        };
        if known.nodes.is_empty() && self.founds {
            // The control plane has not said yet.
            let peers = self.all.peers.iter();
            return peers.map(|(id, address)| member((*id, address.clone(), true))).collect();
        }
        let nodes = known.nodes.iter();
        // The settings win, as they do for the links.
        let address = |id: &NodeId, told: &String| self.all.peers.get(id).unwrap_or(told).clone();
        nodes.map(|(id, facts)| member((*id, address(id, &facts.address), facts.voter))).collect()
    }
}

impl Replicator for Leaderless {
    fn read(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<ReadAnswer, ReadError>> {
        self.core.read(key, options).boxed()
    }

    fn write(
        &self,
        write: Write,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<WriteAnswer, WriteError>> {
        self.core.write(write, options).boxed()
    }

    fn list(
        &self,
        list: List,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<ListAnswer, ReadError>> {
        self.core.list(list, options).boxed()
    }

    fn explain(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<Explanation, ReadError>> {
        self.core.explain(key, options).boxed()
    }

    fn status(&self) -> ClusterStatus {
        let (group, view) = (self.core.control.status(), self.core.view());
        ClusterStatus {
            cluster: group.cluster,
            mode: Mode::Leaderless,
            epoch: view.epoch,
            node: self.core.node,
            leader: group.leader,
            fixed_leader: None,
            term: group.term,
            members: self.members(&view, &group.members),
            removed: group.members.removed.into_iter().collect(),
            applied_index: group.applied_index,
        }
    }

    fn change_members(
        &self,
        change: MemberChange,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<(), MembershipError>> {
        let core = &self.core;
        async move {
            core.check_running()?;
            core.control.change_members(change, options.deadline).await.map_err(Into::into)
        }
        .boxed()
    }

    fn layout(&self) -> BoxFuture<'_, Result<LayoutStatus, Refusal>> {
        self.core.layout_status().boxed()
    }

    fn plan_layout(
        &self,
        nodes: BTreeMap<NodeId, Share>,
    ) -> BoxFuture<'_, Result<LayoutPlan, Refusal>> {
        async move { self.core.plan(nodes).await.map(|planned| planned.plan) }.boxed()
    }

    fn apply_layout(
        &self,
        nodes: BTreeMap<NodeId, Share>,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<LayoutStatus, LayoutCallError>> {
        self.core.apply_layout(nodes, options).boxed()
    }

    fn cancel_layout(
        &self,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<LayoutStatus, LayoutCallError>> {
        self.core.cancel_layout(options).boxed()
    }

    fn start_repair(&self) -> Result<RepairStatus, Refusal> {
        self.core.check_running()?;
        let view = self.core.view();
        let others = view.nodes.iter().copied().filter(|node| *node != self.core.node);
        Ok(self.core.repairs.start(others))
    }

    fn repair_status(&self) -> Result<RepairStatus, Refusal> {
        Ok(self.core.repairs.status())
    }

    fn ready(&self) -> Result<(), String> {
        self.core.ready()
    }

    fn handle(&self, inbound: Inbound) {
        self.core.serve(inbound);
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<(), String>> {
        Leaderless::checkpoint(self).boxed()
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        self.core.replica.failed().boxed()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Leaderless::shutdown(self).boxed()
    }
}
