//! Errors as answers: the one exhaustive map from what went wrong to what a client is told.
//!
//! **Guarantees.** Every failure becomes `application/problem+json` with a stable `code`; a failed
//! write also says its `outcome`. 503 is said only where nothing happened and nothing will, 504
//! where a write may have happened. No match here has a wildcard arm: a new error does not compile
//! until somebody decided what clients are told.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::error::{
    LayoutCallError, LayoutError, LeadershipError, MemberError, MembershipError, ReadError,
    Refusal, TransferError, WriteError,
};
use crate::types::{KeyError, LayoutRefusal, NodeId, Outcome, Version};

use super::failure::{BodyError, Failure, Invalid, RuledOut};
use super::headers::{etag, number, text};

/// What problem documents are named by; the code follows. `docs/api.md` lists them.
const TYPE_PREFIX: &str = "urn:quorate:problem:";

/// Where somebody who is lost should look.
const PATHS: &str = "keys are at /v1/kv/{key}, lists at /v1/kv, the cluster at /v1/cluster, this \
                     node at /v1/node, /healthz, /readyz and /metrics";

/// An answer that says what went wrong (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    pub title: &'static str,
    pub detail: String,
    /// For writes: what the client may conclude.
    pub outcome: Option<Outcome>,
    pub extra: Extra,
}

/// What a problem carries beside its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extra {
    Nothing,
    /// The parameter or header at fault.
    Parameter(Cow<'static, str>),
    /// `Retry-After`, in seconds.
    RetryAfter(u64),
    /// `Allow`.
    Allow(&'static str),
    /// Who to ask instead.
    Leader {
        node: NodeId,
        address: String,
    },
    /// The version that stood in the way, as `ETag`.
    Current(Version),
    /// The length of a value of which an impossible range was asked, as `Content-Range`.
    Length(usize),
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader_node: Option<NodeId>,
}

impl Failure {
    /// What the client is told; `is_write` where the request would have changed something.
    pub fn problem(&self, is_write: bool) -> Problem {
        let problem = match self {
            Failure::Read(ReadError::Refused(refusal)) => of_refusal(refusal),
            Failure::Read(error @ ReadError::TimedOut { .. }) => {
                problem(504, "timed-out", "Not answered in time", error.to_string())
            }
            Failure::Write(WriteError::Refused(refusal)) => of_refusal(refusal),
            Failure::Write(error @ WriteError::PreconditionFailed { current }) => {
                let failed = precondition_failed(error.to_string());
                Problem { extra: current.map_or(Extra::Nothing, Extra::Current), ..failed }
            }
            Failure::Write(error @ WriteError::IdempotencyKeyReused) => Problem {
                extra: Extra::Parameter("Idempotency-Key".into()),
                ..problem(
                    422,
                    "idempotency-key-reused",
                    "Idempotency key reused",
                    error.to_string(),
                )
            },
            Failure::Write(error @ WriteError::Unknown { .. }) => {
                problem(504, "unknown-outcome", "Outcome unknown", error.to_string())
            }
            Failure::Leadership(LeadershipError::Refused(refusal)) => of_refusal(refusal),
            Failure::Leadership(LeadershipError::Transfer(error)) => of_transfer(error),
            Failure::Membership(MembershipError::Refused(refusal)) => of_refusal(refusal),
            Failure::Membership(MembershipError::Change(error)) => of_members(error),
            Failure::Layout(LayoutCallError::Refused(refusal)) => of_refusal(refusal),
            Failure::Layout(LayoutCallError::Change(error)) => of_layout(error),
            Failure::Request(invalid) => of_invalid(invalid),
        };
        Problem { outcome: is_write.then(|| self.outcome()), ..problem }
    }

    /// What became of a write that failed so.
    fn outcome(&self) -> Outcome {
        match self {
            Failure::Write(error) => error.outcome(),
            Failure::Leadership(LeadershipError::Transfer(
                TransferError::Unknown { .. } | TransferError::Elsewhere { .. },
            )) => Outcome::Unknown,
            Failure::Membership(MembershipError::Change(MemberError::Unknown { .. })) => {
                Outcome::Unknown
            }
            Failure::Layout(LayoutCallError::Change(LayoutError::Unknown { .. })) => {
                Outcome::Unknown
            }
            Failure::Read(_)
            | Failure::Leadership(_)
            | Failure::Membership(_)
            | Failure::Layout(_)
            | Failure::Request(_) => Outcome::NotApplied,
        }
    }
}

fn of_refusal(refusal: &Refusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        Refusal::LevelNotOffered { .. } => Problem {
            extra: Extra::Parameter("consistency".into()),
            ..problem(400, "level-not-offered", "Consistency level not offered", detail)
        },
        Refusal::NotImplemented { .. } => not_implemented(detail),
        Refusal::BadParameter { parameter, .. } => bad_parameter(parameter, detail),
        Refusal::NoLeader { .. } => problem(503, "no-leader", "No leader", detail),
        Refusal::NotLeader { leader, client_address } => Problem {
            extra: Extra::Leader { node: *leader, address: client_address.clone() },
            ..problem(421, "not-leader", "Another node leads", detail)
        },
        Refusal::TooStale { .. } => problem(503, "too-stale", "Too stale", detail),
        Refusal::NotEnoughReplicas { .. } => {
            problem(503, "not-enough-replicas", "Not enough replicas", detail)
        }
        Refusal::ClockDrift { .. } => problem(503, "clock-drift", "Clock drift", detail),
        Refusal::Overloaded { retry_after, .. } => {
            overloaded(detail, retry_after.as_millis().div_ceil(1_000) as u64)
        }
        Refusal::NotReady { .. } => problem(503, "not-ready", "Not ready", detail),
        Refusal::Storage { .. } => problem(503, "storage-failed", "Storage failed", detail),
    }
}

