//! Histories: what every client asked and was told, one line an operation.
//!
//! A history is the evidence; the checks in `check` and every figure of the report are
//! computed from histories, and anyone can compute them again from the files.
//!
//! ## The file format, version 2
//!
//! JSON lines. The first line is the header:
//!
//! ```text
//! {"what":"quorate-history","format":2,"mode":"leader","experiment":"killed-node","seed":42,"nodes":3}
//! ```
//!
//! Every other line is one operation, in the order of `invoked_us`:
//!
//! | field | meaning |
//! | --- | --- |
//! | `client` | who asked; a client has one request under way at a time, and the operations of a batch, each of another key, are one |
//! | `op` | `put`, `get`, `delete` or `list` |
//! | `key` | the key; of a list, the prefix |
//! | `value` | the name of the value written or read (`3-120`); absent where a read found nothing; `?` and some of the bytes where a read showed what no client of this kind writes |
//! | `invoked_us`, `answered_us` | microseconds on one clock, just before the first byte was sent and just after the answer was read or given up |
//! | `outcome` | `ok`; `failed`: definitely nothing happened; `unknown`: it may have, or may yet |
//! | `node` | the node that was asked |
//! | `level` | the consistency level asked for, and `r` where the request named one |
//! | `served` | the level that the answer says was served, where it says so |
//! | `version` | the version in the answer's `ETag` |
//! | `superseded` | the newer version that an acknowledged write lost to |
//! | `status` | the HTTP status; 0 where there was no answer |
//! | `if_match` | of a write: it was to happen only where the key held this version (`If-Match`) |
//! | `if_absent` | `true` for a write that was to happen only where the key held nothing (`If-None-Match: *`) |
//! | `items` | of an answered list: the keys it showed, in order, each with `key`, `version` and `value` as above |
//! | `more` | `true` for a list that ended before the last key with the prefix |
//! | `after` | of a list: the page went on after this key, as a cursor does |
//! | `max_staleness_ms` | of a read at `local`: it was to show every write acknowledged longer ago than that |
//! | `readback` | `true` for the reads at the end, after everything has settled |
//!
//! A reader must ignore fields it does not know. A change that such a reader would misread raises
//! `format`. Format 1 had no `after`; it is still read.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::{EffectiveLevel, Key, Level, Mode, Version};

mod file;
mod seeded;
mod value;

pub use file::HistoryError;
pub use seeded::Seeded;
pub use value::ValueId;

/// The version of the file format that this code writes.
pub const FORMAT: u32 = 2;
/// The oldest version that it reads.
const OLDEST_FORMAT: u32 = 1;
/// The first line says that the file is a history.
const WHAT: &str = "quorate-history";

/// The first line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    what: String,
    format: u32,
    pub mode: Mode,
    pub experiment: String,
    pub seed: u64,
    pub nodes: u16,
}

impl Header {
    /// A header of the current format.
    pub fn new(mode: Mode, experiment: &str, seed: u64, nodes: u16) -> Header {
        let experiment = experiment.to_owned();
        Header { what: WHAT.to_owned(), format: FORMAT, mode, experiment, seed, nodes }
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Put,
    Get,
    Delete,
    /// Reads one page of the keys with a prefix.
    List,
}

impl Action {
    /// Whether it writes.
    pub fn is_write(self) -> bool {
        matches!(self, Action::Put | Action::Delete)
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Action::Put => "put",
            Action::Get => "get",
            Action::Delete => "delete",
            Action::List => "list",
        })
    }
}

/// What the client may conclude.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// Done and acknowledged.
    Ok,
    /// Definitely nothing happened. Every read that was not answered ends so.
    Failed,
    /// A write that may have happened, or may yet happen.
    Unknown,
}

/// A value as a history names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// One that a client of this kind writes.
    Named(ValueId),
    /// Bytes that no client of this kind writes: the beginning of them.
    Foreign(String),
}

impl Value {
    /// How many bytes of a foreign value are kept.
    const FOREIGN_BYTES: usize = 32;

