//! A consistent picture of a fjall table: a snapshot, read page by page.
//!
//! The snapshot lies with the table, not with its reader, so that taking a second view lets go of the
//! first one's at once, and closing the table of both. It costs what fjall cannot merge away
//! meanwhile, and no memory, so that a view never falls too far behind the writes.

use std::sync::Weak;

use bytes::Bytes;
use fjall::{Readable as _, Snapshot};

use super::{Inner, ROWS_END, row, row_key};
use crate::storage::table::{TableError, TableView, just_after};

/// The views of a table.
#[derive(Default)]
pub(super) struct Views {
    active: Option<Snapshot>,
    /// How many were ever taken; the number of the last.
    taken: u64,
}

impl Views {
    /// Begins a view, and ends the one before; gives its number.
    pub(super) fn begin(&mut self, snapshot: Snapshot) -> u64 {
        self.active = Some(snapshot);
        self.taken += 1;
        self.taken
    }

    fn of(&self, number: u64) -> Option<&Snapshot> {
        self.active.as_ref().filter(|_| self.taken == number)
    }

    fn end(&mut self, number: u64) {
        if self.taken == number {
            self.active = None;
        }
    }
}

/// The side of a view that its reader holds; dropping it ends the view.
pub(super) struct FjallView {
    table: Weak<Inner>,
    number: u64,
    /// fjall's key of the last row that was read.
    last: Option<Vec<u8>>,
    at_end: bool,
}

impl FjallView {
    pub(super) fn new(table: Weak<Inner>, number: u64) -> FjallView {
        FjallView { table, number, last: None, at_end: false }
    }

    fn read(
        &mut self,
        table: &Inner,
        snapshot: &Snapshot,
        max_bytes: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        let from = match &self.last {
            Some(last) => just_after(last),
            None => row_key(b""),
        };
        let mut rows = snapshot.range(&table.keyspace, from..ROWS_END.to_vec());
        let (mut page, mut bytes) = (Vec::new(), 0);
        while bytes < max_bytes.max(1) {
            let Some(found) = rows.next() else {
                self.at_end = true;
                break;
            };
            let (key, value) = row(found)?;
            bytes += (key.len() + value.len()).max(1);
            page.push((key, value));
        }
        if let Some((key, _)) = page.last() {
            self.last = Some(row_key(key));
        }
        Ok(page)
    }
}

impl TableView for FjallView {
    fn next_page(&mut self, max_bytes: usize) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        if self.at_end {
            return Ok(Vec::new());
        }
        let table = self.table.upgrade().ok_or(TableError::ViewEnded)?;
        let snapshot = table.views.lock().of(self.number).cloned().ok_or(TableError::ViewEnded)?;
        let page = table.guarded(|| self.read(&table, &snapshot, max_bytes))?;
        if self.at_end {
            table.views.lock().end(self.number);
        }
        Ok(page)
    }
}

impl Drop for FjallView {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.views.lock().end(self.number);
        }
    }
}