fn of_transfer(error: &TransferError) -> Problem {
    let detail = error.to_string();
    match error {
        TransferError::UnknownNode { .. } => problem(404, "unknown-node", "Unknown node", detail),
        TransferError::NotVoter { .. } => problem(409, "not-a-voter", "Not a voter", detail),
        TransferError::Fixed { .. } => problem(409, "leader-is-fixed", "Leader is fixed", detail),
        TransferError::Behind { .. } | TransferError::NoTarget { .. } => {
            problem(503, "not-caught-up", "Not caught up", detail)
        }
        TransferError::NoLeader { .. } => problem(503, "no-leader", "No leader", detail),
        TransferError::Elsewhere { .. } => {
            problem(504, "another-leads", "Another node leads", detail)
        }
        TransferError::Unknown { .. } => problem(504, "unknown-outcome", "Outcome unknown", detail),
    }
}

fn of_members(error: &MemberError) -> Problem {
    let detail = error.to_string();
    match error {
        MemberError::UnknownNode { .. } => problem(404, "unknown-node", "Unknown node", detail),
        MemberError::IdUsed { .. } => problem(409, "id-was-used", "Id was used", detail),
        MemberError::OtherAddress { .. } => {
            problem(409, "other-address", "Member at another address", detail)
        }
        MemberError::AddressTaken { .. } => problem(409, "address-taken", "Address taken", detail),
        MemberError::TooMany { .. } => problem(409, "too-many-members", "Too many members", detail),
        MemberError::LosesQuorum { .. } => {
            problem(409, "would-lose-quorum", "Would lose the quorum", detail)
        }
        MemberError::Fixed { .. } => problem(409, "leader-is-fixed", "Leader is fixed", detail),
        MemberError::Behind { .. } | MemberError::LeaderStays { .. } => {
            problem(503, "not-caught-up", "Not caught up", detail)
        }
        MemberError::InProgress => problem(503, "change-in-progress", "Change in progress", detail),
        MemberError::NoLeader { .. } | MemberError::HandedOver { .. } => {
            problem(503, "no-leader", "No leader", detail)
        }
        MemberError::HoldsPartitions { .. } => {
            problem(409, "holds-partitions", "Holds partitions", detail)
        }
        MemberError::Departing { .. } => problem(503, "departing", "Departing", detail),
        MemberError::Unknown { .. } => problem(504, "unknown-outcome", "Outcome unknown", detail),
    }
}

