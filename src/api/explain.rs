//! Explaining a key: `GET /v1/explain/{key}`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::Uri;
use serde::Serialize;

use crate::replication::explain::{Explanation, NextRead, ReplicaView};
use crate::types::{NodeId, Version};

use super::counters::Operation;
use super::failure::Failure;
use super::query::Parameters;
use super::shared::{Call, Shared, json};

/// Where keys are explained.
const PREFIX: &str = "/v1/explain/";

#[derive(Serialize)]
struct View<'a> {
    key: &'a str,
    partition: u8,
    replicas: Vec<Replica<'a>>,
    reads: Vec<Read<'a>>,
}

#[derive(Serialize)]
struct Replica<'a> {
    node: NodeId,
    etag: Option<String>,
    /// Whether a read of this replica finds nothing, for a delete or because it has expired.
    tombstone: Option<bool>,
    size: Option<u64>,
    expires_at_ms: Option<u64>,
    behind: Option<bool>,
    lag_ms: Option<u64>,
    lag_entries: Option<u64>,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Read<'a> {
    consistency: &'a str,
    may_return: Vec<Option<String>>,
    error: Option<&'a str>,
}

/// Answers a request to explain a key.
pub async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Explain);
    let (parts, _) = request.into_parts();
    let result = match shared.admit(1) {
        Ok(_admitted) => explain(&shared, &call, &parts.uri).await,
        Err(refused) => Err(refused.into()),
    };
    shared.finish(&call, result)
}

async fn explain(shared: &Shared, call: &Call, uri: &Uri) -> Result<Response, Failure> {
    let key = shared.key(uri.path().strip_prefix(PREFIX).unwrap_or_default())?;
    let longest = shared.api.settings.limits.request_timeout;
    let parameters = Parameters::parse_explain(uri.query(), longest)?;
    let options = shared.options(call, &parameters);
    let explanation = shared.api.replicator.explain(key.clone(), options).await?;
    Ok(json(&View {
        key: key.as_str(),
        partition: explanation.partition.0,
        replicas: explanation.replicas.iter().map(|view| replica(&explanation, view)).collect(),
        reads: explanation.reads.iter().map(read).collect(),
    }))
}

fn replica<'a>(explanation: &Explanation, view: &'a ReplicaView) -> Replica<'a> {
    let head = view.holding.as_ref().ok().and_then(|holding| holding.head.as_ref());
    Replica {
        node: view.node,
        etag: head.map(|head| head.version.etag()),
        tombstone: head.map(|head| head.is_gone(explanation.now_ms)),
        size: head.map(|head| head.size),
        expires_at_ms: head.and_then(|head| head.expires_at_ms),
        behind: explanation.is_behind(view),
        lag_ms: explanation.lag_ms(view),
        lag_entries: explanation.lag_entries(view),
        error: view.holding.as_ref().err().map(String::as_str),
    }
}

fn read(read: &NextRead) -> Read<'_> {
    Read {
        consistency: &read.level,
        may_return: read.may_return.iter().map(|version| version.map(Version::etag)).collect(),
        error: read.error.as_deref(),
    }
}
