//! One request of a simulated client: sent to a node's API, and its answer read into an operation.
//! Batches, which are several, are read in `batches`.
//!
//! What an answer means is decided here, once: 503 and the like mean that nothing happened, 504 and
//! silence that a write may have. An answer that contradicts itself (a 503 whose document says
//! `unknown`) is a broken promise, as is nonsense that is accepted.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde::Deserialize;

use super::world::Shared;
use crate::history::{Action, Ended, Item, Op, Served, Value};
use crate::types::{Key, NodeId, Version};

/// The longest key that an answer may show.
const MAX_KEY_BYTES: usize = 4 << 10;

/// What came back.
pub(super) enum Answer {
    /// The node is down: the request never reached it.
    Refused,
    /// No answer came: the node died with the request, hangs, or the client left.
    Lost,
    Got {
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
    },
}

/// How long a client waits, and whether it breaks the connection when it leaves.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub wait: Duration,
    /// Whether leaving ends the request at the node, as a closed connection does.
    pub hangs_up: bool,
}

/// Sends a request to a node.
pub(super) async fn send(
    shared: &Shared,
    node: NodeId,
    request: Request<Body>,
    patience: Patience,
) -> Answer {
    let Some((service, runtime)) = shared.routers.lock().get(&node).cloned() else {
        return Answer::Refused;
    };
    let deadline = shared.runtime.now() + patience.wait;
    // A task of the node's, so that the request dies with the node.
    let mut served = runtime.spawn(async move {
        let response = service.answer(request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some((parts.status, parts.headers, body))
    });
    match shared.runtime.deadline(deadline, &mut served).await {
        Some(Ok(Some((status, headers, body)))) => Answer::Got { status, headers, body },
        Some(_) => Answer::Lost,
        None => {
            if patience.hangs_up {
                served.abort();
            }
            Answer::Lost
        }
    }
}

/// Which page a list asks for: where it goes on, and how many keys it shows at most.
#[derive(Default)]
pub(super) struct Page {
    pub limit: usize,
    pub cursor: Option<String>,
}

/// The request that `op` describes. `body` is a put's value, `timeout` the node's time for it.
pub(super) fn request_of(
    op: &Op,
    body: Vec<u8>,
    w: Option<u16>,
    timeout: Duration,
    page: &Page,
) -> Result<Request<Body>, String> {
    let mut query = format!("timeout={}ms&consistency={}", timeout.as_millis(), op.level);
    for (name, replicas) in [("r", op.r), ("w", w)] {
        if let Some(replicas) = replicas {
            query.push_str(&format!("&{name}={replicas}"));
        }
    }
    if let Some(bound_ms) = op.max_staleness_ms {
        query.push_str(&format!("&max_staleness={bound_ms}ms"));
    }
    let key = op.key.as_str();
    let (method, target) = match op.action {
        Action::Put => (Method::PUT, format!("/v1/kv/{key}?{query}")),
        Action::Delete => (Method::DELETE, format!("/v1/kv/{key}?{query}")),
        Action::Get => (Method::GET, format!("/v1/kv/{key}?{query}")),
        Action::List => {
            if let Some(cursor) = &page.cursor {
                query.push_str(&format!("&cursor={cursor}"));
            }
            let limit = page.limit;
            (Method::GET, format!("/v1/kv?prefix={key}&limit={limit}&values=true&{query}"))
        }
    };
    let mut request = Request::builder().method(method).uri(target);
    if let Some(version) = op.if_match {
        request = request.header(header::IF_MATCH, version.etag());
    }
    if op.if_absent {
        request = request.header(header::IF_NONE_MATCH, "*");
    }
    request.body(Body::from(body)).map_err(|error| error.to_string())
}

/// Reads an answer into `op`, and gives the cursor of a list's next page; says what is wrong where
/// the answer contradicts itself.
pub(super) fn read_answer(op: &mut Op, answer: &Answer) -> Result<Option<String>, String> {
    let (status, headers, body) = match answer {
        Answer::Refused => {
            op.ended = Ended::Failed;
            return Ok(None);
        }
        // As it was begun: unknown for a write, nothing for a read.
        Answer::Lost => return Ok(None),
        Answer::Got { status, headers, body } => (*status, headers, body),
    };
    op.status = status.as_u16();
    let Headers { served, etag } = headers_of(headers);
    op.served = served;
    let answered =
        status.is_success() || (status == StatusCode::NOT_FOUND && !op.action.is_write());
    if answered && op.served.is_none() {
        return Err(format!("a {status} that does not say at which level it was served"));
    }
    if op.action.is_write() {
        return read_write(op, status, headers, etag, body).map(|()| None);
    }
    op.ended = Ended::Failed;
    match (op.action, status) {
        (Action::Get, StatusCode::OK) => {
            op.version = Some(etag.ok_or("a 200 without an ETag")?);
            op.value = Some(Value::of(body, &mut Vec::new()));
            op.ended = Ended::Ok;
        }
        (Action::Get, StatusCode::NOT_FOUND) => op.ended = Ended::Ok,
        (Action::List, StatusCode::OK) => {
            let page: Listed = serde_json::from_slice(body)
                .map_err(|error| format!("a list that is no JSON page: {error}"))?;
            op.more = page.next_cursor.is_some();
            op.items = Some(page.items.into_iter().map(PageItem::read).collect::<Result<_, _>>()?);
            op.ended = Ended::Ok;
            return Ok(page.next_cursor);
        }
        _ => refused(status, body)?,
    }
    Ok(None)
}

/// What every answer may say in its headers.
pub(super) struct Headers {
    pub served: Option<Served>,
    etag: Option<Version>,
}

/// Reads them.
pub(super) fn headers_of(headers: &HeaderMap) -> Headers {
    let level = text(headers, "quorate-consistency");
    let served = level.and_then(|text| text.parse::<Served>().ok());
    Headers { served, etag: version_in(headers, "etag") }
}

fn read_write(
    op: &mut Op,
    status: StatusCode,
    headers: &HeaderMap,
    etag: Option<Version>,
    body: &[u8],
) -> Result<(), String> {
    match status {
        StatusCode::NO_CONTENT => {
            op.version = Some(etag.ok_or("a 204 without an ETag")?);
            op.superseded = version_in(headers, "quorate-superseded");
            op.ended = Ended::Ok;
            return Ok(());
        }
        StatusCode::PRECONDITION_FAILED => {
            op.version = etag;
            op.ended = Ended::Failed;
        }
        StatusCode::GATEWAY_TIMEOUT => op.ended = Ended::Unknown,
        _ => op.ended = Ended::Failed,
    }
    refused(status, body)?;
    let problem: Problem = serde_json::from_slice(body)
        .map_err(|error| format!("a {status} without a problem document: {error}"))?;
    outcome_agrees(op, status, problem.outcome.as_deref())
}

/// Whether `answer` refuses the write `op`, which came under the key of another request; false where
/// it says nothing of the key. Says what is wrong where the write was taken.
pub(super) fn judge_reuse(mut op: Op, answer: &Answer) -> Result<bool, String> {
    if let Answer::Got { status: StatusCode::UNPROCESSABLE_ENTITY, body, .. } = answer {
        let problem: Problem = serde_json::from_slice(body)
            .map_err(|error| format!("a 422 without a problem document: {error}"))?;
        op.ended = Ended::Failed;
        outcome_agrees(&op, StatusCode::UNPROCESSABLE_ENTITY, problem.outcome.as_deref())?;
        return match problem.code.as_deref() {
            Some("idempotency-key-reused") => Ok(true),
            code => Err(format!("a 422 with code {code:?}, not idempotency-key-reused")),
        };
    }
    read_answer(&mut op, answer)?;
    // A condition that failed would have been looked at: that is taking the write, too.
    match (op.ended, op.status) {
        (Ended::Ok, status) | (_, status @ 412) => {
            Err(format!("another request under it was answered {status}, not 422"))
        }
        _ => Ok(false),
    }
}

/// Whether what a refused write says of its outcome is what its status says.
fn outcome_agrees(op: &Op, status: StatusCode, outcome: Option<&str>) -> Result<(), String> {
    let expected = if op.ended == Ended::Unknown { "unknown" } else { "not_applied" };
    match outcome {
        Some(outcome) if outcome == expected => Ok(()),
        other => Err(format!("a write's {status} with outcome {other:?}, not {expected}")),
    }
}

/// Whether an operation of a batch, all in order, may be refused so.
pub(super) fn judge_refusal(
    op: &Op,
    status: StatusCode,
    outcome: Option<&str>,
) -> Result<(), String> {
    refused(status, b"one operation of a batch")?;
    if op.action.is_write() { outcome_agrees(op, status, outcome) } else { Ok(()) }
}

/// Whether a request that is in order may be answered so.
fn refused(status: StatusCode, body: &[u8]) -> Result<(), String> {
    let allowed = matches!(status.as_u16(), 412 | 421 | 429 | 503 | 504);
    if allowed {
        return Ok(());
    }
    let body = String::from_utf8_lossy(&body[..body.len().min(300)]);
    Err(format!("a request that is in order was answered {status}: {body}"))
}

#[derive(Deserialize)]
struct Problem {
    code: Option<String>,
    outcome: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    items: Vec<PageItem>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct PageItem {
    key: String,
    etag: String,
    value: Option<String>,
}

impl PageItem {
    fn read(self) -> Result<Item, String> {
        let key = Key::new(&self.key, MAX_KEY_BYTES).map_err(|error| error.to_string())?;
        let version = self.etag.trim_matches('"').parse();
        let version = version.map_err(|_| format!("a list's ETag {} is no version", self.etag))?;
        // Clients write text alone: a value that is none shows as one that nobody wrote.
        let bytes = self.value.unwrap_or_default();
        let value = Some(Value::of(bytes.as_bytes(), &mut Vec::new()));
        Ok(Item { key, version, value })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn version_in(headers: &HeaderMap, name: &str) -> Option<Version> {
    text(headers, name)?.trim_matches('"').parse().ok()
}

/// Requests that make no sense, none of which may be accepted.
const NONSENSE: [(&str, &str, &str); 8] = [
    ("GET", "/v1/kv/k?consistency=very", ""),
    ("PUT", "/v1/kv/k?consistency=local", "x"),
    ("PUT", "/v1/kv/%ff", "x"),
    ("PUT", "/v1/kv/", "x"),
    ("GET", "/v1/kv?limit=-1", ""),
    ("POST", "/v1/batch", "{\"operations\":[{\"op\":\"put\"}"),
    ("POST", "/v1/batch", "\u{0}\u{1}"),
    ("DELETE", "/v1/kv/k?w=0", ""),
];

/// Nonsense is refused within this time, which is longer than any node is paused.
const NONSENSE_ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// Sends nonsense to a node; says what is wrong where it is not refused as the client's mistake.
pub(super) async fn send_nonsense(shared: &Shared, node: NodeId) -> Result<(), String> {
    let choice = shared.runtime.random_below(NONSENSE.len() as u64) as usize;
    let (method, target, body) = NONSENSE[choice];
    let request = Request::builder().method(method).uri(target).body(Body::from(body));
    let request = request.map_err(|error| error.to_string())?;
    let patience = Patience { wait: NONSENSE_ANSWERED_WITHIN, hangs_up: true };
    let by = shared.runtime.now() + patience.wait;
    match send(shared, node, request, patience).await {
        // A node that ended took its answers with it; one that lives answers.
        Answer::Lost if shared.runtime.now() >= by => {
            Err(format!("{method} {target} makes no sense and was not answered at all"))
        }

        Answer::Got { status, .. }
            if !status.is_client_error() && status != StatusCode::SERVICE_UNAVAILABLE =>
        {
            Err(format!("{method} {target} makes no sense and was answered {status}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Level, Mode};

    fn judged(status: u16, problem: &str) -> Result<bool, String> {
        let key = Key::new("k", MAX_KEY_BYTES).expect("a key");
        let level = Level::default_for(Mode::Leader);
        let op = Op::begun(1, Action::Put, key, 1, level, 0);
        let mut headers = HeaderMap::new();
        if status == 204 {
            headers.insert("quorate-consistency", "linearizable".parse().expect("a header"));
            let etag = Version::new(7, NodeId(1)).etag();
            headers.insert(header::ETAG, etag.parse().expect("a header"));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        let body = Bytes::from(problem.to_owned());
        judge_reuse(op, &Answer::Got { status, headers, body })
    }

    #[test]
    fn a_key_of_another_request_is_refused_with_422_or_not_looked_at_and_never_taken() {
        let reused = "idempotency-key-reused";
        let problem =
            |code: &str, outcome: &str| format!(r#"{{"code":"{code}","outcome":"{outcome}"}}"#);
        assert_eq!(judged(422, &problem(reused, "not_applied")), Ok(true));
        assert_eq!(judged(503, &problem("no-leader", "not_applied")), Ok(false));
        assert_eq!(judged(504, &problem("timeout", "unknown")), Ok(false));
        for (status, code, outcome, wrong) in [
            (204, "", "", "answered 204"),
            (412, "precondition-failed", "not_applied", "answered 412"),
            (422, reused, "unknown", "422"),
            (422, "another", "not_applied", "another"),
            (500, "internal", "unknown", "500"),
        ] {
            let refused = judged(status, &problem(code, outcome)).expect_err("it was taken");
            assert!(refused.contains(wrong), "{status}: {refused}");
        }
    }
}
