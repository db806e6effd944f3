//! Records: what a key holds.

use bytes::Bytes;

use super::Version;

/// What a key holds: content, and the version that the write which put it there was given.
///
/// How a record lies on disk and crosses the wire is the business of `storage::encoding`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub version: Version,
    pub content: Content,
}

/// A value, or the mark of a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Raw bytes as the client sent them, with the `Content-Type` it named.
    Value {
        bytes: Bytes,
        content_type: Option<String>,
        /// Milliseconds since 1970 from which the record counts as a tombstone of its version.
        expires_at_ms: Option<u64>,
    },
    /// The key was deleted at this version. Tombstones are merged like values, never skipped.
    Tombstone,
}

impl Record {
    /// The record as it counts at this time, in milliseconds since 1970: past its expiry it is a
    /// tombstone of its version.
    pub fn as_of(self, now_ms: u64) -> Record {
        match self.is_gone_at(now_ms) {
            true => Record { content: Content::Tombstone, ..self },
            false => self,
        }
    }

    /// Whether an expiry has passed, or the record marks a delete: a client sees nothing there.
    pub fn is_gone_at(&self, now_ms: u64) -> bool {
        self.is_tombstone() || self.expires_at_ms().is_some_and(|at_ms| at_ms <= now_ms)
    }

    /// When it expires, in milliseconds since 1970; `None` where it never does.
    pub fn expires_at_ms(&self) -> Option<u64> {
        match self.content {
            Content::Value { expires_at_ms, .. } => expires_at_ms,
            Content::Tombstone => None,
        }
    }

    /// Whether the record marks a delete.
    pub fn is_tombstone(&self) -> bool {
        matches!(self.content, Content::Tombstone)
    }
}