fn of_layout(error: &LayoutError) -> Problem {
    let detail = error.to_string();
    match error {
        LayoutError::Refused(LayoutRefusal::OtherEpoch { .. }) => {
            problem(409, "layout-changed", "The layout changed", detail)
        }
        LayoutError::Refused(LayoutRefusal::UnderWay { .. }) => {
            problem(409, "layout-is-changing", "The layout is changing", detail)
        }
        LayoutError::Refused(LayoutRefusal::NothingUnderWay) => {
            problem(409, "layout-stands", "The layout stands", detail)
        }
        LayoutError::Refused(LayoutRefusal::MembersChange) => {
            problem(503, "change-in-progress", "Change in progress", detail)
        }
        LayoutError::Refused(LayoutRefusal::NotFounded) => {
            problem(503, "not-ready", "Not ready", detail)
        }
        LayoutError::Refused(LayoutRefusal::NoMember { .. }) => {
            problem(409, "not-a-member", "Not a member", detail)
        }
        LayoutError::Refused(LayoutRefusal::Malformed(_)) => {
            problem(400, "bad-body", "Bad body", detail)
        }
        LayoutError::NoLeader { .. } => problem(503, "no-leader", "No leader", detail),
        LayoutError::Unknown { .. } => problem(504, "unknown-outcome", "Outcome unknown", detail),
    }
}

fn of_invalid(invalid: &Invalid) -> Problem {
    match invalid {
        Invalid::UnknownPath { path } => {
            problem(404, "unknown-path", "Unknown path", format!("nothing is at {path}; {PATHS}"))
        }
        Invalid::WrongMethod { method, allowed } => Problem {
            extra: Extra::Allow(allowed),
            ..problem(
                405,
                "method-not-allowed",
                "Method not allowed",
                format!("{method} is not offered here: use {allowed}"),
            )
        },
        Invalid::Key(error) => problem(400, key_code(error), "Bad key", error.to_string()),
        Invalid::UnknownParameter { name, allowed } => Problem {
            extra: Extra::Parameter(name.clone().into()),
            ..problem(400, "unknown-parameter", "Unknown parameter", unknown(name, allowed))
        },
        Invalid::Parameter { name, problem } => bad_parameter(name, format!("{name}: {problem}")),
        Invalid::Escape { place } => problem(
            400,
            "bad-escape",
            "Malformed percent-encoding",
            format!(
                "a '%' in the {place} is not followed by two hexadecimal digits, or what it \
                     spells is not UTF-8"
            ),
        ),
        Invalid::Header { name, problem: detail } => Problem {
            extra: Extra::Parameter((*name).into()),
            ..problem(400, "bad-header", "Bad header", format!("{name}: {detail}"))
        },
        Invalid::NotImplemented { what } => not_implemented(what.clone()),
        Invalid::TooManyRequests { limit } => overloaded(
            format!("this node serves {limit} requests at once at most; try again in a second"),
            1,
        ),
        Invalid::NotReady { reason } => problem(503, "not-ready", "Not ready", reason.clone()),
        Invalid::Body(error) => of_body(error),
        Invalid::RuledOut(ruled_out) => of_ruled_out(ruled_out),
    }
}

fn of_body(error: &BodyError) -> Problem {
    match error {
        BodyError::Malformed { problem: detail } => {
            problem(400, "bad-body", "Bad body", detail.clone())
        }
        BodyError::Encoded => problem(
            415,
            "unsupported-encoding",
            "Unsupported content encoding",
            "values are kept as sent, without a Content-Encoding: send them plain, or name the \
             encoding in the Content-Type"
                .to_owned(),
        ),
        BodyError::TooLarge { what, limit_bytes } => problem(
            413,
            "too-large",
            "Too large",
            format!("{what} may have {limit_bytes} bytes at most"),
        ),
        BodyError::TimedOut { waited_ms } => problem(
            408,
            "body-timed-out",
            "The body did not arrive",
            format!("the body was not there whole after {waited_ms} ms"),
        ),
        BodyError::Broken { problem: detail } => problem(
            400,
            "body-broken",
            "The body broke off",
            format!("the body could not be read: {detail}"),
        ),
    }
}

