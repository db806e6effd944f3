//! One key: `GET`, `HEAD`, `PUT` and `DELETE /v1/kv/{key}`.
//!
//! This is the hot path. Headers are looked at once, nothing is matched by pattern, and values pass
//! through as the bytes they are.

use std::error::Error;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};

use crate::replication::{ReadAnswer, WriteAnswer};
use crate::types::{Change, Condition, Content, Key, RetryKey, Version, Write};

use super::body;
use super::conditions::{self, Tags};
use super::counters::Operation;
use super::failure::{BodyError, Failure, Invalid, RuledOut};
use super::headers as h;
use super::query::Parameters;
use super::range::{self, Wanted};
use super::shared::{Call, Shared, wants_trace};
use super::ttl;

/// Where keys are.
pub const PREFIX: &str = "/v1/kv/";

/// What a value without a type of its own is sent as.
const DEFAULT_TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The longest `Content-Type` that is kept with a value, in bytes.
pub const MAX_CONTENT_TYPE_BYTES: usize = 256;

/// Answers a request whose path begins with [`PREFIX`].
pub async fn answer<B>(shared: &Shared, request: Request<B>) -> Response
where
    B: hyper::body::Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let operation = match parts.method {
        Method::GET => Operation::Get,
        Method::HEAD => Operation::Head,
        Method::PUT => Operation::Put,
        Method::DELETE => Operation::Delete,
        _ => Operation::Other,
    };
    let mut call = shared.begin(operation);
    let result = match shared.admit(1) {
        Err(refused) => Err(refused.into()),
        Ok(_admitted) => match operation {
            Operation::Get | Operation::Head => read(shared, &mut call, &parts).await,
            Operation::Put => put(shared, &mut call, parts, body).await,
            Operation::Delete => {
                drop(body);
                delete(shared, &mut call, parts).await
            }
            _ => {
                let allowed = "GET, HEAD, PUT, DELETE";
                Err(Invalid::WrongMethod { method: parts.method, allowed }.into())
            }
        },
    };
    shared.finish(&call, result)
}

fn key_path(parts: &Parts) -> &str {
    parts.uri.path().strip_prefix(PREFIX).unwrap_or_default()
}

/// The headers of a read that change its answer, found in one pass.
#[derive(Default)]
struct ReadHeaders<'a> {
    has_if_match: bool,
    has_if_none_match: bool,
    range: Option<&'a HeaderValue>,
    if_range: Option<&'a HeaderValue>,
    trace: bool,
}

