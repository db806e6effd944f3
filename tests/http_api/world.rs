//! A node's API over a fake replicator, and short ways to ask it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use quorate::api::{Api, LogFacts, NodeFacts, Service, service};
use quorate::config::{Limits, Settings};
use quorate::runtime::Runtime;
use quorate::telemetry::Metrics;
use quorate::types::{Incarnation, Mode, NodeId};
use tower::ServiceExt;

use crate::fake::Fake;

pub struct World {
    pub fake: Arc<Fake>,
    pub service: Service,
    pub metrics: Metrics,
    /// Why the node stops, where it does.
    pub failure: Arc<Mutex<Option<String>>>,
    pub asked: AtomicUsize,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a readable header"))
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is a problem in proper form, and gives its status and code.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status.as_u16());
        let code = json["code"].as_str().expect("a code").to_owned();
        assert_eq!(json["type"], format!("urn:quorate:problem:{code}"));
        for text in ["title", "detail"] {
            assert!(!json[text].as_str().expect("a text").is_empty(), "{json}");
        }
        (self.status.as_u16(), code)
    }
}

/// Runs a test in a simulated world on a paused clock.
pub fn in_a_world<F: Future<Output = ()>>(mode: Mode, test: impl FnOnce(World) -> F) {
    in_a_limited_world(mode, |_| {}, test);
}

/// The same, with other limits.
pub fn in_a_limited_world<F: Future<Output = ()>>(
    mode: Mode,
    limit: impl FnOnce(&mut Limits),
    test: impl FnOnce(World) -> F,
) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(async { test(world(Runtime::simulated(1, 5_000), mode, limit)).await });
}

/// A node's API on a runtime.
pub fn world(runtime: Runtime, mode: Mode, limit: impl FnOnce(&mut Limits)) -> World {
    let peers = (1..=3).map(|id| (NodeId(id), format!("127.0.0.1:800{id}")));
    let mut settings = Settings::defaults(NodeId(2), mode, peers.collect::<BTreeMap<_, _>>());
    limit(&mut settings.limits);
    let (fake, metrics) = (Arc::new(Fake::new(mode)), Metrics::new());
    let failure: Arc<Mutex<Option<String>>> = Arc::default();
    let told = failure.clone();
    let log = || LogFacts { first_position: 7, next_position: 9 };
    let service = service(Api {
        replicator: fake.clone(),
        runtime,
        metrics: metrics.clone(),
        settings: Arc::new(settings),
        facts: NodeFacts {
            incarnation: Incarnation(0x1f),
            boot: 4,
            started_ms: 4_000,
            log: Some(Box::new(log)),
            failure: Some(Box::new(move || told.lock().unwrap().clone())),
        },
    });
    World { fake, service, metrics, failure, asked: AtomicUsize::new(0) }
}

impl World {
    pub async fn send(&self, request: Request<Body>) -> Answer {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let Ok(response) = self.service.clone().oneshot(request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Sends a request with headers and without a body.
    pub async fn ask(&self, method: &str, uri: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(build(method, uri, headers, Body::empty())).await
    }

    pub async fn get(&self, uri: &str) -> Answer {
        self.ask("GET", uri, &[]).await
    }

    pub async fn put(&self, uri: &str, body: impl Into<Body>) -> Answer {
        self.send(build("PUT", uri, &[], body.into())).await
    }

    /// Puts a value that must be taken, and gives its entity tag.
    pub async fn store(&self, key: &str, body: impl Into<Body>) -> String {
        let answer = self.put(&format!("/v1/kv/{key}"), body).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        answer.header("etag").expect("an entity tag").to_owned()
    }

    pub async fn post(&self, uri: &str, body: impl Into<Body>) -> Answer {
        self.send(build("POST", uri, &[], body.into())).await
    }
}

pub fn build(method: &str, uri: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let request = Request::builder().method(method).uri(uri);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(body).expect("a request")
}