fn of_ruled_out(ruled_out: &RuledOut) -> Problem {
    match ruled_out {
        RuledOut::NoSuchKey => {
            problem(404, "no-such-key", "No such key", "the key holds no value".to_owned())
        }
        RuledOut::Precondition { current } => Problem {
            extra: Extra::Current(*current),
            ..precondition_failed(format!(
                "the precondition does not hold: the key is at version {current}"
            ))
        },
        RuledOut::Range { length } => Problem {
            extra: Extra::Length(*length),
            ..problem(
                416,
                "range-not-satisfiable",
                "Range not satisfiable",
                format!("the value has {length} bytes: the range holds none of them"),
            )
        },
    }
}

fn key_code(error: &KeyError) -> &'static str {
    match error {
        KeyError::Empty => "key-empty",
        KeyError::TooLong { .. } => "key-too-long",
        KeyError::NotUtf8 => "key-not-utf8",
    }
}

fn unknown(name: &str, allowed: &[&str]) -> String {
    if allowed.is_empty() {
        return format!("'{name}' is not known here: no parameters are taken");
    }
    format!("'{name}' is not known here: expected {}", allowed.join(", "))
}

fn bad_parameter(name: &'static str, detail: String) -> Problem {
    Problem {
        extra: Extra::Parameter(name.into()),
        ..problem(400, "bad-parameter", "Bad parameter", detail)
    }
}

fn precondition_failed(detail: String) -> Problem {
    problem(412, "precondition-failed", "Precondition failed", detail)
}

fn not_implemented(detail: String) -> Problem {
    problem(501, "not-implemented", "Not implemented", detail)
}

fn overloaded(detail: String, retry_after_s: u64) -> Problem {
    Problem {
        extra: Extra::RetryAfter(retry_after_s.max(1)),
        ..problem(429, "overloaded", "Overloaded", detail)
    }
}

fn problem(status: u16, code: &'static str, title: &'static str, detail: String) -> Problem {
    // Every status above is a valid one; the fallback only spares this an unwrap.
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Problem { status, code, title, detail, outcome: None, extra: Extra::Nothing }
}

impl Problem {
    /// The answer.
    pub fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.document()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.extra {
            Extra::Nothing | Extra::Parameter(_) | Extra::Leader { .. } => {}
            Extra::RetryAfter(seconds) => {
                headers.insert(header::RETRY_AFTER, number(seconds));
            }
            Extra::Allow(methods) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(methods));
            }
            Extra::Current(version) => {
                headers.insert(header::ETAG, etag(version));
            }
            Extra::Length(length) => {
                headers.insert(header::CONTENT_RANGE, text(format!("bytes */{length}")));
            }
        }
        response
    }

    fn document(&self) -> Vec<u8> {
        let mut document = Document {
            r#type: format!("{TYPE_PREFIX}{}", self.code),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            outcome: self.outcome,
            parameter: None,
            leader: None,
            leader_node: None,
        };
        match &self.extra {
            Extra::Parameter(name) => document.parameter = Some(name),
            Extra::Leader { node, address } => {
                document.leader = Some(address);
                document.leader_node = Some(*node);
            }
            Extra::Nothing
            | Extra::RetryAfter(_)
            | Extra::Allow(_)
            | Extra::Current(_)
            | Extra::Length(_) => {}
        }
        // Text and numbers alone: this cannot fail.
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    /// The guide's table of errors.
    const GUIDE: &str = include_str!("../../docs/api.md");

    #[test]
    fn the_guide_has_every_code_with_its_status() {
        let source = include_str!("problem.rs").split("#[cfg(test)]").next().unwrap_or_default();
        let source = source.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut codes = vec![("400", "key-empty"), ("400", "key-too-long"), ("429", "overloaded")];
        for call in source.split("problem(").skip(1) {
            let mut arguments = call.trim_start().splitn(3, ", ");
            let (status, code) = (arguments.next(), arguments.next());
            if let (Some(status), Some(code)) = (status, code)
                && status.parse::<u16>().is_ok()
                && code.starts_with('"')
            {
                codes.push((status, code.trim_matches('"')));
            }
        }
        assert!(codes.len() > 25, "only found {codes:?}");
        for (status, code) in codes {
            let row = format!("| {status} | `{code}` |");
            assert!(GUIDE.contains(&row), "docs/api.md has no row {row}");
        }
    }
}