impl<'a> ReadHeaders<'a> {
    fn scan(headers: &'a HeaderMap) -> Result<ReadHeaders<'a>, Invalid> {
        let mut found = ReadHeaders::default();
        for (name, value) in headers {
            if name == header::IF_MATCH {
                found.has_if_match = true;
            } else if name == header::IF_NONE_MATCH {
                found.has_if_none_match = true;
            } else if name == header::RANGE {
                found.range = Some(value);
            } else if name == header::IF_RANGE {
                found.if_range = Some(value);
            } else if name == h::QUORATE_TRACE {
                found.trace = wants_trace(value)?;
            }
        }
        Ok(found)
    }
}

/// The conditions of a read.
struct ReadConditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

async fn read(shared: &Shared, call: &mut Call, parts: &Parts) -> Result<Response, Failure> {
    let headers = ReadHeaders::scan(&parts.headers)?;
    call.trace = headers.trace;
    let key = shared.key(key_path(parts))?;
    let longest = shared.api.settings.limits.request_timeout;
    let parameters = Parameters::parse(parts.uri.query(), longest)?;
    let mut conditions = ReadConditions { if_match: None, if_none_match: None };
    if headers.has_if_match {
        conditions.if_match = Tags::read(&parts.headers, &header::IF_MATCH, "If-Match")?;
    }
    if headers.has_if_none_match {
        conditions.if_none_match =
            Tags::read(&parts.headers, &header::IF_NONE_MATCH, "If-None-Match")?;
    }
    let answer = shared.api.replicator.read(key, shared.options(call, &parameters)).await?;
    let (level, cost) = (answer.level, answer.cost);
    let is_head = call.operation == Operation::Head;
    let mut response = match found(answer, &headers, &conditions, is_head) {
        Ok(response) => response,
        Err(ruled_out) => {
            Failure::Request(Invalid::RuledOut(ruled_out)).problem(false).into_response()
        }
    };
    shared.say_served(call, response.headers_mut(), level, cost);
    Ok(response)
}

/// The answer to a read, given what the key holds.
fn found(
    answer: ReadAnswer,
    headers: &ReadHeaders<'_>,
    conditions: &ReadConditions,
    is_head: bool,
) -> Result<Response, RuledOut> {
    let Some(record) = answer.record else { return Err(RuledOut::NoSuchKey) };
    let Content::Value { bytes, content_type, expires_at_ms } = record.content else {
        return Err(RuledOut::NoSuchKey);
    };
    let version = record.version;
    if conditions.if_match.as_ref().is_some_and(|tags| !tags.match_strongly(version)) {
        return Err(RuledOut::Precondition { current: version });
    }
    if conditions.if_none_match.as_ref().is_some_and(|tags| tags.match_weakly(version)) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        validators(response.headers_mut(), version, expires_at_ms);
        return Ok(response);
    }
    let wanted = match (headers.range, headers.if_range) {
        _ if is_head => Wanted::Whole,
        (None, _) => Wanted::Whole,
        (Some(_), Some(tag)) if !conditions::if_range_allows(tag, version) => Wanted::Whole,
        (Some(range), _) => range::read(range.as_bytes(), bytes.len()),
    };
    let length = bytes.len();
    let mut response = match wanted {
        Wanted::Unsatisfiable => return Err(RuledOut::Range { length }),
        Wanted::Whole if is_head => {
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert(header::CONTENT_LENGTH, h::number(length as u64));
            response
        }
        Wanted::Whole => Response::new(Body::from(bytes)),
        Wanted::Part(part) => {
            let shown = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            let mut response = Response::new(Body::from(bytes.slice(part)));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            response.headers_mut().insert(header::CONTENT_RANGE, h::text(shown));
            response
        }
    };
    let headers = response.headers_mut();
    validators(headers, version, expires_at_ms);
    headers.insert(header::CONTENT_TYPE, type_header(content_type));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    Ok(response)
}

fn validators(headers: &mut HeaderMap, version: Version, expires_at_ms: Option<u64>) {
    headers.reserve(10);
    if let Some(at_ms) = expires_at_ms {
        headers.insert(h::QUORATE_EXPIRES, h::http_date(at_ms));
    }
    headers.insert(header::ETAG, h::etag(version));
    headers.insert(header::LAST_MODIFIED, h::http_date(version.millis()));
}

fn type_header(content_type: Option<String>) -> HeaderValue {
    let kept = content_type.map(|text| HeaderValue::from_maybe_shared(Bytes::from(text)));
    kept.and_then(Result::ok).unwrap_or(DEFAULT_TYPE)
}

/// The headers of a write that change what it does, found in one pass.
#[derive(Default)]
struct WriteHeaders {
    has_condition: bool,
    content_type: Option<String>,
    idempotency_key: Option<String>,
    ttl_ms: Option<u64>,
    trace: bool,
}

impl WriteHeaders {
    fn scan(headers: &HeaderMap, is_put: bool) -> Result<WriteHeaders, Invalid> {
        let mut found = WriteHeaders::default();
        for (name, value) in headers {
            if name == header::IF_MATCH || name == header::IF_NONE_MATCH {
                found.has_condition = true;
            } else if name == header::CONTENT_TYPE && is_put {
                found.content_type = Some(content_type(value)?);
            } else if name == header::CONTENT_ENCODING && is_put {
                if !value.as_bytes().eq_ignore_ascii_case(b"identity") {
                    return Err(Invalid::Body(BodyError::Encoded));
                }
            } else if name == header::CONTENT_RANGE && is_put {
                // RFC 9110, section 14.5: a part must not be taken for the whole.
                let problem = "a value is always put whole".to_owned();
                return Err(Invalid::Header { name: "Content-Range", problem });
            } else if name == h::QUORATE_TRACE {
                found.trace = wants_trace(value)?;
            } else if name == h::IDEMPOTENCY_KEY {
                found.idempotency_key = Some(idempotency_key(&found, value)?);
            } else if name == h::QUORATE_TTL {
                if !is_put {
                    let problem = "a delete takes none: it holds for good".to_owned();
                    return Err(Invalid::Header { name: "Quorate-Ttl", problem });
                }
                found.ttl_ms = Some(ttl::of_header(value)?);
            }
        }
        Ok(found)
    }
}

