//! What was applied and is not in the inner table yet, and how scans see both as one table.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::super::{TableBatch, TableError, just_after};

/// What a row costs beyond its bytes: its share of a node of the map, and two handles.
const ROW_BYTES: usize = 128;

/// How many changes a scan copies at once while it holds the lock: at least enough to pass over a
/// run of removed rows quickly, at most what holds up a writer for some tens of microseconds.
const MIN_CHANGES: usize = 64;
const MAX_CHANGES: usize = 1_024;

/// A row as it is to become; `None` removes.
type Change = (Bytes, Option<Bytes>);

/// The last change of each row that was changed.
#[derive(Default)]
pub(super) struct Layer {
    changes: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

impl Layer {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether it holds `rows` rows or `bytes` bytes, or more.
    pub(super) fn reaches(&self, rows: usize, bytes: usize) -> bool {
        self.changes.len() >= rows || self.bytes >= bytes
    }

    pub(super) fn take(&mut self, batch: TableBatch) {
        for (key, value) in batch.changes {
            let key_bytes = ROW_BYTES + key.len();
            self.bytes += value.as_ref().map_or(0, Bytes::len);
            match self.changes.insert(key, value) {
                None => self.bytes += key_bytes,
                Some(old) => self.bytes -= old.as_ref().map_or(0, Bytes::len),
            }
        }
    }

    pub(super) fn to_batch(&self) -> TableBatch {
        let changes = self.changes.iter().map(|(key, value)| (key.clone(), value.clone()));
        TableBatch { changes: changes.collect() }
    }

    fn range(&self, from: &[u8], to: &[u8]) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        // `BTreeMap::range` panics where the bounds are the wrong way round.
        let range = (Bound::Included(from), Bound::Excluded(to.max(from)));
        self.changes.range::<[u8], _>(range)
    }
}

/// The two layers over the inner table.
#[derive(Default)]
pub(super) struct Layers {
    /// What is applied goes in here.
    pub(super) active: Layer,
    /// What is being written to the inner table.
    pub(super) frozen: Option<Arc<Layer>>,
    /// How often the active layer was frozen.
    pub(super) freezes: u64,
    /// Why writing to the inner table failed; nothing is known after that.
    pub(super) failed: Option<TableError>,
}

impl Layers {
    pub(super) fn check(&self) -> Result<(), TableError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// How many frozen layers are in the inner table.
    pub(super) fn flushes(&self) -> u64 {
        self.freezes - u64::from(self.frozen.is_some())
    }

    /// Call only while nothing is frozen.
    pub(super) fn freeze(&mut self) -> Arc<Layer> {
        let frozen = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(frozen.clone());
        self.freezes += 1;
        frozen
    }

    /// The last change of a row; `None` where the inner table has the row as it is.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.changes.get(key));
        self.active.changes.get(key).or_else(frozen)
    }

    /// The first `limit` changes in a range, in order.
    fn changes(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Change> {
        let mut newer = self.active.range(from, to).peekable();
        let frozen = self.frozen.iter();
        let mut older = frozen.flat_map(|frozen| frozen.range(from, to)).peekable();
        let mut changes = Vec::new();
        while changes.len() < limit {
            let older_first = match (newer.peek(), older.peek()) {
                (Some((new, _)), Some((old, _))) if new == old => {
                    older.next();
                    false
                }
                (Some((new, _)), Some((old, _))) => old < new,
                (newer, _) => newer.is_none(),
            };
            let next = if older_first { older.next() } else { newer.next() };
            let Some((key, value)) = next else { break };
            changes.push((key.clone(), value.clone()));
        }
        changes
    }

    /// The changes of a range that a scan for `wanted` rows looks at first.
    pub(super) fn window(&self, from: &[u8], to: &[u8], wanted: usize) -> Window {
        let limit = wanted.clamp(MIN_CHANGES, MAX_CHANGES);
        let changes = self.changes(from, to, limit);
        let last = changes.last().filter(|_| changes.len() == limit);
        let end = last.map_or_else(|| to.to_vec(), |(key, _)| just_after(key));
        Window { changes, end }
    }
}

/// All changes from where a scan is to `end` (exclusive).
pub(super) struct Window {
    changes: Vec<Change>,
    pub(super) end: Vec<u8>,
}

impl Window {
    /// How many rows of the inner table are surely enough for `wanted` rows of the whole.
    pub(super) fn inner_rows(&self, wanted: usize) -> usize {
        let removed = self.changes.iter().filter(|(_, value)| value.is_none()).count();
        wanted.saturating_add(removed)
    }

    /// Puts the changes over the inner table's rows of the same range, of which at most `limit` were
    /// asked for, and returns up to where the rows are complete.
    pub(super) fn over<R: Row>(
        mut self,
        inner: Vec<R>,
        limit: usize,
        rows: &mut Vec<R>,
    ) -> Vec<u8> {
        if let Some(last) = inner.last().filter(|_| inner.len() >= limit) {
            self.end = just_after(last.key());
        }
        let end = &self.end[..];
        let mut changes = self.changes.into_iter().take_while(|(key, _)| key[..] < *end).peekable();
        for row in inner {
            if !push_up_to(row.key(), &mut changes, rows) {
                rows.push(row);
            }
        }
        rows.extend(changes.filter_map(|(key, value)| Some(R::new(key, value?))));
        self.end
    }
}

/// Pushes the changes up to `key`, and says whether one was of `key` itself.
fn push_up_to<R: Row>(
    key: &Bytes,
    changes: &mut Peekable<impl Iterator<Item = Change>>,
    rows: &mut Vec<R>,
) -> bool {
    let mut changed = false;
    while let Some((next, value)) = changes.next_if(|(next, _)| next <= key) {
        changed = next == *key;
        rows.extend(value.map(|value| R::new(next, value)));
    }
    changed
}

/// What a scan gives for a row.
pub(super) trait Row {
    fn new(key: Bytes, value: Bytes) -> Self;
    fn key(&self) -> &Bytes;
}

impl Row for (Bytes, Bytes) {
    fn new(key: Bytes, value: Bytes) -> (Bytes, Bytes) {
        (key, value)
    }

    fn key(&self) -> &Bytes {
        &self.0
    }
}

impl Row for Bytes {
    fn new(key: Bytes, _: Bytes) -> Bytes {
        key
    }

    fn key(&self) -> &Bytes {
        self
    }
}
