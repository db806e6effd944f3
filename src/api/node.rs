//! This node: its state, whether it lives, whether it can serve, and what it counts.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;

use crate::types::{Mode, NodeId};

use super::LogFacts;
use super::counters::Operation;
use super::failure::{Failure, Invalid};
use super::query;
use super::shared::{Shared, json, with_type};

/// The Prometheus text format that the encoder writes.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Serialize)]
struct NodeView<'a> {
    node: NodeId,
    mode: Mode,
    version: &'a str,
    engine: &'a str,
    incarnation: String,
    boot: u64,
    /// Milliseconds since 1970 on this node's wall clock.
    started_ms: u64,
    uptime_ms: u64,
    /// `failed` while a node whose storage or consensus failed stops, else `normal`.
    health: &'static str,
    ready: bool,
    not_ready_because: Option<String>,
    activity: &'static str,
    works_on: Vec<&'static str>,
    queues: Queues,
    log: Option<LogFacts>,
}

#[derive(Serialize)]
struct Queues {
    requests_in_flight: i64,
    max_requests_in_flight: usize,
}

/// `GET /v1/node`.
pub async fn node(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Node);
    let result = query::none(request.uri().query()).map(|()| json(&view(&shared)));
    shared.finish(&call, result.map_err(Into::into))
}

fn view(shared: &Shared) -> NodeView<'_> {
    let api = &shared.api;
    let failure = api.facts.failure.as_ref().and_then(|failure| failure());
    let health = if failure.is_some() { "failed" } else { "normal" };
    let not_ready_because = failure.or_else(|| api.replicator.ready().err());
    let in_flight = api.metrics.requests_in_flight.get();
    let (activity, works_on) = match in_flight {
        ..=0 => ("idle", Vec::new()),
        1.. => ("processing", vec!["requests"]),
    };
    NodeView {
        node: api.settings.node_id,
        mode: api.settings.mode,
        version: env!("CARGO_PKG_VERSION"),
        engine: api.settings.engine.as_str(),
        incarnation: api.facts.incarnation.to_string(),
        boot: api.facts.boot,
        started_ms: api.facts.started_ms,
        uptime_ms: api.runtime.wall_ms().saturating_sub(api.facts.started_ms),
        health,
        ready: not_ready_because.is_none(),
        not_ready_because,
        activity,
        works_on,
        queues: Queues {
            requests_in_flight: in_flight,
            max_requests_in_flight: api.settings.limits.max_requests_in_flight,
        },
        log: api.facts.log.as_ref().map(|log| log()),
    }
}

/// `GET /healthz`: whoever answers lives.
pub async fn health(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Health);
    let result = query::none(request.uri().query());
    shared.finish(&call, result.map(|()| ok()).map_err(Into::into))
}

/// `GET /readyz`: whether the mode's default level can be served now.
pub async fn ready(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Ready);
    let ready = |()| match shared.api.replicator.ready() {
        Ok(()) => Ok(ok()),
        Err(reason) => Err(Invalid::NotReady { reason }),
    };
    let result = query::none(request.uri().query()).and_then(ready);
    shared.finish(&call, result.map_err(Into::into))
}

fn ok() -> Response {
    with_type(Bytes::from_static(b"ok\n"), "text/plain; charset=utf-8")
}

/// `GET /metrics`.
pub async fn metrics(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Metrics);
    let encoded = |()| with_type(shared.api.metrics.encode().into(), METRICS_TYPE);
    let result = query::none(request.uri().query()).map(encoded);
    shared.finish(&call, result.map_err(Into::into))
}

/// What section 6 of the design names and is not there yet.
pub async fn transaction(State(shared): State<Arc<Shared>>) -> Response {
    later(&shared, Operation::Transaction, "a transaction")
}

/// `GET /v1/watch`.
pub async fn watch(State(shared): State<Arc<Shared>>) -> Response {
    later(&shared, Operation::Watch, "watching keys")
}

fn later(shared: &Shared, operation: Operation, what: &str) -> Response {
    let call = shared.begin(operation);
    let mode = shared.api.settings.mode;
    let what = format!("{what} is not implemented in {mode} mode");
    shared.finish(&call, Err(Failure::Request(Invalid::NotImplemented { what })))
}
