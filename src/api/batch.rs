//! Many independent operations in one request: `POST /v1/batch`.
//!
//! **Guarantees** a result for each operation, in order, as if each had been a request of its own.
//! **Does not guarantee** anything between them: they run at once, in no order, and some may
//! succeed where others fail. It saves round trips; it is not a transaction.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderValue;
use serde::Serialize;

use crate::config::Limits;
use crate::replication::{Cost, RequestOptions};
use crate::types::{Change, Content, EffectiveLevel, Key, Outcome, Record, Write};

use super::batch_body::{self, Op};
use super::body;
use super::counters::Operation;
use super::failure::{BodyError, Failure, Invalid, RuledOut};
use super::headers as h;
use super::kv;
use super::query::Parameters;
use super::shared::{Call, Shared, json, wants_trace};
use super::ttl;
use super::value::ValueText;

#[derive(Serialize)]
struct Results<'a> {
    results: &'a [OpResult],
}

/// What became of one operation.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum OpResult {
    Written {
        status: u16,
        etag: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        superseded: Option<String>,
    },
    Found {
        status: u16,
        etag: String,
        content_type: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at_ms: Option<u64>,
        #[serde(flatten, serialize_with = "value_text")]
        value: Bytes,
    },
    Failed {
        status: u16,
        code: &'static str,
        detail: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        outcome: Option<Outcome>,
    },
}

fn value_text<S: serde::Serializer>(value: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    ValueText::of(value).serialize(serializer)
}

/// One operation, checked.
enum Work {
    Read(Key),
    Write(Write),
    /// Refused before it began.
    Refused {
        invalid: Invalid,
        is_write: bool,
    },
}

/// Answers a batch request.
pub async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let mut call = shared.begin(Operation::Batch);
    let result = match shared.admit(1) {
        Ok(_admitted) => batch(&shared, &mut call, request).await,
        Err(refused) => Err(refused.into()),
    };
    shared.finish(&call, result)
}

async fn batch(shared: &Shared, call: &mut Call, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    if let Some(trace) = parts.headers.get(h::QUORATE_TRACE) {
        call.trace = wants_trace(trace)?;
    }
    if parts.headers.contains_key(h::QUORATE_TTL) {
        let problem = "a batch takes none: give each put a \"ttl\" of its own".to_owned();
        return Err(Invalid::Header { name: "Quorate-Ttl", problem }.into());
    }
    if parts.headers.contains_key(h::IDEMPOTENCY_KEY) {
        // The operations are independent: one key could not say which of them were applied.
        let problem = "a batch takes none, as its operations are independent: send each write \
                       that needs one as a request of its own";
        return Err(Invalid::Header { name: "Idempotency-Key", problem: problem.to_owned() }.into());
    }
    let limits = &shared.api.settings.limits;
    let parameters = Parameters::parse(parts.uri.query(), limits.request_timeout)?;
    drop(parts);
    let options = shared.options(call, &parameters);
    let runtime = &shared.api.runtime;
    let body = body::read(runtime, body, "a batch", limits.max_batch_bytes, options.deadline);
    let body = body.await.map_err(Invalid::Body)?;
    let works = read_body(&body, limits)?;
    drop(body);
    // Each operation counts as a request; one of them was let in above.
    let _admitted = shared.admit(works.len().saturating_sub(1))?;
    let done = join_all(works.into_iter().map(|work| run(shared, work, options.clone()))).await;
    let (results, served): (Vec<OpResult>, Vec<Served>) = done.into_iter().unzip();
    let mut response = json(&Results { results: &results });
    if let Some((level, cost)) = served_as_one(served.into_iter().flatten()) {
        shared.say_served(call, response.headers_mut(), level, cost);
    }
    Ok(response)
}

/// The level and cost of an operation that was served.
type Served = Option<(EffectiveLevel, Cost)>;

/// The level of a whole batch, where its operations agree on one; all their messages; and the
/// fewest replicas that any of their answers rests on.
fn served_as_one(served: impl Iterator<Item = (EffectiveLevel, Cost)>) -> Served {
    served.map(Some).reduce(|all, one| match (all, one) {
        (Some((level, all)), Some((same, one))) if level == same => {
            let messages = all.messages.saturating_add(one.messages);
            Some((level, Cost { messages, acks: all.acks.min(one.acks) }))
        }
        _ => None,
    })?
}

