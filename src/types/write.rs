//! Writes, as clients ask for them and logs carry them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Content, Key, Record, Version};

/// What a write does to its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Put { value: Bytes, content_type: Option<String> },
    Delete,
}

impl Change {
    /// The record that the change leaves behind, under the version it was given.
    pub fn into_record(self, version: Version) -> Record {
        let content = match self {
            Change::Put { value, content_type } => {
                Content::Value { bytes: value, content_type, expires_at_ms: None }
            }
            Change::Delete => Content::Tombstone,
        };
        Record { version, content }
    }
}

/// A condition on what a key holds, from `If-Match` and `If-None-Match`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// `If-Match: "v"`: the key holds a value at one of these versions.
    VersionIn(Vec<Version>),
    /// `If-Match: *`: the key holds a value.
    Exists,
    /// `If-None-Match: *`: the key holds no value.
    Absent,
    /// `If-None-Match: "v"`: the key holds no value at any of these versions.
    VersionNotIn(Vec<Version>),
}

impl Condition {
    /// Whether the condition holds; `current` is the version of the value that the key holds, `None`
    /// where it holds nothing or a tombstone.
    pub fn holds(&self, current: Option<Version>) -> bool {
        match self {
            Condition::VersionIn(versions) => current.is_some_and(|v| versions.contains(&v)),
            Condition::Exists => current.is_some(),
            Condition::Absent => current.is_none(),
            Condition::VersionNotIn(versions) => current.is_none_or(|v| !versions.contains(&v)),
        }
    }
}

/// A write of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    pub key: Key,
    pub change: Change,
    pub condition: Option<Condition>,
}
