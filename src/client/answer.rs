//! What came back: headers of interest, problems, and failures with their outcome.

use std::error::Error;

use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::Deserialize;

use crate::types::{Outcome, Version};

/// What an answer's headers say about how it was served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerInfo {
    /// `Quorate-Mode`.
    pub mode: Option<String>,
    /// `Quorate-Node`: who answered.
    pub node: Option<String>,
    /// `Quorate-Consistency`: the level that was served.
    pub consistency: Option<String>,
    /// `Quorate-Superseded`: the newer version that the write lost to.
    pub superseded: Option<Version>,
    /// `Quorate-Messages`, where the request asked for a trace.
    pub messages: Option<u32>,
    /// `Quorate-Acks`, where the request asked for a trace.
    pub acks: Option<u16>,
    /// `Server-Timing`, where the request asked for a trace.
    pub server_timing: Option<String>,
}

impl AnswerInfo {
    pub(super) fn of(headers: &HeaderMap) -> AnswerInfo {
        let named = |name: &'static str| text(headers, &HeaderName::from_static(name));
        AnswerInfo {
            mode: named("quorate-mode"),
            node: named("quorate-node"),
            consistency: named("quorate-consistency"),
            superseded: named("quorate-superseded").and_then(|text| text.parse().ok()),
            messages: named("quorate-messages").and_then(|text| text.parse().ok()),
            acks: named("quorate-acks").and_then(|text| text.parse().ok()),
            server_timing: named("server-timing"),
        }
    }
}

pub(super) fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

pub(super) fn etag(headers: &HeaderMap) -> String {
    text(headers, &header::ETAG).unwrap_or_default()
}

/// A node's own account of what went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Problem {
    pub status: u16,
    /// Stable, unlike the texts.
    pub code: String,
    pub title: String,
    pub detail: String,
    /// For writes.
    pub outcome: Option<Outcome>,
    /// Where the leader is, with code `not-leader`.
    pub leader: Option<String>,
}

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// It makes no sense, and was not sent.
    #[error("{problem}")]
    BadRequest { problem: String },
    /// No node could be connected to: nothing was sent.
    #[error("no node could be reached ({reason})")]
    NotSent { reason: String },
    /// The request went out, or may have, and no whole answer came back.
    #[error("no answer from {endpoint} ({reason})")]
    NoAnswer { endpoint: String, reason: String },
    /// The node answered that it did not do it, or does not know.
    #[error("{} ({})", .0.detail, .0.code)]
    Refused(Box<Problem>),
    /// The answer is none that a node gives.
    #[error("status {status}: {problem}")]
    Strange { status: u16, problem: String },
}

impl ClientError {
    /// What may be concluded of a write that failed so.
    pub fn outcome(&self) -> Outcome {
        match self {
            ClientError::BadRequest { .. } | ClientError::NotSent { .. } => Outcome::NotApplied,
            ClientError::NoAnswer { .. } => Outcome::Unknown,
            ClientError::Refused(problem) => problem.outcome.unwrap_or(of_status(problem.status)),
            ClientError::Strange { status, .. } => of_status(*status),
        }
    }

    /// The status of the answer, where there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            ClientError::Refused(problem) => Some(problem.status),
            ClientError::Strange { status, .. } => Some(*status),
            ClientError::BadRequest { .. }
            | ClientError::NotSent { .. }
            | ClientError::NoAnswer { .. } => None,
        }
    }

    pub(super) fn no_answer(endpoint: &str, error: &reqwest::Error) -> ClientError {
        ClientError::NoAnswer { endpoint: endpoint.to_owned(), reason: innermost(error) }
    }

    pub(super) fn of_answer(status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) if problem.status == status.as_u16() => {
                ClientError::Refused(Box::new(problem))
            }
            Ok(_) | Err(_) => ClientError::Strange {
                status: status.as_u16(),
                problem: "not an answer that a node gives: is this the client address of one?"
                    .to_owned(),
            },
        }
    }
}

/// A refusal of the request itself changes nothing; of anything else, nothing is known.
fn of_status(status: u16) -> Outcome {
    match status {
        400..=499 => Outcome::NotApplied,
        _ => Outcome::Unknown,
    }
}

/// The cause that says most: transport errors wrap one another, and the outermost only says that
/// a request failed.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