/// The operations of a body; nothing has been done yet where one of them makes no sense.
fn read_body(body: &[u8], limits: &Limits) -> Result<Vec<Work>, Invalid> {
    let malformed = |problem| Invalid::Body(BodyError::Malformed { problem });
    let operations = batch_body::read(body, limits.max_batch_operations).map_err(malformed)?;
    let checked = operations.into_iter().enumerate().map(|(index, op)| {
        check(op, limits).map_err(|problem| malformed(format!("operations[{index}]: {problem}")))
    });
    checked.collect()
}

/// Checks one operation. An error is a mistake in its shape, which condemns the whole request; a
/// key or value that cannot be is refused alone.
fn check(op: Op<'_>, limits: &Limits) -> Result<Work, String> {
    let is_put = op.op == "put";
    let is_write = is_put || op.op == "delete";
    if !is_write && op.op != "get" {
        return Err(format!("op '{}' is not known: expected put, get or delete", op.op));
    }
    let value = op.value_bytes()?;
    if is_put && value.is_none() {
        return Err("a put needs a value or a value_base64".to_owned());
    }
    if !is_put && (value.is_some() || op.content_type.is_some() || op.ttl.is_some()) {
        return Err(format!("a {} takes a key and nothing else", op.op));
    }
    let refused = |invalid| Ok(Work::Refused { invalid, is_write });
    let ttl_ms = match op.ttl.as_deref().map(ttl::parse).transpose() {
        Ok(ttl_ms) => ttl_ms,
        Err(problem) => return refused(Invalid::Header { name: "ttl", problem }),
    };
    let key = match Key::new(&op.key, limits.max_key_bytes) {
        Ok(key) => key,
        Err(error) => return refused(Invalid::Key(error)),
    };
    let change = match value {
        None if !is_write => return Ok(Work::Read(key)),
        None => Change::Delete,
        Some(value) if value.len() > limits.max_value_bytes => {
            let limit_bytes = limits.max_value_bytes;
            return refused(Invalid::Body(BodyError::TooLarge { what: "a value", limit_bytes }));
        }
        Some(value) => match op.content_type.map(checked_type).transpose() {
            Ok(content_type) => Change::put(value, content_type, ttl_ms),
            Err(invalid) => return refused(invalid),
        },
    };
    Ok(Work::Write(Write { key, change, condition: None, retry: None }))
}

fn checked_type(text: Cow<'_, str>) -> Result<String, Invalid> {
    let value = HeaderValue::from_str(&text).map_err(|_| Invalid::Header {
        name: "content_type",
        problem: "expected visible ASCII".to_owned(),
    })?;
    kv::content_type(&value)
}

async fn run(shared: &Shared, work: Work, options: RequestOptions) -> (OpResult, Served) {
    match work {
        Work::Refused { invalid, is_write } => (failed(&invalid.into(), is_write), None),
        Work::Read(key) => match shared.api.replicator.read(key, options).await {
            Err(error) => (failed(&error.into(), false), None),
            Ok(answer) => {
                let served = Some((answer.level, answer.cost));
                (found(answer.record), served)
            }
        },
        Work::Write(write) => match shared.api.replicator.write(write, options).await {
            Err(error) => (failed(&error.into(), true), None),
            Ok(answer) => {
                let result = OpResult::Written {
                    status: 204,
                    etag: answer.version.etag(),
                    superseded: answer.superseded_by.map(|version| version.to_string()),
                };
                (result, Some((answer.level, answer.cost)))
            }
        },
    }
}

fn found(record: Option<Record>) -> OpResult {
    match record.map(|record| (record.version, record.content)) {
        Some((version, Content::Value { bytes: value, content_type, expires_at_ms })) => {
            OpResult::Found {
                status: 200,
                etag: version.etag(),
                content_type,
                expires_at_ms,
                value,
            }
        }
        Some((_, Content::Tombstone)) | None => {
            failed(&Failure::Request(Invalid::RuledOut(RuledOut::NoSuchKey)), false)
        }
    }
}

fn failed(failure: &Failure, is_write: bool) -> OpResult {
    let problem = failure.problem(is_write);
    OpResult::Failed {
        status: problem.status.as_u16(),
        code: problem.code,
        detail: problem.detail,
        outcome: problem.outcome,
    }
}