fn idempotency_key(found: &WriteHeaders, value: &HeaderValue) -> Result<String, Invalid> {
    const MAX: usize = RetryKey::MAX_KEY_BYTES;
    let bad = |problem| Invalid::Header { name: "Idempotency-Key", problem };
    if found.idempotency_key.is_some() {
        return Err(bad("given twice: give it once".to_owned()));
    }
    let is_key = (1..=MAX).contains(&value.len())
        && value.as_bytes().iter().all(|byte| byte.is_ascii_graphic());
    match value.to_str() {
        Ok(text) if is_key => Ok(text.to_owned()),
        _ => Err(bad(format!("expected 1 to {MAX} visible ASCII characters without spaces"))),
    }
}

/// The write that a request asks for.
fn write_of(
    shared: &Shared,
    key: Key,
    change: Change,
    condition: Option<Condition>,
    idempotency_key: Option<String>,
) -> Write {
    let expiry = shared.api.settings.leader.idempotency_expiry;
    let retry =
        idempotency_key.map(|name| RetryKey::of(name, &key, &change, condition.as_ref(), expiry));
    Write { key, change, condition, retry }
}

pub fn content_type(value: &HeaderValue) -> Result<String, Invalid> {
    let bad = |problem: String| Invalid::Header { name: "Content-Type", problem };
    let text = value.to_str().map_err(|_| bad("expected visible ASCII".to_owned()))?;
    if text.len() > MAX_CONTENT_TYPE_BYTES {
        return Err(bad(format!("longer than {MAX_CONTENT_TYPE_BYTES} bytes")));
    }
    Ok(text.to_owned())
}

async fn put<B>(
    shared: &Shared,
    call: &mut Call,
    parts: Parts,
    body: B,
) -> Result<Response, Failure>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let headers = WriteHeaders::scan(&parts.headers, true)?;
    call.trace = headers.trace;
    let key = shared.key(key_path(&parts))?;
    let limits = &shared.api.settings.limits;
    let parameters = Parameters::parse(parts.uri.query(), limits.request_timeout)?;
    let condition = match headers.has_condition {
        true => conditions::of_write(&parts.headers)?,
        false => None,
    };
    // The head of the request lies in the connection's read buffer: let it go before the wait.
    drop(parts);
    let options = shared.options(call, &parameters);
    let runtime = &shared.api.runtime;
    let value = body::read(runtime, body, "a value", limits.max_value_bytes, options.deadline);
    let value = value.await.map_err(Invalid::Body)?;
    let change = Change::put(value, headers.content_type, headers.ttl_ms);
    let write = write_of(shared, key, change, condition, headers.idempotency_key);
    let answer = shared.api.replicator.write(write, options).await?;
    Ok(written(shared, call, &answer))
}

async fn delete(shared: &Shared, call: &mut Call, parts: Parts) -> Result<Response, Failure> {
    let headers = WriteHeaders::scan(&parts.headers, false)?;
    call.trace = headers.trace;
    let key = shared.key(key_path(&parts))?;
    let longest = shared.api.settings.limits.request_timeout;
    let parameters = Parameters::parse(parts.uri.query(), longest)?;
    let condition = match headers.has_condition {
        true => conditions::of_write(&parts.headers)?,
        false => None,
    };
    drop(parts);
    let options = shared.options(call, &parameters);
    let write = write_of(shared, key, Change::Delete, condition, headers.idempotency_key);
    let answer = shared.api.replicator.write(write, options).await?;
    Ok(written(shared, call, &answer))
}

fn written(shared: &Shared, call: &Call, answer: &WriteAnswer) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.reserve(8);
    headers.insert(header::ETAG, h::etag(answer.version));
    if let Some(newer) = answer.superseded_by {
        headers.insert(h::QUORATE_SUPERSEDED, h::formatted(format_args!("{newer}")));
    }
    shared.say_served(call, headers, answer.level, answer.cost);
    response
}
