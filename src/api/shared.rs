//! What every handler has at hand: the node's parts, the counters, and the shape of answers.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;

use crate::config::ReadRepair;
use crate::replication::{Cost, RequestOptions};
use crate::runtime::Instant;
use crate::types::{EffectiveLevel, Key};

use super::Api;
use super::counters::{Counters, Operation};
use super::failure::{Failure, Invalid};
use super::headers as h;
use super::query::{self, Parameters};

/// The state behind a [`super::Service`].
pub struct Shared {
    pub api: Api,
    counters: Counters,
    mode: HeaderValue,
    node: HeaderValue,
    /// The level that leaderless answers usually have, ready as a header.
    usual: (EffectiveLevel, HeaderValue),
}

/// One request under way: what it is, since when, and whether its costs are to be told.
pub struct Call {
    pub operation: Operation,
    pub started: Instant,
    pub trace: bool,
}

/// Room for requests; given back when dropped, also where the client went away.
pub struct Admitted<'a> {
    in_flight: &'a Gauge,
    requests: i64,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.in_flight.dec_by(self.requests);
    }
}

impl Shared {
    pub fn new(api: Api) -> Shared {
        let settings = &api.settings.leaderless;
        let (r, w, n) = (settings.read_quorum, settings.write_quorum, settings.replicas);
        let usual = match settings.read_repair {
            ReadRepair::Blocking if r + w > n => EffectiveLevel::Quorum { r, w, n },
            ReadRepair::Blocking | ReadRepair::Background | ReadRepair::Off => {
                EffectiveLevel::Eventual { r, w, n }
            }
        };
        Shared {
            counters: Counters::new(api.metrics.clone()),
            mode: HeaderValue::from_static(api.settings.mode.as_str()),
            node: h::number(api.settings.node_id.0),
            usual: (usual, h::formatted(format_args!("{usual}"))),
            api,
        }
    }

    /// A request begins.
    pub fn begin(&self, operation: Operation) -> Call {
        Call { operation, started: self.api.runtime.now(), trace: false }
    }

    /// Takes room for requests on the data path, or refuses: a node under more load than it can
    /// bear must say so, not fall over. Health and status are never refused.
    pub fn admit(&self, requests: usize) -> Result<Admitted<'_>, Invalid> {
        let limit = self.api.settings.limits.max_requests_in_flight;
        let requests = i64::try_from(requests).unwrap_or(i64::MAX);
        let in_flight = &self.api.metrics.requests_in_flight;
        let before = in_flight.inc_by(requests);
        // From here on the room is given back by the drop, also where it is refused.
        let admitted = Admitted { in_flight, requests };
        match before.saturating_add(requests) <= i64::try_from(limit).unwrap_or(i64::MAX) {
            true => Ok(admitted),
            false => Err(Invalid::TooManyRequests { limit }),
        }
    }

    /// The key that an encoded path names.
    pub fn key(&self, encoded: &str) -> Result<Key, Invalid> {
        let text =
            query::decode(encoded, query::Plus::IsPlus).ok_or(Invalid::Escape { place: "key" })?;
        Key::new(&text, self.api.settings.limits.max_key_bytes).map_err(Invalid::Key)
    }

    /// What the replicator is asked for.
    pub fn options(&self, call: &Call, parameters: &Parameters) -> RequestOptions {
        let longest = self.api.settings.limits.request_timeout;
        RequestOptions {
            level: parameters.level,
            max_staleness: parameters.max_staleness,
            r: parameters.r,
            w: parameters.w,
            may_forward: parameters.may_forward.unwrap_or(true),
            deadline: call.started + parameters.timeout.unwrap_or(longest),
        }
    }

    /// Says at which level an answer was served and, where asked, what it cost.
    pub fn say_served(
        &self,
        call: &Call,
        headers: &mut HeaderMap,
        level: EffectiveLevel,
        cost: Cost,
    ) {
        headers.insert(h::QUORATE_CONSISTENCY, self.level(level));
        if call.trace {
            headers.insert(h::QUORATE_MESSAGES, h::number(cost.messages));
            headers.insert(h::QUORATE_ACKS, h::number(cost.acks));
        }
    }

    fn level(&self, level: EffectiveLevel) -> HeaderValue {
        match level {
            EffectiveLevel::Linearizable => HeaderValue::from_static("linearizable"),
            EffectiveLevel::Lease => HeaderValue::from_static("lease"),
            EffectiveLevel::Local => HeaderValue::from_static("local"),
            quorum if quorum == self.usual.0 => self.usual.1.clone(),
            other @ (EffectiveLevel::LocalWithin { .. }
            | EffectiveLevel::Quorum { .. }
            | EffectiveLevel::Eventual { .. }) => h::text(other.to_string()),
        }
    }

    /// Ends a request: failures become problems, every answer says who gave it, and is counted.
    pub fn finish(&self, call: &Call, result: Result<Response, Failure>) -> Response {
        let is_write = call.operation.is_write();
        let mut response =
            result.unwrap_or_else(|failure| failure.problem(is_write).into_response());
        self.counters.count(call.operation, response.status());
        let headers = response.headers_mut();
        headers.insert(h::QUORATE_MODE, self.mode.clone());
        headers.insert(h::QUORATE_NODE, self.node.clone());
        if call.trace {
            let taken = self.api.runtime.now().saturating_duration_since(call.started);
            let taken_ms = taken.as_secs_f64() * 1_000.0;
            headers.insert(h::SERVER_TIMING, h::text(format!("total;dur={taken_ms:.3}")));
        }
        response
    }
}

/// Whether `Quorate-Trace` asks for costs.
pub fn wants_trace(value: &HeaderValue) -> Result<bool, Invalid> {
    match value.as_bytes() {
        b"1" => Ok(true),
        b"0" => Ok(false),
        _ => {
            let problem = "expected 1 (tell what the request cost) or 0".to_owned();
            Err(Invalid::Header { name: "Quorate-Trace", problem })
        }
    }
}

/// An answer in JSON.
pub fn json<T: Serialize>(body: &T) -> Response {
    // The shapes here hold text, numbers and lists of them: encoding them cannot fail.
    let body = serde_json::to_vec(body).unwrap_or_default();
    with_type(body.into(), "application/json")
}

/// An answer of some other type.
pub fn with_type(body: Bytes, content_type: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