    /// The value with these bytes.
    pub fn of(bytes: &[u8], scratch: &mut Vec<u8>) -> Value {
        match ValueId::of(bytes, scratch) {
            Some(id) => Value::Named(id),
            None => {
                let start = &bytes[..bytes.len().min(Self::FOREIGN_BYTES)];
                Value::Foreign(String::from_utf8_lossy(start).into_owned())
            }
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Named(id) => id.fmt(f),
            Value::Foreign(start) => write!(f, "?{start}"),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix('?') {
            Some(start) => Ok(Value::Foreign(start.to_owned())),
            None => text.parse().map(Value::Named).map_err(serde::de::Error::custom),
        }
    }
}

/// One operation. The module documentation says what each field means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Op {
    pub client: u32,
    #[serde(rename = "op")]
    pub action: Action,
    pub key: Key,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    pub invoked_us: u64,
    pub answered_us: u64,
    #[serde(rename = "outcome")]
    pub ended: Ended,
    pub node: u16,
    pub level: Level,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub served: Option<Served>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub version: Option<Version>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub superseded: Option<Version>,
    pub status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub if_match: Option<Version>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub if_absent: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<Item>>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Key>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_staleness_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub readback: bool,
}

/// One key that a list showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub key: Key,
    #[serde(with = "as_text::always")]
    pub version: Version,
    /// Absent where the list was asked for keys alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Op {
    /// An operation that was just asked for: not answered yet, so a write's outcome is unknown and
    /// a read has failed.
    pub fn begun(
        client: u32,
        action: Action,
        key: Key,
        node: u16,
        level: Level,
        invoked_us: u64,
    ) -> Op {
        Op {
            client,
            action,
            key,
            value: None,
            invoked_us,
            answered_us: invoked_us,
            ended: if action.is_write() { Ended::Unknown } else { Ended::Failed },
            node,
            level,
            r: None,
            served: None,
            version: None,
            superseded: None,
            status: 0,
            if_match: None,
            if_absent: false,
            items: None,
            more: false,
            after: None,
            max_staleness_ms: None,
            readback: false,
        }
    }

    /// Whether it was to happen only under a condition.
    pub fn is_conditional(&self) -> bool {
        self.if_match.is_some() || self.if_absent
    }

    /// The level asked for, as reports group reads by it: `quorum`, or `quorum r=1`.
    pub fn asked(&self) -> String {
        match self.r {
            None if self.max_staleness_ms.is_some() => format!("{} max_staleness", self.level),
            None => self.level.to_string(),
            Some(r) => format!("{} r={r}", self.level),
        }
    }

    /// Whether this is an answered read of one key.
    pub fn is_answered_read(&self) -> bool {
        self.action == Action::Get && self.ended == Ended::Ok
    }

    /// Whether this is an acknowledged write.
    pub fn is_acknowledged_write(&self) -> bool {
        self.action.is_write() && self.ended == Ended::Ok
    }
}

/// The level an answer says it was served at: the text form of [`EffectiveLevel`], read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served(pub EffectiveLevel);

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Served {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split("; ");
        let name = parts.next().unwrap_or_default();
        let mut number = |label: &str| {
            let value = parts.next()?.strip_prefix(label)?.strip_prefix('=')?;
            value.parse::<u16>().ok()
        };
        let level = match name {
            "linearizable" => Some(EffectiveLevel::Linearizable),
            "lease" => Some(EffectiveLevel::Lease),
            "local" => match parts.next().map(|bound| bound.strip_prefix("staleness_ms=")) {
                None => Some(EffectiveLevel::Local),
                Some(bound) => bound
                    .and_then(|ms| ms.parse().ok())
                    .map(|staleness_ms| EffectiveLevel::LocalWithin { staleness_ms }),
            },
            "quorum" | "eventual" => match (number("r"), number("w"), number("n")) {
                (Some(r), Some(w), Some(n)) if name == "quorum" => {
                    Some(EffectiveLevel::Quorum { r, w, n })
                }
                (Some(r), Some(w), Some(n)) => Some(EffectiveLevel::Eventual { r, w, n }),
                _ => None,
            },
            _ => None,
        };
        level.map(Served).ok_or_else(|| format!("'{text}' is not a served level"))
    }
}

/// Optional fields whose JSON form is their text.
mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    /// The same for fields that are always there.
    pub mod always {
        use std::fmt::Display;
        use std::str::FromStr;

        use serde::{Deserialize, Deserializer, Serializer};

        pub fn serialize<T: Display, S: Serializer>(
            value: &T,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            serializer.collect_str(value)
        }

        pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
        where
            T: FromStr,
            T::Err: Display,
            D: Deserializer<'de>,
        {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        }
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr,
        T::Err: Display,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

/// A whole history.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    pub header: Header,
    pub ops: Vec<Op>,
}

impl History {
    /// A history of `ops`, put in the order in which they were invoked.
    pub fn new(header: Header, mut ops: Vec<Op>) -> History {
        ops.sort_by_key(|op| (op.invoked_us, op.client));
        History { header, ops }
    }
}

#[cfg(test)]
mod tests;
