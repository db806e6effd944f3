//! The HTTP API.
//!
//! **Why it exists.** It turns HTTP into calls of a [`Replicator`] and its answers back into HTTP,
//! the same for both modes: values as raw bytes, versions as entity tags, failures as problems that
//! say whether a write happened. `docs/api.md` describes it for clients.
//!
//! **Guarantees.** Input that is not understood is refused by name and changes nothing. 503 is said
//! only where a write definitely did not happen, 504 where it may have. Bodies, requests at once
//! and connections are bounded by settings; nothing here panics on what a client sends.
//!
//! **Does not guarantee** an answer by the deadline by itself: that is the replicator's contract.
//! It retries nothing.
//!
//! [`service`] needs no socket: a simulated world calls it as a `tower::Service`; [`serve`] puts it
//! behind a listener. Keys are the hot path and skip the router; all else goes through axum's.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{delete, get, post};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Serialize;
use tower::ServiceExt;

use crate::config::Settings;
use crate::node::Node;
use crate::replication::Replicator;
use crate::runtime::Runtime;
use crate::telemetry::Metrics;
use crate::types::Incarnation;

mod batch;
mod batch_body;
mod body;
mod cluster;
mod conditions;
mod counters;
pub(crate) mod cursor;
mod explain;
mod failure;
pub(crate) mod headers;
mod kv;
mod layout;
mod leadership;
mod list;
mod members;
mod node;
mod problem;
mod query;
mod range;
mod repair;
mod server;
mod shared;
pub mod ttl;
mod value;

pub use server::serve;

use counters::Operation;
use failure::Invalid;
use shared::Shared;

/// What the API is put together from.
pub struct Api {
    pub replicator: Arc<dyn Replicator>,
    pub runtime: Runtime,
    pub metrics: Metrics,
    pub settings: Arc<Settings>,
    pub facts: NodeFacts,
}

impl Api {
    /// The API of a running node.
    pub fn of(node: &Node) -> Api {
        let (log, failing) = (node.log().clone(), node.watch_failure());
        let facts = move || LogFacts { first_position: log.start().0, next_position: log.end().0 };
        Api {
            replicator: node.replicator(),
            runtime: node.runtime().clone(),
            metrics: node.metrics().clone(),
            settings: Arc::new(node.settings().clone()),
            facts: NodeFacts {
                incarnation: node.identity().incarnation(),
                boot: node.identity().boot(),
                started_ms: node.runtime().wall_ms(),
                log: Some(Box::new(facts)),
                failure: Some(Box::new(move || failing.borrow().clone())),
            },
        }
    }
}

/// What `/v1/node` tells beside the settings.
pub struct NodeFacts {
    pub incarnation: Incarnation,
    /// How often the data directory was opened, this time included.
    pub boot: u64,
    /// When the node started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Reads where the commit log is, where the node has one to read.
    pub log: Option<Box<dyn Fn() -> LogFacts + Send + Sync>>,
    /// Why the node can go on no longer, once that is so and while it still answers.
    pub failure: Option<Box<dyn Fn() -> Option<String> + Send + Sync>>,
}

/// Where a node's commit log is, in bytes of log before that place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogFacts {
    /// Where the log begins: what was before is cut.
    pub first_position: u64,
    /// Where the next record will be.
    pub next_position: u64,
}

/// The API as a service; cheap to clone.
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
    others: Router,
}

/// Puts the API together.
pub fn service(api: Api) -> Service {
    let shared = Arc::new(Shared::new(api));
    Service { others: others(shared.clone()), shared }
}

impl Service {
    /// Answers one request.
    pub async fn answer<B>(&self, request: http::Request<B>) -> Response
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if request.uri().path().starts_with(kv::PREFIX) {
            return kv::answer(&self.shared, request).await;
        }
        match self.others.clone().oneshot(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl<B> tower::Service<http::Request<B>> for Service
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}

/// Every path but those of single keys.
fn others(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/kv", get(list::answer))
        .route("/v1/batch", post(batch::answer))
        .route("/v1/txn", post(node::transaction))
        .route("/v1/watch", get(node::watch))
        .route("/v1/explain/{*key}", get(explain::answer))
        .route("/v1/cluster", get(cluster::cluster))
        .route("/v1/cluster/members", get(cluster::members).post(members::add))
        .route("/v1/cluster/members/{id}", delete(members::remove))
        .route("/v1/cluster/members/{id}/promote", post(members::promote))
        .route("/v1/cluster/members/{id}/replace", post(members::replace))
        .route("/v1/cluster/leader", get(cluster::leader).post(leadership::transfer))
        .route("/v1/cluster/layout", get(layout::show).post(layout::apply))
        .route("/v1/cluster/layout/cancel", post(layout::cancel))
        .route("/v1/cluster/layout/plan", post(layout::plan))
        .route("/v1/cluster/repair", get(repair::status).post(repair::start))
        .route("/v1/cluster/mode", get(cluster::mode))
        .route("/v1/node", get(node::node))
        .route("/healthz", get(node::health))
        .route("/readyz", get(node::ready))
        .route("/metrics", get(node::metrics))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .with_state(shared)
}

async fn unknown_path(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Other);
    let path = query::shortened(request.uri().path());
    shared.finish(&call, Err(Invalid::UnknownPath { path }.into()))
}

async fn wrong_method(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let call = shared.begin(Operation::Other);
    let allowed = match request.uri().path() {
        "/v1/batch" | "/v1/txn" | "/v1/cluster/layout/plan" | "/v1/cluster/layout/cancel" => "POST",
        "/v1/cluster/leader"
        | "/v1/cluster/members"
        | "/v1/cluster/layout"
        | "/v1/cluster/repair" => "GET, HEAD, POST",
        path if path.starts_with("/v1/cluster/members/") => match path.matches('/').count() {
            4 => "DELETE",
            _ => "POST",
        },
        _ => "GET, HEAD",
    };
    let method = request.method().clone();
    shared.finish(&call, Err(Invalid::WrongMethod { method, allowed }.into()))
}
