//! What an answer, or the lack of one, means: decided here, once, for every load.

use serde::Deserialize;

use super::http::Failure;
use crate::history::Ended;

/// What is said of a request that went out and was not answered.
const NO_ANSWER: &str = "no-answer";
/// What is said of a request that could not be sent.
const NOT_SENT: &str = "not-sent";

/// What became of a write that was answered. The answer's own word counts where it has one; a
/// status that the API gives to definite refusals is believed; everything else is unknown.
pub fn write_ended(status: u16, body: &[u8]) -> Ended {
    if (200..300).contains(&status) {
        return Ended::Ok;
    }
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let outcome = problem.as_ref().and_then(|problem| problem.get("outcome")?.as_str());
    match (outcome, status) {
        (Some("not_applied"), _) => Ended::Failed,
        (Some(_), _) => Ended::Unknown,
        (None, 400..=499 | 501 | 503) => Ended::Failed,
        (None, _) => Ended::Unknown,
    }
}

/// What became of a write that was not answered.
pub fn write_failed(failure: &Failure) -> Ended {
    if failure.sent { Ended::Unknown } else { Ended::Failed }
}

/// The stable code of an answer that is not the one wanted: its own, or its status.
pub fn code_of(status: u16, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Problem {
        code: String,
    }
    serde_json::from_slice::<Problem>(body)
        .map_or_else(|_| format!("status-{status}"), |problem| problem.code)
}

/// The same for a request without an answer.
pub fn code_of_failure(failure: &Failure) -> &'static str {
    if failure.sent { NO_ANSWER } else { NOT_SENT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_unknown_unless_the_answer_rules_it_out() {
        let problem = |outcome: &str| format!(r#"{{"code":"x","outcome":"{outcome}"}}"#);
        assert_eq!(write_ended(204, b""), Ended::Ok);
        for status in [400, 412, 413, 421, 429, 501, 503] {
            assert_eq!(write_ended(status, b""), Ended::Failed, "{status}");
        }
        for status in [302, 500, 502, 504, 599] {
            assert_eq!(write_ended(status, b"oops"), Ended::Unknown, "{status}");
        }
        assert_eq!(write_ended(503, problem("unknown").as_bytes()), Ended::Unknown);
        assert_eq!(write_ended(500, problem("not_applied").as_bytes()), Ended::Failed);
        assert_eq!(write_ended(504, problem("unknown").as_bytes()), Ended::Unknown);
    }

    #[test]
    fn only_a_request_that_was_never_sent_definitely_failed() {
        let failure = |sent| Failure { sent, detail: String::new() };
        assert_eq!(write_failed(&failure(false)), Ended::Failed);
        assert_eq!(write_failed(&failure(true)), Ended::Unknown);
        assert_eq!(code_of_failure(&failure(false)), "not-sent");
    }

    #[test]
    fn an_error_is_named_by_its_code_and_without_one_by_its_status() {
        assert_eq!(code_of(503, br#"{"status":503,"code":"no-leader"}"#), "no-leader");
        assert_eq!(code_of(502, b"<html>"), "status-502");
    }
}
