//! A consistent picture of a sled table while writes go on.
//!
//! sled has no snapshots. So while a view is active, every apply first keeps the *old* row of each
//! key that it changes ahead of the view's cursor; the view reads today's rows and puts the kept ones
//! over them. Rows behind the cursor were read already and are not kept. What is kept is bounded: a
//! view that falls too far behind the writes is ended, rather than the writes be held up.
//!
//! Apply and the pages of a view exclude each other by one lock, so a page sees whole batches.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Weak;

use bytes::Bytes;

use super::{Inner, rows};
use crate::storage::table::{TableBatch, TableError, TableView};

/// What a kept row costs beyond its bytes: the map's entry and two handles.
const ENTRY_BYTES: u64 = 128;

/// The views of a table.
#[derive(Default)]
pub(super) struct Views {
    pub(super) active: Option<ActiveView>,
    /// How many were ever taken; the number of the last.
    pub(super) taken: u64,
}

/// The side of a view that apply sees.
pub(super) struct ActiveView {
    number: u64,
    /// The last key that was read; everything up to it is done with.
    cursor: Option<Bytes>,
    /// For keys changed since the view began: the row as it was then, `None` where there was none.
    overlay: BTreeMap<Bytes, Option<Bytes>>,
    kept_bytes: u64,
    overrun: bool,
}

impl ActiveView {
    pub(super) fn new(number: u64) -> ActiveView {
        let overlay = BTreeMap::new();
        ActiveView { number, cursor: None, overlay, kept_bytes: 0, overrun: false }
    }

    /// Keeps what `batch` is about to change. Call before it is applied.
    pub(super) fn keep_old_rows(
        &mut self,
        table: &Inner,
        batch: &TableBatch,
    ) -> Result<(), TableError> {
        for (key, _) in &batch.changes {
            if self.overrun {
                return Ok(());
            }
            let behind = self.cursor.as_ref().is_some_and(|cursor| key <= cursor);
            if behind || self.overlay.contains_key(key) {
                continue;
            }
            let old = rows::get(&table.db, key)?;
            // A batch's keys may be slices of a large message, which keeping one would keep alive.
            let key = Bytes::copy_from_slice(key);
            self.kept_bytes += entry_bytes(&key, &old);
            self.overlay.insert(key, old);
            if self.kept_bytes > table.overlay_bytes {
                self.overrun = true;
                self.overlay = BTreeMap::new();
            }
        }
        Ok(())
    }

    fn next_page(&mut self, db: &sled::Db, max_bytes: usize) -> Result<Page, TableError> {
        let (first, after) = (rows::row_key(b""), self.cursor.as_deref().map(rows::row_key));
        let from = after.as_deref().map_or(Bound::Included(&first[..]), Bound::Excluded);
        let mut now = db.range::<&[u8], _>((from, Bound::Excluded(&rows::ROWS_END[..]))).peekable();
        let mut page = Page { rows: Vec::new(), at_end: false };
        let mut bytes = 0;
        while bytes < max_bytes.max(1) {
            let Some((key, value)) = self.next_row(db, &mut now)? else {
                page.at_end = true;
                break;
            };
            self.cursor = Some(key.clone());
            if let Some(value) = value {
                bytes += (key.len() + value.len()).max(1);
                page.rows.push((key, value));
            }
        }
        Ok(page)
    }

    /// The next key of today's rows with the kept ones over them, and its row as it was; `None` in
    /// place of the row where there was none. A kept row is let go as it is read.
    fn next_row(
        &mut self,
        db: &sled::Db,
        now: &mut Peekable<sled::Iter>,
    ) -> Result<Option<(Bytes, Option<Bytes>)>, TableError> {
        let kept_first = match (now.peek(), self.overlay.first_key_value()) {
            (Some(Ok((row, _))), Some((kept, _))) => kept[..].cmp(rows::key_of(row)),
            (Some(_), _) => Ordering::Greater,
            (None, _) => Ordering::Less,
        };
        if kept_first.is_gt() {
            let Some(row) = now.next() else { return Ok(None) };
            let (row, stored) = row?;
            // Nothing is applied meanwhile, so that the row's parts are there.
            let value = rows::read(db, &row, stored)?;
            return Ok(Some((Bytes::copy_from_slice(rows::key_of(&row)), value)));
        }
        if kept_first.is_eq() {
            now.next();
        }
        let kept = self.overlay.pop_first();
        if let Some((key, old)) = &kept {
            self.kept_bytes -= entry_bytes(key, old);
        }
        Ok(kept)
    }
}

fn entry_bytes(key: &Bytes, old: &Option<Bytes>) -> u64 {
    ENTRY_BYTES + (key.len() + old.as_ref().map_or(0, Bytes::len)) as u64
}

struct Page {
    rows: Vec<(Bytes, Bytes)>,
    at_end: bool,
}

/// The side of a view that its reader holds; dropping it ends the view.
pub(super) struct SledView {
    table: Weak<Inner>,
    number: u64,
    at_end: bool,
}

impl SledView {
    pub(super) fn new(table: Weak<Inner>, number: u64) -> SledView {
        SledView { table, number, at_end: false }
    }
}

impl TableView for SledView {
    fn next_page(&mut self, max_bytes: usize) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        if self.at_end {
            return Ok(Vec::new());
        }
        let table = self.table.upgrade().ok_or(TableError::ViewEnded)?;
        let mut views = table.views.lock();
        let active = views.active.as_mut().filter(|active| active.number == self.number);
        let active = active.ok_or(TableError::ViewEnded)?;
        if active.overrun {
            return Err(TableError::ViewOverrun { limit_bytes: table.overlay_bytes });
        }
        let page = table.guarded(|| active.next_page(&table.db, max_bytes))?;
        if page.at_end {
            self.at_end = true;
            views.active = None;
        }
        Ok(page.rows)
    }
}

impl Drop for SledView {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            let mut views = table.views.lock();
            if views.active.as_ref().is_some_and(|active| active.number == self.number) {
                views.active = None;
            }
        }
    }
}
