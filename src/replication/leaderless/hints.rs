//! Hints: what a coordinator keeps for a replica that it could not write to.
//!
//! **Why it exists.** A replica that was away for a moment should have what it missed soon after it is
//! back, without comparing anything. DeCandia et al., "Dynamo: Amazon's Highly Available Key-value
//! Store" (2007), section 4.6; but here a hint never counts as an acknowledgement.
//!
//! **Guarantees.** A hint that was kept is sent until the replica took it or has something newer. It
//! is sent as the write that it was, so that it brings back nothing that a newer write replaced.
//!
//! **Does not guarantee** that every missed write is hinted: beyond [`Hints::limit_bytes`], or where they
//! come faster than they can be kept, hints are dropped and counted, and a user's write never fails
//! for it. A crash may lose the last ones. Comparing replicas finds what hints do not bring.
//!
//! **Where they lie.** In the table, by the replica and then the key, the newest of each key alone. They
//! are not in the commit log: it would be a second write to disk for each.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::storage::encoding;
use crate::storage::rows;
use crate::storage::table::{Table, TableBatch, TableError, just_after, on_a_task};
use crate::telemetry::Metrics;
use crate::types::{Key, NodeId};

/// Hints that wait to be kept; more are dropped. As many as may wait for one replica.
const MAX_WAITING: usize = 8_192;

/// Hints kept in one batch of the table.
const BATCH: usize = 512;

/// Hints read and sent at once, in number and about in bytes: a small part of what may queue for a
/// peer, so that clients' writes keep their place.
const PAGE: usize = 64;
const PAGE_BYTES: usize = 4 << 20;

/// What a row of a hint takes beside its key and record, in bytes.
const ROW_BYTES: usize = 16;

/// A write that a replica has missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    pub to: NodeId,
    pub key: Key,
    /// The encoded record.
    pub record: Bytes,
}

impl Hint {
    fn bytes(&self) -> u64 {
        (ROW_BYTES + self.key.as_str().len() + self.record.len()) as u64
    }
}

/// The hints of one node.
pub struct Hints {
    table: Arc<dyn Table>,
    metrics: Metrics,
    limit_bytes: u64,
    state: Mutex<State>,
    /// Held while rows are read and changed by what was read.
    changing: Mutex<()>,
    noted: Notify,
}

#[derive(Default)]
struct State {
    /// Those not in the table yet.
    waiting: Vec<Hint>,
    /// Bytes of all, those that wait included, for each replica.
    kept: BTreeMap<NodeId, u64>,
    /// Where the next page for a replica begins: see [`Hints::page`].
    next_row: BTreeMap<NodeId, Bytes>,
}

impl State {
    fn total(&self) -> u64 {
        self.kept.values().sum()
    }
}

