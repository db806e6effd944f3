//! Writes, as clients ask for them and logs carry them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Content, Key, Record, Version};

/// What a write does to its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Put {
        value: Bytes,
        content_type: Option<String>,
    },
    Delete,
    /// A put that holds for a while only. Last, so that logs from before it read back.
    PutFor {
        value: Bytes,
        content_type: Option<String>,
        /// From the time of the version that the write is given, in milliseconds; at most
        /// [`MAX_TTL_MS`].
        ttl_ms: u64,
    },
}

/// The longest time that a put may ask to hold for, in milliseconds: ten years.
pub const MAX_TTL_MS: u64 = 10 * 365 * 24 * 3_600_000;

impl Change {
    /// A put, for `ttl_ms` where given.
    pub fn put(value: Bytes, content_type: Option<String>, ttl_ms: Option<u64>) -> Change {
        match ttl_ms {
            None => Change::Put { value, content_type },
            Some(ttl_ms) => Change::PutFor { value, content_type, ttl_ms },
        }
    }

    /// How long a put is to hold, in milliseconds; `None` where it does for good, and of a delete.
    fn ttl_ms(&self) -> Option<u64> {
        match self {
            Change::PutFor { ttl_ms, .. } => Some(*ttl_ms),
            Change::Put { .. } | Change::Delete => None,
        }
    }

    /// The record that the change leaves behind, under the version it was given.
    pub fn into_record(self, version: Version) -> Record {
        let expires_at_ms = self.ttl_ms().map(|ttl_ms| version.millis().saturating_add(ttl_ms));
        let content = match self {
            Change::Put { value, content_type } | Change::PutFor { value, content_type, .. } => {
                Content::Value { bytes: value, content_type, expires_at_ms }
            }
            Change::Delete => Content::Tombstone,
        };
        Record { version, content }
    }

    /// About how many bytes it takes in a log or on the wire, without what every change takes.
    pub fn about_bytes(&self) -> usize {
        match self {
            Change::Put { value, content_type } | Change::PutFor { value, content_type, .. } => {
                value.len() + content_type.as_ref().map_or(0, String::len)
            }
            Change::Delete => 0,
        }
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
    /// What makes the client's own retry safe; leader mode only.
    pub retry: Option<RetryKey>,
}

/// A client's name for a write, from `Idempotency-Key`: sent again under it, the write is applied
/// once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryKey {
    pub key: String,
    /// Of the request: a key that comes with another digest was reused by mistake.
    pub digest: u128,
    /// How long the first application is remembered, in log time; it travels with the write, so
    /// that all nodes decide alike whatever their settings are.
    pub expiry_ms: u64,
}

impl RetryKey {
    /// The longest key, in bytes.
    pub const MAX_KEY_BYTES: usize = 128;

    /// The name `name` for a write of these parts.
    pub fn of(
        name: String,
        key: &Key,
        change: &Change,
        condition: Option<&Condition>,
        expiry: std::time::Duration,
    ) -> RetryKey {
        let digest = digest(key, change, condition);
        let expiry_ms = u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX);
        RetryKey { key: name, digest, expiry_ms }
    }
}

/// A digest of all that a write does. It guards against mistakes, not against somebody who looks for
/// two requests with one digest: such a client could only fool itself.
fn digest(key: &Key, change: &Change, condition: Option<&Condition>) -> u128 {
    let mut hasher = twox_hash::xxhash3_128::Hasher::new();
    // Each part with its length, so that no two requests spell the same bytes.
    let mut part = |bytes: &[u8]| {
        hasher.write(&(bytes.len() as u64).to_le_bytes());
        hasher.write(bytes);
    };
    part(key.as_str().as_bytes());
    match change {
        Change::Put { value, content_type } | Change::PutFor { value, content_type, .. } => {
            let ttl_ms = change.ttl_ms();
            part(if ttl_ms.is_some() { b"put for" } else { b"put" });
            part(value);
            part(if content_type.is_some() { b"typed" } else { b"plain" });
            part(content_type.as_deref().unwrap_or_default().as_bytes());
            if let Some(ttl_ms) = ttl_ms {
                part(&ttl_ms.to_le_bytes());
            }
        }
        Change::Delete => part(b"delete"),
    }
    let (name, versions): (&[u8], &[Version]) = match condition {
        None => (b"always", &[]),
        Some(Condition::VersionIn(versions)) => (b"in", versions),
        Some(Condition::Exists) => (b"exists", &[]),
        Some(Condition::Absent) => (b"absent", &[]),
        Some(Condition::VersionNotIn(versions)) => (b"not in", versions),
    };
    part(name);
    versions.iter().for_each(|version| part(version.to_string().as_bytes()));
    hasher.finish_128()
}
