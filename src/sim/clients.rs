//! Clients of a simulated world: they put and get through every node, and note what they were told.

use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;

use super::verdict::{ReadSeen, WriteSeen};
use super::world::Shared;
use crate::types::{NodeId, Outcome, Version};

/// How many keys the clients share: few, so that writes meet.
const KEYS: u64 = 6;

/// A client's longest pause between two requests, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 30;

/// How long a client waits for an answer. Longer than the request's own timeout, so that only a
/// node that crashed leaves it without one.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// What all clients of a world saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub writes: Vec<WriteSeen>,
    pub reads: Vec<ReadSeen>,
}

/// Every key that clients use.
pub(super) fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|number| format!("key/{number}"))
}

/// Runs one client for `time`.
pub(super) async fn run(
    client: u64,
    shared: Shared,
    seen: std::sync::Arc<Mutex<Seen>>,
    time: Duration,
) {
    let runtime = &shared.runtime;
    let end = runtime.now() + time;
    let mut count = 0;
    while runtime.now() < end {
        runtime.sleep(Duration::from_millis(1 + runtime.random_below(LONGEST_PAUSE_MS))).await;
        let node = NodeId(1 + runtime.random_below(3) as u16);
        let key = format!("key/{}", runtime.random_below(KEYS));
        if runtime.random_below(2) == 0 {
            let value = format!("client-{client}-{count}");
            count += 1;
            let write = write(&shared, node, &key, value).await;
            seen.lock().writes.push(write);
        } else if let Some(read) = read(&shared, node, &key, false).await {
            seen.lock().reads.push(read);
        }
    }
}

async fn write(shared: &Shared, node: NodeId, key: &str, value: String) -> WriteSeen {
    shared.say(format_args!("put {key} {value} at {node}"));
    let request = Request::put(format!("/v1/kv/{key}?timeout=1s")).body(Body::from(value.clone()));
    let (outcome, version, status) = match send(shared, node, request).await {
        Answer::Refused => (Outcome::NotApplied, None, 0),
        Answer::Lost => (Outcome::Unknown, None, 0),
        Answer::Got { status, version, .. } => {
            let outcome = match status {
                StatusCode::NO_CONTENT => Outcome::Done,
                StatusCode::GATEWAY_TIMEOUT => Outcome::Unknown,
                _ => Outcome::NotApplied,
            };
            (outcome, version.filter(|_| outcome == Outcome::Done), status.as_u16())
        }
    };
    let at = version.map_or("-".to_owned(), |version| version.to_string());
    shared.say(format_args!("put {key} {value} at {node}: {outcome} {status} {at}"));
    WriteSeen { key: key.to_owned(), value, outcome, version }
}

/// Reads a key through a node at the mode's default level; `None` where it was not served.
pub(super) async fn read(
    shared: &Shared,
    node: NodeId,
    key: &str,
    at_the_end: bool,
) -> Option<ReadSeen> {
    let request = Request::get(format!("/v1/kv/{key}?timeout=1s")).body(Body::empty());
    let answer = send(shared, node, request).await;
    let found = match answer {
        Answer::Got { status: StatusCode::OK, version: Some(version), body } => {
            Some((body, version))
        }
        Answer::Got { status: StatusCode::NOT_FOUND, .. } => None,
        Answer::Got { status, .. } => {
            shared.say(format_args!("get {key} at {node}: {status}"));
            return None;
        }
        Answer::Refused | Answer::Lost => {
            shared.say(format_args!("get {key} at {node}: no answer"));
            return None;
        }
    };
    match &found {
        Some((value, version)) => {
            shared.say(format_args!("get {key} at {node}: {value} {version}"));
        }
        None => shared.say(format_args!("get {key} at {node}: nothing")),
    }
    Some(ReadSeen { key: key.to_owned(), found, at_the_end, node: node.0 })
}

enum Answer {
    /// The node is down: the request never reached it.
    Refused,
    /// No answer came: the node died with the request, or hangs.
    Lost,
    Got {
        status: StatusCode,
        version: Option<Version>,
        body: String,
    },
}

async fn send(
    shared: &Shared,
    node: NodeId,
    request: Result<Request<Body>, http::Error>,
) -> Answer {
    let (Some((service, runtime)), Ok(request)) =
        (shared.routers.lock().get(&node).cloned(), request)
    else {
        return Answer::Refused;
    };
    let deadline = shared.runtime.now() + PATIENCE;
    // A task of the node's, so that the request dies with the node.
    let served = runtime.spawn(async move {
        let response = service.answer(request).await;
        let status = response.status();
        let version = response
            .headers()
            .get(header::ETAG)
            .and_then(|tag| tag.to_str().ok()?.trim_matches('"').parse().ok());
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, version, String::from_utf8_lossy(&body).into_owned()))
    });
    match shared.runtime.deadline(deadline, served).await {
        Some(Ok(Some((status, version, body)))) => Answer::Got { status, version, body },
        _ => Answer::Lost,
    }
}
