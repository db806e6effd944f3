//! Which nodes hold which partitions: `GET /v1/cluster/layout`; what a change would move:
//! `POST /v1/cluster/layout/plan`; and changing it: `POST /v1/cluster/layout` and
//! `POST /v1/cluster/layout/cancel`.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::error::ReadError;
use crate::replication::RequestOptions;
use crate::replication::layout::{
    LayoutChange, LayoutPlan, LayoutStatus, NodeProgress, SpreadView,
};
use crate::types::{Epoch, NodeId, Share};

use super::body;
use super::counters::Operation;
use super::failure::{BodyError, Failure, Invalid};
use super::query::{self, Parameters};
use super::shared::{Call, Shared, json};

/// The longest body, in bytes: it names some nodes.
const MAX_BODY_BYTES: usize = 16 << 10;

#[derive(Serialize)]
struct View {
    epoch: Epoch,
    #[serde(flatten)]
    current: Spread,
    /// `null` where the layout stands.
    change: Option<Change>,
    /// Who still brings others what it alone may have of partitions that it held before.
    departing: Vec<NodeId>,
}

#[derive(Serialize)]
struct Spread {
    replicas: u16,
    nodes: Vec<Node>,
    partitions: Vec<Vec<NodeId>>,
}

#[derive(Serialize)]
struct Change {
    /// `copying`, and then `checking`.
    step: &'static str,
    #[serde(flatten)]
    to: Spread,
    progress: Vec<Progress>,
}

#[derive(Serialize)]
struct Progress {
    id: NodeId,
    partitions: u64,
    proven: u64,
    records: u64,
    bytes: u64,
    done: bool,
    waits_for: Option<String>,
}

#[derive(Serialize)]
struct Node {
    id: NodeId,
    weight: u32,
    zone: Option<String>,
    holds: usize,
}

#[derive(Serialize)]
struct PlanView {
    replicas: u16,
    /// Replicas of partitions that would be sent to another node.
    moves: usize,
    nodes: Vec<PlannedNode>,
    partitions: Vec<Vec<NodeId>>,
}

#[derive(Serialize)]
struct PlannedNode {
    id: NodeId,
    holds: usize,
    will_hold: usize,
    receives: usize,
}

/// The body of a request for a plan.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    nodes: Vec<WantedNode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedNode {
    /// No node has the id 0.
    id: NonZeroU16,
    weight: Option<NonZeroU32>,
    zone: Option<String>,
}

/// `GET /v1/cluster/layout`.
pub async fn show(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Layout);
    let checked = query::none(request.uri().query());
    let result = async {
        checked?;
        let status = shared.api.replicator.layout().await.map_err(ReadError::from)?;
        Ok(json(&view(status)))
    };
    let result = result.await;
    shared.finish(&call, result)
}

/// `POST /v1/cluster/layout/plan`.
pub async fn plan(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Layout);
    let result = async {
        let (wanted, _) = read(&shared, &call, request).await?;
        let plan = shared.api.replicator.plan_layout(wanted).await.map_err(ReadError::from)?;
        Ok(json(&plan_view(plan)))
    };
    let result = result.await;
    shared.finish(&call, result)
}

/// `POST /v1/cluster/layout`.
pub async fn apply(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::ChangeLayout);
    let result = async {
        let (wanted, options) = read(&shared, &call, request).await?;
        let status = shared.api.replicator.apply_layout(wanted, options).await?;
        Ok(json(&view(status)))
    };
    let result = result.await;
    shared.finish(&call, result)
}

/// `POST /v1/cluster/layout/cancel`.
pub async fn cancel(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::ChangeLayout);
    let result = async {
        let (body, options) = read_body(&shared, &call, request).await?;
        body::none(&body).map_err(Invalid::Body)?;
        let status = shared.api.replicator.cancel_layout(options).await?;
        Ok(json(&view(status)))
    };
    let result = result.await;
    shared.finish(&call, result)
}

