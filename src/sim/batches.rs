//! Batches of a simulated client: several operations in one request, an answer for each.
//!
//! A history has no batches: each operation of one stands in it by itself, as the API promises, with
//! the times of the request. They are all of different keys, since a batch has no order inside.

use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::request::{Answer, headers_of, judge_refusal, read_answer};
use crate::history::{Action, Ended, Op, Value};

#[derive(Serialize)]
struct Batch<'a> {
    operations: Vec<Operation<'a>>,
}

#[derive(Serialize)]
struct Operation<'a> {
    op: Action,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<OpResult>,
}

#[derive(Deserialize)]
struct OpResult {
    status: u16,
    etag: Option<String>,
    superseded: Option<String>,
    value: Option<String>,
    outcome: Option<String>,
}

/// The request for these operations, each with its value where it is a put, and with how long it is to
/// hold, where it is to end.
pub(super) fn request_of(
    turns: &[(Op, Vec<u8>)],
    ttls_ms: &[Option<u64>],
    timeout: Duration,
) -> Result<Request<Body>, String> {
    let operation = |(turn, ttl_ms)| {
        let (op, value): &(Op, Vec<u8>) = turn;
        let ttl_ms: &Option<u64> = ttl_ms;
        let text = || std::str::from_utf8(value).map_err(|error| error.to_string());
        let value = (op.action == Action::Put).then(text).transpose()?;
        let ttl = ttl_ms.map(|ttl_ms| format!("{ttl_ms}ms"));
        Ok(Operation { op: op.action, key: op.key.as_str(), value, ttl })
    };
    let operations = turns.iter().zip(ttls_ms).map(operation).collect::<Result<_, String>>()?;
    let body = serde_json::to_vec(&Batch { operations }).map_err(|error| error.to_string())?;
    let level = turns.first().map(|(op, _)| op.level).ok_or("a batch of nothing")?;
    let target = format!("/v1/batch?timeout={}ms&consistency={level}", timeout.as_millis());
    Request::builder()
        .method(Method::POST)
        .uri(target)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .map_err(|error| error.to_string())
}

/// Reads an answer into the operations; says what is wrong where it contradicts itself.
pub(super) fn read_answers(turns: &mut [(Op, Vec<u8>)], answer: &Answer) -> Result<(), String> {
    let Answer::Got { status: StatusCode::OK, headers, body } = answer else {
        // Refused or lost as a whole: the same is true of each.
        return turns.iter_mut().try_for_each(|(op, _)| read_answer(op, answer).map(|_| ()));
    };
    let results: Results =
        serde_json::from_slice(body).map_err(|error| format!("a batch's answer: {error}"))?;
    if results.results.len() != turns.len() {
        let (asked, told) = (turns.len(), results.results.len());
        return Err(format!("a batch of {asked} operations was answered with {told} results"));
    }
    let served = headers_of(headers).served;
    for ((op, _), result) in turns.iter_mut().zip(results.results) {
        op.served = served;
        read_result(op, result)?;
    }
    Ok(())
}

fn read_result(op: &mut Op, result: OpResult) -> Result<(), String> {
    let status = StatusCode::from_u16(result.status).map_err(|error| error.to_string())?;
    op.status = result.status;
    let version = |text: Option<String>| {
        let text = text.ok_or("a result without a version")?;
        let version = text.trim_matches('"').parse();
        version.map_err(|_| format!("a result's version {text} is none"))
    };
    match (op.action, status) {
        (Action::Put | Action::Delete, StatusCode::NO_CONTENT) => {
            op.superseded = result.superseded.map(|text| version(Some(text))).transpose()?;
            op.version = Some(version(result.etag)?);
            op.ended = Ended::Ok;
        }
        (Action::Put | Action::Delete, _) => {
            op.ended = match status {
                StatusCode::GATEWAY_TIMEOUT => Ended::Unknown,
                _ => Ended::Failed,
            };
            return judge_refusal(op, status, result.outcome.as_deref());
        }
        (_, StatusCode::OK) => {
            let text = result.value.unwrap_or_default();
            op.value = Some(Value::of(text.as_bytes(), &mut Vec::new()));
            op.version = Some(version(result.etag)?);
            op.ended = Ended::Ok;
        }
        (_, StatusCode::NOT_FOUND) => op.ended = Ended::Ok,
        _ => {
            op.ended = Ended::Failed;
            return judge_refusal(op, status, None);
        }
    }
    Ok(())
}
