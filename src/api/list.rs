//! Lists of keys: `GET /v1/kv?prefix=&delimiter=&limit=&cursor=&values=`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderMap;
use serde::Serialize;

use crate::replication::{List, ListAnswer};
use crate::storage::rows::Bound;
use crate::types::{Content, Key, Record};

use super::counters::Operation;
use super::cursor;
use super::failure::{Failure, Invalid};
use super::headers::QUORATE_TRACE;
use super::query::{Parameters, bad, expected, once};
use super::shared::{Call, Shared, json, wants_trace};
use super::value::ValueText;

/// Items a page holds where the request does not say.
const DEFAULT_ITEMS: usize = 100;

/// The parameters of lists alone.
const PARAMETERS: [&str; 5] = ["prefix", "delimiter", "limit", "cursor", "values"];

#[derive(Serialize)]
struct Page<'a> {
    items: Vec<Item<'a>>,
    prefixes: &'a [String],
    next_cursor: Option<String>,
}

#[derive(Serialize)]
struct Item<'a> {
    key: &'a str,
    etag: String,
    size: usize,
    content_type: Option<&'a str>,
    #[serde(flatten)]
    value: Option<ValueText<'a>>,
}

/// Answers a list request.
pub async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let mut call = shared.begin(Operation::List);
    let (parts, _) = request.into_parts();
    let result = match shared.admit(1) {
        Ok(_admitted) => page(&shared, &mut call, &parts.headers, parts.uri.query()).await,
        Err(refused) => Err(refused.into()),
    };
    shared.finish(&call, result)
}

async fn page(
    shared: &Shared,
    call: &mut Call,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Response, Failure> {
    if let Some(trace) = headers.get(QUORATE_TRACE) {
        call.trace = wants_trace(trace)?;
    }
    let limits = &shared.api.settings.limits;
    let mut asked = Asked::default();
    let parameters =
        Parameters::parse_with(query, limits.request_timeout, &PARAMETERS, |name, value| {
            asked.take(name, value, limits.max_list_items, limits.max_key_bytes)
        })?;
    let with_values = asked.values.unwrap_or(false);
    let list = List {
        prefix: asked.prefix.unwrap_or_default(),
        from: asked.from.unwrap_or(Bound::Start),
        delimiter: asked.delimiter,
        limit: asked.limit.unwrap_or(DEFAULT_ITEMS.min(limits.max_list_items)),
        with_values,
    };
    let answer = shared.api.replicator.list(list, shared.options(call, &parameters)).await?;
    let mut response = json(&Page {
        items: answer
            .items
            .iter()
            .filter_map(|(key, record)| item(key, record, with_values))
            .collect(),
        prefixes: &answer.prefixes,
        next_cursor: answer.next.as_ref().and_then(cursor::encode),
    });
    let ListAnswer { level, cost, .. } = answer;
    shared.say_served(call, response.headers_mut(), level, cost);
    Ok(response)
}

fn item<'a>(key: &'a Key, record: &'a Record, with_value: bool) -> Option<Item<'a>> {
    let Content::Value { bytes, content_type, .. } = &record.content else { return None };
    Some(Item {
        key: key.as_str(),
        etag: record.version.etag(),
        size: bytes.len(),
        content_type: content_type.as_deref(),
        value: with_value.then(|| ValueText::of(bytes)),
    })
}

/// What a list request's own parameters ask for.
#[derive(Default)]
struct Asked {
    prefix: Option<String>,
    delimiter: Option<String>,
    limit: Option<usize>,
    from: Option<Bound>,
    values: Option<bool>,
}

impl Asked {
    fn take(
        &mut self,
        name: &str,
        value: &str,
        max_items: usize,
        max_key_bytes: usize,
    ) -> Result<bool, Invalid> {
        match name {
            "prefix" => {
                let prefix = bounded("prefix", value, max_key_bytes)?;
                once("prefix", &mut self.prefix, prefix)?;
            }
            "delimiter" if value.is_empty() => {
                return Err(bad("delimiter", "is empty: expected a text such as /".to_owned()));
            }
            "delimiter" => {
                let delimiter = bounded("delimiter", value, max_key_bytes)?;
                once("delimiter", &mut self.delimiter, delimiter)?;
            }
            "limit" => once("limit", &mut self.limit, limit(value, max_items)?)?,
            "cursor" => {
                let from = cursor::decode(value).ok_or_else(|| {
                    bad("cursor", expected(value, "the next_cursor of an earlier page"))
                })?;
                once("cursor", &mut self.from, from)?;
            }
            "values" => {
                let values = value
                    .parse()
                    .map_err(|_| bad("values", expected(value, "'true' or 'false'")))?;
                once("values", &mut self.values, values)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn bounded(name: &'static str, value: &str, max_bytes: usize) -> Result<String, Invalid> {
    if value.len() > max_bytes {
        return Err(bad(
            name,
            format!("has {} bytes: at most {max_bytes} are allowed", value.len()),
        ));
    }
    Ok(value.to_owned())
}

fn limit(value: &str, max_items: usize) -> Result<usize, Invalid> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(limit) if digits && (1..=max_items).contains(&limit) => Ok(limit),
        _ => Err(bad("limit", expected(value, &format!("a whole number from 1 to {max_items}")))),
    }
}
