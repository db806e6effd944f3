//! Changing who is of the cluster: `POST /v1/cluster/members` and what is below it.

use std::num::NonZeroU16;
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::check_address;
use crate::replication::RequestOptions;
use crate::types::{MemberChange, NodeId};

use super::body;
use super::cluster::MembersView;
use super::counters::Operation;
use super::failure::{BodyError, Failure, Invalid};
use super::query::{self, Parameters};
use super::shared::{Call, Shared, json};

/// The longest body, in bytes: it names a node and an address.
const MAX_BODY_BYTES: usize = 1 << 10;

/// A node that is to become a learner.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Newcomer {
    /// No node has the id 0.
    id: NonZeroU16,
    /// Where the other nodes reach it.
    peer: String,
}

/// Who takes the place of another.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Successor {
    with: NonZeroU16,
}

/// `POST /v1/cluster/members`.
pub async fn add(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Members);
    let result = async {
        let (options, body) = read(&shared, &call, request).await?;
        let change = newcomer(&body).map_err(Invalid::Body)?;
        change_members(&shared, change, options).await
    };
    let result = result.await;
    shared.finish(&call, result)
}

/// `POST /v1/cluster/members/{id}/promote`.
pub async fn promote(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    change_one(&shared, &id, request, |node| MemberChange::Promote { node }).await
}

/// `DELETE /v1/cluster/members/{id}`.
pub async fn remove(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    change_one(&shared, &id, request, |node| MemberChange::Remove { node }).await
}

/// `POST /v1/cluster/members/{id}/replace`.
pub async fn replace(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let call = shared.begin(Operation::Members);
    let result = async {
        let node = node_id(&id)?;
        let (options, body) = read(&shared, &call, request).await?;
        let with = successor(&body).map_err(Invalid::Body)?;
        change_members(&shared, MemberChange::Replace { node, with }, options).await
    };
    let result = result.await;
    shared.finish(&call, result)
}

/// A change that says all in its path.
async fn change_one(
    shared: &Shared,
    id: &str,
    request: Request,
    change: impl FnOnce(NodeId) -> MemberChange,
) -> Response {
    let call = shared.begin(Operation::Members);
    let result = async {
        let node = node_id(id)?;
        let (options, body) = read(shared, &call, request).await?;
        body::none(&body).map_err(Invalid::Body)?;
        change_members(shared, change(node), options).await
    };
    let result = result.await;
    shared.finish(&call, result)
}

async fn read(
    shared: &Shared,
    call: &Call,
    request: Request,
) -> Result<(RequestOptions, Bytes), Failure> {
    let longest = shared.api.settings.limits.request_timeout;
    let parameters = Parameters::parse_passed_on(request.uri().query(), longest)?;
    let options = shared.options(call, &parameters);
    let (what, runtime) = ("the change of the members", &shared.api.runtime);
    let body = body::read(runtime, request.into_body(), what, MAX_BODY_BYTES, options.deadline);
    Ok((options, body.await.map_err(Invalid::Body)?))
}

async fn change_members(
    shared: &Shared,
    change: MemberChange,
    options: RequestOptions,
) -> Result<Response, Failure> {
    shared.api.replicator.change_members(change, options).await?;
    Ok(json(&MembersView::from(shared.api.replicator.status())))
}

fn node_id(text: &str) -> Result<NodeId, Invalid> {
    text.parse::<NodeId>().map_err(|_| {
        let what = "a node's id, a whole number from 1 to 65535";
        query::bad("id", query::expected(text, what))
    })
}

fn newcomer(body: &[u8]) -> Result<MemberChange, BodyError> {
    let shape = "{\"id\": 4, \"peer\": \"host:port\"} with the new node's id and peer address";
    let Newcomer { id, peer } = parse(body, shape)?;
    let address = check_address(&peer).map_err(|problem| BodyError::Malformed {
        problem: format!("peer: '{}' is not valid: {problem}", query::shortened(&peer)),
    })?;
    Ok(MemberChange::Add { node: NodeId(id.get()), address })
}

fn successor(body: &[u8]) -> Result<NodeId, BodyError> {
    let Successor { with } = parse(body, "{\"with\": 5} with the id of the learner")?;
    Ok(NodeId(with.get()))
}

fn parse<T: DeserializeOwned>(body: &[u8], shape: &str) -> Result<T, BodyError> {
    serde_json::from_slice(body)
        .map_err(|error| BodyError::Malformed { problem: format!("{error}: expected {shape}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_who_comes_and_what_else_it_says_is_refused() {
        let change = MemberChange::Add { node: NodeId(4), address: "b:8004".to_owned() };
        assert_eq!(newcomer(b"{\"id\": 4, \"peer\": \"b:8004\"}"), Ok(change));
        for bad in [
            "",
            "{}",
            "{\"id\": 0, \"peer\": \"b:8004\"}",
            "{\"id\": 4}",
            "{\"id\": 4, \"peer\": \"b\"}",
            "{\"id\": 4, \"peer\": \"b:99999\"}",
            "{\"id\": 4, \"peer\": \"b:8004\", \"role\": \"voter\"}",
        ] {
            let refused = newcomer(bad.as_bytes());
            assert!(matches!(refused, Err(BodyError::Malformed { .. })), "{bad}: {refused:?}");
        }
        assert_eq!(successor(b"{\"with\": 5}"), Ok(NodeId(5)));
        for bad in ["", "{}", "{\"with\": 0}", "5", "{\"with\": 5, \"now\": true}"] {
            assert!(successor(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(node_id("4").is_ok() && node_id("0").is_err() && node_id("four").is_err());
    }
}
