//! The two architectures.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which architecture a cluster runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A Raft-elected leader orders every write.
    Leader,
    /// Any node coordinates a quorum write; reads repair what they find stale.
    Leaderless,
}

impl Mode {
    /// Both modes, in the order in which they are always shown.
    pub const ALL: [Mode; 2] = [Mode::Leader, Mode::Leaderless];

    /// The word for the mode in flags, files, headers and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Leader => "leader",
            Mode::Leaderless => "leaderless",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Mode::ALL
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| format!("'{text}' is not a mode: expected 'leader' or 'leaderless'"))
    }
}
