//! What a client may conclude from an answer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What became of a request that did not simply succeed or fail its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened, and was acknowledged.
    Done,
    /// Definitely nothing happened, and nothing will.
    NotApplied,
    /// It may have happened, or may yet happen, once and wholly, or not at all.
    Unknown,
}

impl Outcome {
    /// The word for the outcome in JSON, messages and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::NotApplied => "not_applied",
            Outcome::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