async fn read(
    shared: &Shared,
    call: &Call,
    request: Request,
) -> Result<(BTreeMap<NodeId, Share>, RequestOptions), Failure> {
    let (body, options) = read_body(shared, call, request).await?;
    Ok((wanted(&body).map_err(Invalid::Body)?, options))
}

async fn read_body(
    shared: &Shared,
    call: &Call,
    request: Request,
) -> Result<(bytes::Bytes, RequestOptions), Failure> {
    query::none(request.uri().query())?;
    let options = shared.options(call, &Parameters::default());
    let what = "the nodes of a layout";
    let runtime = &shared.api.runtime;
    let body = body::read(runtime, request.into_body(), what, MAX_BODY_BYTES, options.deadline);
    Ok((body.await.map_err(Invalid::Body)?, options))
}

fn wanted(body: &[u8]) -> Result<BTreeMap<NodeId, Share>, BodyError> {
    let example = "expected {\"nodes\": [{\"id\": 4, \"weight\": 1, \"zone\": \"a\"}, …]}";
    let malformed = |problem: String| BodyError::Malformed { problem };
    let wanted: Wanted =
        serde_json::from_slice(body).map_err(|error| malformed(format!("{error}: {example}")))?;
    let mut nodes = BTreeMap::new();
    for WantedNode { id, weight, zone } in wanted.nodes {
        let share = Share { weight: weight.map_or(1, NonZeroU32::get), zone };
        if nodes.insert(NodeId(id.get()), share).is_some() {
            return Err(malformed(format!("node {id} is named twice: {example}")));
        }
    }
    Ok(nodes)
}

fn view(status: LayoutStatus) -> View {
    let LayoutStatus { epoch, current, change, departing } = status;
    View { epoch, current: spread(current), change: change.map(change_view), departing }
}

fn spread(spread: SpreadView) -> Spread {
    let node = |(id, share, holds): (NodeId, Share, usize)| Node {
        id,
        weight: share.weight,
        zone: share.zone,
        holds,
    };
    let SpreadView { replicas, nodes, partitions } = spread;
    Spread { replicas, nodes: nodes.into_iter().map(node).collect(), partitions }
}

fn change_view(change: LayoutChange) -> Change {
    let progress = |node: NodeProgress| Progress {
        id: node.node,
        partitions: node.partitions,
        proven: node.proven,
        records: node.records,
        bytes: node.bytes,
        done: node.done,
        waits_for: node.waits_for,
    };
    let LayoutChange { step, to, nodes } = change;
    let progress = nodes.into_iter().map(progress).collect();
    Change { step: step.as_str(), to: spread(to), progress }
}

fn plan_view(plan: LayoutPlan) -> PlanView {
    let moves = plan.moves();
    let node = |node: crate::replication::layout::PlannedNode| PlannedNode {
        id: node.node,
        holds: node.holds,
        will_hold: node.will_hold,
        receives: node.receives,
    };
    let LayoutPlan { replicas, nodes, partitions } = plan;
    PlanView { replicas, moves, nodes: nodes.into_iter().map(node).collect(), partitions }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_nodes_once_with_weights_and_zones() {
        let read = |body: &str| wanted(body.as_bytes());
        let nodes = read(r#"{"nodes":[{"id":4,"weight":3,"zone":"a"},{"id":5}]}"#).expect("nodes");
        assert_eq!(nodes[&NodeId(4)], Share { weight: 3, zone: Some("a".to_owned()) });
        assert_eq!(nodes[&NodeId(5)], Share { weight: 1, zone: None });
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"nodes":[{"id":0}]}"#,
            r#"{"nodes":[{"id":1,"weight":0}]}"#,
            r#"{"nodes":[{"id":1,"wieght":2}]}"#,
            r#"{"nodes":[{"id":1},{"id":1}]}"#,
        ] {
            assert!(matches!(read(bad), Err(BodyError::Malformed { .. })), "{bad}");
        }
    }
}
