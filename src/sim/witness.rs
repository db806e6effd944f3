//! A witness of everything that is written to the nodes' tables.
//!
//! **Why it exists.** A history shows what clients were told. A write that is applied twice, and at
//! which nobody looks between the two, is told as one that was applied once: no check of the history
//! can know. So the tables of a simulated world are watched as well, and a client's value that comes
//! to any table under two versions was written twice.
//!
//! **Does not see** deletes, which have no value that would tell one from another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::world::Shared;
use crate::history::ValueId;
use crate::storage::table::{Hooks, TableBatch, TableError};
use crate::storage::{encoding, rows};
use crate::types::{Content, Version};

/// What was written to the tables of a world; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Witness(Arc<Mutex<Written>>);

#[derive(Default)]
struct Written {
    /// Versions whose values are known.
    seen: BTreeSet<Version>,
    versions: BTreeMap<ValueId, Version>,
}

impl Witness {
    /// Takes what is written to a table; says what was written twice.
    fn take(&self, batch: &TableBatch) -> Vec<String> {
        let mut written = self.0.lock();
        let mut scratch = Vec::new();
        let mut twice = Vec::new();
        for (row, bytes) in &batch.changes {
            let (Some((_, key)), Some(bytes)) = (rows::parse_data_row(row), bytes) else {
                continue;
            };
            let Ok((version, false)) = encoding::peek(bytes) else { continue };
            if !written.seen.insert(version) {
                continue;
            }
            let record = encoding::decode(bytes).ok();
            let Some(Content::Value { bytes, .. }) = record.map(|record| record.content) else {
                continue;
            };
            let Some(value) = ValueId::of(&bytes, &mut scratch) else { continue };
            let first = *written.versions.entry(value).or_insert(version);
            if first != version {
                twice.push(format!(
                    "value {value} of {key} was written at {first} and at {version}"
                ));
            }
        }
        twice
    }
}

/// Tells the witness of everything that is written to a table.
pub(super) struct Watching(pub Shared);

impl Hooks for Watching {
    fn before_apply(&self, batch: &TableBatch) -> Result<(), TableError> {
        for sentence in self.0.witness.take(batch) {
            self.0.broken("written-twice", sentence);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Change, Key, NodeId};

    fn put(key: &str, value: ValueId, counter: u64) -> TableBatch {
        let (key, mut bytes) = (Key::new(key, 16).expect("a key"), Vec::new());
        value.fill(40, &mut bytes);
        let change = Change::Put { value: bytes.into(), content_type: None };
        let record = change.into_record(Version::new(counter, NodeId(1)));
        let mut batch = TableBatch::default();
        batch.put(rows::data_row(&key), encoding::encode(&record));
        batch
    }

    #[test]
    fn a_value_under_two_versions_is_seen_though_nobody_reads_between_them() {
        let witness = Witness::default();
        let (one, other) = (ValueId { client: 1, seq: 1 }, ValueId { client: 1, seq: 2 });
        // On every replica, and again when the log is replayed.
        for _ in 0..3 {
            assert!(witness.take(&put("a", one, 5)).is_empty());
        }
        assert!(witness.take(&put("a", other, 6)).is_empty());
        let mut both = put("a", ValueId { client: 2, seq: 1 }, 7);
        both.changes.extend(put("a", ValueId { client: 2, seq: 1 }, 8).changes);
        let [sentence] = &witness.take(&both)[..] else { panic!("one is written twice") };
        assert!(sentence.starts_with("value 2-1 of a was written at"), "{sentence}");
        assert_eq!(witness.take(&put("a", one, 9)).len(), 1, "long after");
    }
}
