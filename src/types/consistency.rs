//! Consistency levels: what a client asks for, and what an answer says was served.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Mode;

/// A level that a client may ask for with `?consistency=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Reads and writes take effect at one instant between request and answer.
    Linearizable,
    /// The leader answers from its lease; assumes bounded clock rate drift.
    Lease,
    /// R and W replicas. **Not** linearizable, also where R + W > N.
    Quorum,
    /// One replica, which may be stale.
    Local,
}

impl Level {
    /// Every level, in the order in which messages list them.
    pub const ALL: [Level; 4] = [Level::Linearizable, Level::Lease, Level::Quorum, Level::Local];

    /// The word for the level in queries, headers and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Linearizable => "linearizable",
            Level::Lease => "lease",
            Level::Quorum => "quorum",
            Level::Local => "local",
        }
    }

    /// The level of a request that names none.
    pub const fn default_for(mode: Mode) -> Level {
        match mode {
            Mode::Leader => Level::Linearizable,
            Mode::Leaderless => Level::Quorum,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Level::ALL.into_iter().find(|level| level.as_str() == text).ok_or_else(|| {
            format!("'{text}' is not a level: expected linearizable, lease, quorum or local")
        })
    }
}

/// The level that an answer was really served at; its text is the header `Quorate-Consistency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectiveLevel {
    Linearizable,
    Lease,
    Local,
    /// `local; staleness_ms=12`: shows every write acknowledged longer ago than that, in
    /// milliseconds, before the request came in.
    LocalWithin {
        staleness_ms: u64,
    },
    /// `quorum; r=2; w=2; n=3`: every answered read is held by a write quorum.
    Quorum {
        r: u16,
        w: u16,
        n: u16,
    },
    /// `eventual; r=1; w=1; n=3`: R + W ≤ N, or repair is off, so a read may miss a write.
    Eventual {
        r: u16,
        w: u16,
        n: u16,
    },
}

impl fmt::Display for EffectiveLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EffectiveLevel::Linearizable => f.write_str("linearizable"),
            EffectiveLevel::Lease => f.write_str("lease"),
            EffectiveLevel::Local => f.write_str("local"),
            EffectiveLevel::LocalWithin { staleness_ms } => {
                write!(f, "local; staleness_ms={staleness_ms}")
            }
            EffectiveLevel::Quorum { r, w, n } => write!(f, "quorum; r={r}; w={w}; n={n}"),
            EffectiveLevel::Eventual { r, w, n } => write!(f, "eventual; r={r}; w={w}; n={n}"),
        }
    }
}
