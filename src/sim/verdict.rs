//! What must hold at the end of a run.

use std::collections::BTreeMap;
use std::fmt;

use crate::types::{Outcome, Version};

/// A write that a client asked for, and what it was told.
#[derive(Clone, Debug)]
pub(super) struct WriteSeen {
    pub key: String,
    /// Unique to the write.
    pub value: String,
    pub outcome: Outcome,
    /// Where it was acknowledged.
    pub version: Option<Version>,
}

/// A value that a read returned, or that nothing was there.
#[derive(Clone, Debug)]
pub(super) struct ReadSeen {
    pub key: String,
    pub found: Option<(String, Version)>,
    /// Whether the read is one of those after everything had healed.
    pub at_the_end: bool,
    pub node: u16,
}

/// A promise that a run broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A read at the end shows neither an acknowledged write nor a newer version.
    Lost { key: String, value: String, version: Version, node: u16 },
    /// A read returned what nobody wrote.
    FromNowhere { key: String, value: String, node: u16 },
    /// A read returned a write that was answered `not_applied`.
    ShownAfterRefusal { key: String, value: String, node: u16 },
    /// A key could not be read through a node once everything had healed.
    NotServed { key: String, node: u16 },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Lost { key, value, version, node } => write!(
                f,
                "an acknowledged write is lost: {value} of key {key}, acknowledged at version \
                 {version}, is not there at the end, nor anything newer (read through node {node})"
            ),
            Broken::FromNowhere { key, value, node } => {
                write!(f, "node {node} returned {value} for key {key}, which nobody wrote")
            }
            Broken::ShownAfterRefusal { key, value, node } => write!(
                f,
                "node {node} returned {value} for key {key}, a write answered not_applied"
            ),
            Broken::NotServed { key, node } => {
                write!(f, "key {key} cannot be read through node {node} after everything healed")
            }
        }
    }
}

/// Holds what clients saw against the promises.
pub(super) fn judge(writes: &[WriteSeen], reads: &[ReadSeen]) -> Vec<Broken> {
    let by_value: BTreeMap<(&str, &str), &WriteSeen> =
        writes.iter().map(|write| ((write.key.as_str(), write.value.as_str()), write)).collect();
    let mut newest: BTreeMap<&str, &WriteSeen> = BTreeMap::new();
    for write in writes.iter().filter(|write| write.version.is_some()) {
        let best = newest.entry(&write.key).or_insert(write);
        if write.version > best.version {
            *best = write;
        }
    }
    let mut broken = Vec::new();
    for read in reads {
        if let Some((value, _)) = &read.found {
            let (key, value, node) = (read.key.clone(), value.clone(), read.node);
            match by_value.get(&(key.as_str(), value.as_str())) {
                None => broken.push(Broken::FromNowhere { key, value, node }),
                Some(write) if write.outcome == Outcome::NotApplied => {
                    broken.push(Broken::ShownAfterRefusal { key, value, node });
                }
                Some(_) => {}
            }
        }
        if !read.at_the_end {
            continue;
        }
        if let Some(write) = newest.get(read.key.as_str())
            && let Some(version) = write.version
            && read.found.as_ref().is_none_or(|(_, found)| *found < version)
        {
            let (key, value) = (write.key.clone(), write.value.clone());
            broken.push(Broken::Lost { key, value, version, node: read.node });
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn write(value: &str, outcome: Outcome, time: Option<u64>) -> WriteSeen {
        let version = time.map(|time| Version::new(time, NodeId(1)));
        WriteSeen { key: "k".to_owned(), value: value.to_owned(), outcome, version }
    }

    fn read(found: Option<(&str, u64)>, at_the_end: bool) -> ReadSeen {
        let found = found.map(|(value, time)| (value.to_owned(), Version::new(time, NodeId(1))));
        ReadSeen { key: "k".to_owned(), found, at_the_end, node: 2 }
    }

    #[test]
    fn a_good_run_breaks_nothing() {
        let writes = [
            write("a", Outcome::Done, Some(1)),
            write("b", Outcome::Unknown, None),
            write("c", Outcome::NotApplied, None),
        ];
        let reads = [read(None, false), read(Some(("a", 1)), false), read(Some(("b", 2)), true)];
        assert_eq!(judge(&writes, &reads), []);
    }

    #[test]
    fn each_broken_promise_is_seen() {
        let writes = [write("a", Outcome::Done, Some(5)), write("c", Outcome::NotApplied, None)];
        let kinds = |read| -> Vec<&'static str> {
            judge(&writes, &[read])
                .into_iter()
                .map(|broken| match broken {
                    Broken::Lost { .. } => "lost",
                    Broken::FromNowhere { .. } => "nowhere",
                    Broken::ShownAfterRefusal { .. } => "refused",
                    Broken::NotServed { .. } => "unserved",
                })
                .collect()
        };
        assert_eq!(kinds(read(None, true)), ["lost"]);
        assert_eq!(kinds(read(Some(("x", 9)), false)), ["nowhere"]);
        assert_eq!(kinds(read(Some(("c", 9)), false)), ["refused"]);
        assert_eq!(kinds(read(Some(("a", 4)), true)), ["lost"]);
    }
}
