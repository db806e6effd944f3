//! The cluster as this node sees it: `GET /v1/cluster` and its parts.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;

use crate::replication::{ClusterStatus, Member};
use crate::types::{Epoch, Mode, NodeId};

use super::counters::Operation;
use super::query;
use super::shared::{Shared, json};

#[derive(Serialize)]
struct ClusterView {
    cluster_id: Option<String>,
    mode: Mode,
    epoch: Epoch,
    node: NodeId,
    leader: Option<NodeId>,
    term: u64,
    applied_index: u64,
    members: Vec<MemberView>,
}

#[derive(Serialize)]
pub(super) struct MembersView {
    members: Vec<MemberView>,
    /// Ids of nodes that were removed; never used again.
    removed: Vec<NodeId>,
}

impl From<ClusterStatus> for MembersView {
    fn from(status: ClusterStatus) -> MembersView {
        let members = status.members.into_iter().map(MemberView::from).collect();
        MembersView { members, removed: status.removed }
    }
}

#[derive(Serialize)]
pub(super) struct LeaderView {
    leader: Option<NodeId>,
    /// The node that leads for ever, where the settings name one.
    fixed_leader: Option<NodeId>,
    term: u64,
    /// Where clients reach the leader, as far as this node was told.
    client: Option<String>,
}

#[derive(Serialize)]
struct ModeView {
    mode: Mode,
    epoch: Epoch,
}

#[derive(Serialize)]
struct MemberView {
    id: NodeId,
    peer: String,
    client: Option<String>,
    role: &'static str,
    vote: bool,
    /// See [`Standing`](crate::replication::Standing).
    state: &'static str,
}

impl From<Member> for MemberView {
    fn from(member: Member) -> MemberView {
        MemberView {
            id: member.id,
            peer: member.peer_address,
            client: member.client_address,
            role: member.role,
            vote: member.votes,
            state: member.standing.as_str(),
        }
    }
}

impl From<ClusterStatus> for LeaderView {
    fn from(status: ClusterStatus) -> LeaderView {
        let leads = status.members.into_iter().find(|member| Some(member.id) == status.leader);
        LeaderView {
            leader: status.leader,
            fixed_leader: status.fixed_leader,
            term: status.term,
            client: leads.and_then(|member| member.client_address),
        }
    }
}

/// `GET /v1/cluster`.
pub async fn cluster(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answer(&shared, &request, |status| ClusterView {
        cluster_id: status.cluster.map(|cluster| cluster.to_string()),
        mode: status.mode,
        epoch: status.epoch,
        node: status.node,
        leader: status.leader,
        term: status.term,
        applied_index: status.applied_index,
        members: status.members.into_iter().map(MemberView::from).collect(),
    })
}

/// `GET /v1/cluster/members`.
pub async fn members(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answer(&shared, &request, MembersView::from)
}

/// `GET /v1/cluster/leader`.
pub async fn leader(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answer(&shared, &request, LeaderView::from)
}

/// `GET /v1/cluster/mode`.
pub async fn mode(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answer(&shared, &request, |status| ModeView { mode: status.mode, epoch: status.epoch })
}

fn answer<T: Serialize>(
    shared: &Shared,
    request: &Request,
    view: impl FnOnce(ClusterStatus) -> T,
) -> Response {
    let call = shared.begin(Operation::Cluster);
    let result = query::none(request.uri().query())
        .map(|()| json(&view(shared.api.replicator.status())))
        .map_err(Into::into);
    shared.finish(&call, result)
}
