//! Repairing replicas: `GET` and `POST /v1/cluster/repair`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use crate::error::ReadError;
use crate::replication::repair::{PeerRepair, RepairStatus};
use crate::types::NodeId;

use super::counters::Operation;
use super::query;
use super::shared::{Shared, json};

#[derive(Serialize)]
struct View {
    node: NodeId,
    running: bool,
    peers: Vec<Peer>,
}

#[derive(Serialize)]
struct Peer {
    node: NodeId,
    state: &'static str,
    differing_partitions: u64,
    compared_partitions: u64,
    repaired_records: u64,
    error: Option<String>,
}

impl From<PeerRepair> for Peer {
    fn from(peer: PeerRepair) -> Peer {
        Peer {
            node: peer.node,
            state: peer.state.as_str(),
            differing_partitions: peer.differing,
            compared_partitions: peer.compared,
            repaired_records: peer.repaired,
            error: peer.error,
        }
    }
}

/// `GET /v1/cluster/repair`.
pub async fn status(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Repair);
    let result = query::none(request.uri().query()).map_err(Into::into).and_then(|()| {
        let status = shared.api.replicator.repair_status().map_err(ReadError::from)?;
        Ok(json(&view(&shared, status)))
    });
    shared.finish(&call, result)
}

/// `POST /v1/cluster/repair`: begins one, unless one runs.
pub async fn start(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Repair);
    let result = query::none(request.uri().query()).map_err(Into::into).and_then(|()| {
        let status = shared.api.replicator.start_repair().map_err(ReadError::from)?;
        let mut response = json(&view(&shared, status));
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    });
    shared.finish(&call, result)
}

fn view(shared: &Shared, status: RepairStatus) -> View {
    View {
        node: shared.api.settings.node_id,
        running: status.running,
        peers: status.peers.into_iter().map(Peer::from).collect(),
    }
}
