//! Dropping the deletions of a partition that its horizon has passed, some at a time.
//!
//! **Guarantees.** A row is dropped only where it holds a deletion of that time or before when it is
//! dropped. The replica's applier, which alone changes rows, does it between its batches: no write comes
//! between the look and the drop. It goes by horizons that are merged as writes are, in the order of the log:
//! what was checked against the one before is in the table by then.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::Mutex;

use super::horizons::{Change, Horizons, due_ms};
use super::merge::put_changed;
use super::trees::ChangedRow;
use crate::storage::rows;
use crate::storage::table::{Table, TableBatch, TableError, just_after};
use crate::types::Partition;

/// Deletions looked at in one go: well under a millisecond's work.
const PAGE_ROWS: usize = 128;

/// What is to be dropped.
pub struct Sweeps(Mutex<State>);

#[derive(Default)]
struct State {
    sweeps: BTreeMap<u8, Sweep>,
    /// Up to when the deletions of a partition were, or are, dropped.
    begun: BTreeMap<u8, u64>,
    /// Whose turn it was last.
    last: u8,
}

/// Of one partition, what is from `reached_ms` or before, from this row on.
struct Sweep {
    from: Bytes,
    reached_ms: u64,
}

/// What a page came to.
pub struct Swept {
    pub batch: TableBatch,
    pub changed: Vec<ChangedRow>,
}

impl Sweeps {
    /// What a stop may have left: of every partition that has a horizon.
    pub fn new(horizons: &Horizons) -> Sweeps {
        let sweeps = Sweeps(Mutex::default());
        Partition::all().for_each(|partition| sweeps.begin((partition, horizons.of(partition))));
        sweeps
    }

    /// Has the deletions of a partition dropped, from its first row on, where more of them may be. Only the
    /// applier may call it, once the horizon is merged.
    pub fn begin(&self, (partition, horizon): Change) {
        let mut state = self.0.lock();
        let begun = state.begun.entry(partition.0).or_default();
        if horizon.reached_ms > *begun {
            *begun = horizon.reached_ms;
            let from = rows::collectable_range(partition).0;
            state.sweeps.insert(partition.0, Sweep { from, reached_ms: horizon.reached_ms });
        }
    }

    /// Whether something is to be dropped.
    pub fn is_empty(&self) -> bool {
        self.0.lock().sweeps.is_empty()
    }

    /// What goes next; `None` where nothing is left. Only the applier may call it, and has the batch applied
    /// before it does anything else.
    pub fn page(&self, table: &dyn Table) -> Result<Option<Swept>, TableError> {
        let state = &mut *self.0.lock();
        // In turn, so that a partition with many does not keep the others waiting.
        let later = (Bound::Excluded(state.last), Bound::Unbounded);
        let next = state.sweeps.range(later).next().or_else(|| state.sweeps.first_key_value());
        let Some((&number, &Sweep { ref from, reached_ms })) = next else { return Ok(None) };
        state.last = number;
        let page = table.scan(from, &rows::collectable_range(Partition(number)).1, PAGE_ROWS)?;
        let mut swept = Swept { batch: TableBatch::default(), changed: Vec::new() };
        for (row, due) in &page {
            let damaged = || TableError::Damaged("a row that says what is deleted".to_owned());
            let due = <[u8; 8]>::try_from(due.as_ref()).map_err(|_| damaged())?;
            if u64::from_be_bytes(due) > reached_ms {
                continue;
            }
            let row = rows::data_row_of_collectable(row).ok_or_else(damaged)?;
            let was = table.get(&row)?;
            let due = was.as_ref().map(|record| due_ms(record)).transpose();
            let due = due.map_err(|error| TableError::Damaged(error.to_string()))?.flatten();
            if due.is_some_and(|due| due <= reached_ms) {
                let changed = ChangedRow { row, was, now: None };
                put_changed(&mut swept.batch, &changed)?;
                swept.changed.push(changed);
            }
        }
        match page.last().filter(|_| page.len() == PAGE_ROWS) {
            Some((last, _)) => {
                let from = just_after(last).into();
                state.sweeps.insert(number, Sweep { from, reached_ms })
            }
            None => state.sweeps.remove(&number),
        };
        Ok(Some(swept))
    }
}
