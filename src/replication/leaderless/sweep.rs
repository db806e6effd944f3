//! Dropping the deletions of a partition that its horizon has passed, some at a time.
//!
//! **Guarantees.** A row is dropped only where it holds a deletion of that time or before when it is
//! dropped. The replica's applier, which alone changes rows, does it between its batches: no write comes
//! between the look and the drop.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;

use super::horizons::{Horizons, due_ms};
use super::merge::put_changed;
use super::trees::ChangedRow;
use crate::storage::rows;
use crate::storage::table::{Table, TableBatch, TableError, just_after};
use crate::types::Partition;

/// Deletions looked at in one go: well under a millisecond's work.
const PAGE_ROWS: usize = 128;

/// What is to be dropped: of each partition, from which row on.
pub struct Sweeps(Mutex<BTreeMap<u8, Bytes>>);

/// What a page came to.
pub struct Swept {
    pub batch: TableBatch,
    pub changed: Vec<ChangedRow>,
}

impl Sweeps {
    /// What a stop may have left: of every partition that has a horizon.
    pub fn new(horizons: &Horizons) -> Sweeps {
        let sweeps = Sweeps(Mutex::default());
        let reached = |partition: &Partition| horizons.of(*partition).reached_ms > 0;
        Partition::all().filter(reached).for_each(|partition| sweeps.begin(partition));
        sweeps
    }

    /// Has the deletions of a partition dropped, from its first row on.
    pub fn begin(&self, partition: Partition) {
        self.0.lock().insert(partition.0, rows::collectable_range(partition).0);
    }

    /// Whether something is to be dropped.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// What goes next; `None` where nothing is left. Only the applier may call it, and has the batch applied
    /// before it does anything else.
    pub fn page(
        &self,
        table: &dyn Table,
        horizons: &Horizons,
    ) -> Result<Option<Swept>, TableError> {
        let mut sweeps = self.0.lock();
        let Some((&number, from)) = sweeps.first_key_value() else { return Ok(None) };
        let partition = Partition(number);
        let reached_ms = horizons.of(partition).reached_ms;
        let page = table.scan(from, &rows::collectable_range(partition).1, PAGE_ROWS)?;
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
            Some((last, _)) => sweeps.insert(number, just_after(last).into()),
            None => sweeps.remove(&number),
        };
        Ok(Some(swept))
    }
}