impl Hints {
    /// What the table keeps; `limit_bytes` is the setting `leaderless.hint_bytes`.
    pub fn open(
        table: Arc<dyn Table>,
        metrics: Metrics,
        limit_bytes: u64,
    ) -> Result<Hints, TableError> {
        let mut state = State::default();
        let (mut from, to) = rows::hint_range();
        loop {
            let page = table.scan(&from, &to, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            from = just_after(last).into();
            for (row, record) in &page {
                let hint = hint(row, record)?;
                *state.kept.entry(hint.to).or_default() += hint.bytes();
            }
        }
        let (state, changing, noted) = (Mutex::new(state), Mutex::new(()), Notify::new());
        let hints = Hints { table, metrics, limit_bytes, state, changing, noted };
        hints.show(hints.state.lock().total());
        Ok(hints)
    }

    /// Notes that `to` has missed a write. Never waits: what there is no room for is dropped.
    pub fn note(&self, to: NodeId, key: &Key, record: &Bytes) {
        let hint = Hint { to, key: key.clone(), record: record.clone() };
        let mut state = self.state.lock();
        let room = self.limit_bytes.saturating_sub(state.total());
        if state.waiting.len() >= MAX_WAITING || hint.bytes() > room {
            drop(state);
            self.metrics.hints_dropped.inc();
            return;
        }
        *state.kept.entry(to).or_default() += hint.bytes();
        state.waiting.push(hint);
        self.show(state.total());
        drop(state);
        self.metrics.hints_kept.inc();
        self.noted.notify_one();
    }

    /// Writes what was noted to the table, for as long as the node runs; ends where the table fails.
    pub async fn keep(&self) -> TableError {
        loop {
            self.noted.notified().await;
            if let Err(error) = self.flush().await {
                return error;
            }
        }
    }

    /// Writes what was noted to the table.
    pub async fn flush(&self) -> Result<(), TableError> {
        while let Some(batch) = self.take_waiting() {
            on_a_task(&*self.table, || self.store(batch))?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn take_waiting(&self) -> Option<Vec<Hint>> {
        let mut state = self.state.lock();
        let count = state.waiting.len().min(BATCH);
        (count > 0).then(|| state.waiting.drain(..count).collect())
    }

    fn store(&self, hints: Vec<Hint>) -> Result<(), TableError> {
        let _changing = self.changing.lock();
        let mut newest = BTreeMap::<Bytes, Hint>::new();
        for hint in hints {
            let row = rows::hint_row(hint.to, &hint.key);
            let held = match newest.remove(&row) {
                Some(held) => Some(held),
                None => self.table.get(&row)?.map(|record| Hint { record, ..hint.clone() }),
            };
            let (keeps, goes) = match held {
                Some(held) if is_newer(&held.record, &hint.record)? => (held, Some(hint)),
                Some(held) => (hint, Some(held)),
                None => (hint, None),
            };
            goes.iter().for_each(|gone| self.forget_bytes(gone));
            newest.insert(row, keeps);
        }
        let mut batch = TableBatch::default();
        newest.into_iter().for_each(|(row, hint)| batch.put(row, hint.record));
        self.table.apply(batch)
    }

    /// The next hints for a replica, about as many as go out at once; empty where there are none.
    ///
    /// Pages go through all of a replica's hints and then begin again with what was not taken. Were each
    /// to begin with the first, it would pass all that were removed before: a table that keeps a mark
    /// for what was removed reads those marks, so that each page would take longer than the one before.
    pub fn page(&self, to: NodeId) -> Result<Vec<Hint>, TableError> {
        let (first, end) = rows::hint_range_of(to);
        let next_row = self.state.lock().next_row.remove(&to);
        on_a_task(&*self.table, || {
            if let Some(next_row) = next_row {
                let page = self.page_from(to, &next_row, &end)?;
                if !page.is_empty() {
                    return Ok(page);
                }
            }
            self.page_from(to, &first, &end)
        })
    }

    fn page_from(&self, to: NodeId, from: &Bytes, end: &Bytes) -> Result<Vec<Hint>, TableError> {
        let (mut page, mut bytes) = (Vec::new(), 0);
        for row in self.table.scan_keys(from, end, PAGE)? {
            let Some(record) = self.table.get(&row)? else { continue };
            bytes += record.len();
            page.push(hint(&row, &record)?);
            if bytes >= PAGE_BYTES || page.len() == PAGE {
                self.state.lock().next_row.insert(to, just_after(&row).into());
                break;
            }
        }
        Ok(page)
    }

    /// Forgets hints that arrived; one that was replaced by a newer meanwhile stays.
    pub fn arrived(&self, hints: &[Hint]) -> Result<(), TableError> {
        on_a_task(&*self.table, || {
            let _changing = self.changing.lock();
            let mut batch = TableBatch::default();
            for hint in hints {
                let row = rows::hint_row(hint.to, &hint.key);
                if self.table.get(&row)?.is_some_and(|held| held == hint.record) {
                    batch.remove(row);
                    self.forget_bytes(hint);
                }
            }
            self.table.apply(batch)
        })
    }

    /// The replicas that there are hints for.
    pub fn receivers(&self) -> Vec<NodeId> {
        let state = self.state.lock();
        state.kept.iter().filter(|(_, bytes)| **bytes > 0).map(|(node, _)| *node).collect()
    }

    /// Bytes of hints for a replica.
    pub fn bytes_for(&self, to: NodeId) -> u64 {
        self.state.lock().kept.get(&to).copied().unwrap_or_default()
    }

    fn forget_bytes(&self, hint: &Hint) {
        let mut state = self.state.lock();
        if let Some(kept) = state.kept.get_mut(&hint.to) {
            *kept = kept.saturating_sub(hint.bytes());
        }
        self.show(state.total());
    }

    fn show(&self, bytes: u64) {
        self.metrics.hint_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

fn hint(row: &[u8], record: &Bytes) -> Result<Hint, TableError> {
    let damaged = || TableError::Damaged("a row of a hint".to_owned());
    let (to, key) = rows::parse_hint_row(row).ok_or_else(damaged)?;
    encoding::check(record).map_err(|_| damaged())?;
    Ok(Hint { to, key, record: record.clone() })
}

fn is_newer(held: &[u8], than: &[u8]) -> Result<bool, TableError> {
    let order = encoding::compare(held, than);
    order.map(|order| order.is_ge()).map_err(|error| TableError::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::SimDisk;
    use crate::storage::table::MemoryTable;
    use crate::types::{Content, Record, Version};

    fn table() -> Arc<dyn Table> {
        Arc::new(MemoryTable::open(Arc::new(SimDisk::new(1)), "table").expect("a table"))
    }

    fn hints(table: &Arc<dyn Table>, limit_bytes: u64) -> Hints {
        Hints::open(table.clone(), Metrics::new(), limit_bytes).expect("hints")
    }

    fn key(number: usize) -> Key {
        Key::new(&format!("key-{number:04}"), 64).expect("a key")
    }

    fn record(time: u64) -> Bytes {
        let version = Version::new(time, NodeId(1));
        encoding::encode(&Record { version, content: Content::Tombstone })
    }

    fn store(hints: &Hints) {
        while let Some(batch) = hints.take_waiting() {
            hints.store(batch).expect("stored");
        }
    }

    #[test]
    fn hints_are_kept_by_replica_newest_first_and_outlive_a_restart() {
        let table = table();
        let first = hints(&table, 1 << 20);
        for (to, number, time) in [(2, 1, 5), (3, 1, 6), (2, 2, 7), (2, 1, 9), (2, 1, 8)] {
            first.note(NodeId(to), &key(number), &record(time));
        }
        store(&first);
        first.note(NodeId(2), &key(1), &record(3));
        store(&first);
        let again = hints(&table, 1 << 20);
        for hints in [&first, &again] {
            let held: Vec<_> = hints.page(NodeId(2)).expect("a page");
            let expected = [(key(1), record(9)), (key(2), record(7))];
            assert_eq!(
                held.iter().map(|h| (h.key.clone(), h.record.clone())).collect::<Vec<_>>(),
                expected
            );
            assert_eq!(hints.page(NodeId(3)).expect("a page").len(), 1);
            assert_eq!(hints.bytes_for(NodeId(2)), 2 * Hint::bytes(&held[0]));
        }
    }

    #[test]
    fn what_arrived_is_forgotten_unless_a_newer_took_its_place() {
        let table = table();
        let hints = hints(&table, 1 << 20);
        (0..3).for_each(|number| hints.note(NodeId(2), &key(number), &record(5)));
        store(&hints);
        let sent = hints.page(NodeId(2)).expect("a page");
        hints.note(NodeId(2), &key(1), &record(6));
        store(&hints);
        hints.arrived(&sent).expect("forgotten");
        let left = hints.page(NodeId(2)).expect("a page");
        assert_eq!(left.iter().map(|hint| hint.record.clone()).collect::<Vec<_>>(), [record(6)]);
        hints.arrived(&left).expect("forgotten");
        assert_eq!((hints.page(NodeId(2)).expect("none"), hints.bytes_for(NodeId(2))), (vec![], 0));
    }

    #[test]
    fn pages_go_on_where_the_last_ended_and_begin_again_with_what_was_not_taken() {
        let table = table();
        let hints = hints(&table, 1 << 20);
        let all = 2 * PAGE + 3;
        (0..all).for_each(|number| hints.note(NodeId(2), &key(number), &record(5)));
        store(&hints);
        let page = || {
            let page = hints.page(NodeId(2)).expect("a page");
            page.into_iter().map(|hint| hint.key).collect::<Vec<_>>()
        };
        let keys = |from: usize, to: usize| (from..to).map(key).collect::<Vec<_>>();
        for _ in 0..2 {
            assert_eq!(page(), keys(0, PAGE));
            assert_eq!(page(), keys(PAGE, 2 * PAGE));
            assert_eq!(page(), keys(2 * PAGE, all));
        }
        page();
        let rest = hints.page(NodeId(2)).expect("a page");
        hints.arrived(&rest).expect("forgotten");
        let rest = hints.page(NodeId(2)).expect("a page");
        hints.arrived(&rest).expect("forgotten");
        assert_eq!(page(), keys(0, PAGE), "what was not taken is next, and never skipped");
    }

    #[test]
    fn what_there_is_no_room_for_is_dropped_and_counted() {
        let table = table();
        let one = Hint { to: NodeId(2), key: key(0), record: record(1) }.bytes();
        let hints = hints(&table, 3 * one);
        (0..5).for_each(|number| hints.note(NodeId(2), &key(number), &record(5)));
        assert_eq!((hints.metrics.hints_kept.get(), hints.metrics.hints_dropped.get()), (3, 2));
        store(&hints);
        assert_eq!(hints.page(NodeId(2)).expect("a page").len(), 3);
        hints.arrived(&hints.page(NodeId(2)).expect("a page")).expect("forgotten");
        hints.note(NodeId(2), &key(7), &record(5));
        assert_eq!(hints.metrics.hints_kept.get(), 4, "there is room again");
        let hints = Hints { limit_bytes: u64::MAX, ..hints };
        (0..=MAX_WAITING).for_each(|number| hints.note(NodeId(2), &key(number), &record(5)));
        assert_eq!(hints.metrics.hints_dropped.get(), 4, "they came faster than they are kept");
    }
}
