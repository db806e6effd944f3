//! Installing a snapshot: making the table's rows those of the received file, step by step.
//!
//! **By difference.** Pages come in the order of keys, as the table's own rows do. Both are walked at once:
//! what only the table has is removed, what only the file has is put, and what both have is put where it
//! differs. So a node that missed little writes little, and one that missed all writes each row once.
//!
//! **A crash in the middle.** Before the first row changes, a marker row is written, and after a crash a
//! table is some prefix of what was applied to it: where any row has changed, the marker is there. A node
//! that starts with the marker walks the file again from its first page; without the file it refuses
//! to start. The marker goes in the same batch that says what was applied, and the file after the
//! checkpoint that follows.
//!
//! **In steps.** Each is bounded, so that whoever takes them may rest in between. The table is made
//! durable every so often on the way, so that no long flush comes at the end, for which everything else
//! on the disk would wait.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::apply::{GROUP_ROW, MachineState};
use super::codec;
use super::snapshot::{Manifest, Reader, discard, exists};
use crate::planted::{self, Bug};
use crate::storage::disk::Disk;
use crate::storage::rows;
use crate::storage::table::{Table, TableBatch, just_after};

/// What the removal of a row counts for, in bytes: it costs what writing a short row does.
const REMOVED_ROW_BYTES: u64 = 256;

/// What reading a row counts for: one part in so many of its bytes.
const READ_PART: u64 = 8;

/// How many rows of the table the first step reads.
const FIRST_READ_ROWS: usize = 16;

/// About how many bytes of the table's rows one step reads.
const READ_BYTES: usize = 1 << 20;

/// How large the steps are.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Rows of the table read in one step, at most: they may be long.
    pub(super) read_rows: usize,
    /// Rows of the file taken at a time, in bytes of pages: far more would only hold memory.
    pub(super) load_bytes: u64,
    /// The table is made durable after so many bytes: a flush of that size takes a disk some tenths of a
    /// second, and few more than the last one are needed for a small snapshot.
    pub(super) checkpoint_bytes: u64,
}

const LIMITS: Limits = Limits { read_rows: 1_024, load_bytes: 1 << 20, checkpoint_bytes: 32 << 20 };

/// The row that says that the rows are being replaced, and by what.
const INSTALLING_ROW: &str = "raft.installing";

/// What a step did.
pub(super) enum Step {
    /// So many bytes of work, and there is more.
    More(u64),
    Done(Box<MachineState>),
}

/// See the module.
pub(super) struct Installation {
    table: Arc<dyn Table>,
    disk: Arc<dyn Disk>,
    manifest: Manifest,
    /// The rows that the snapshot stands for, in order.
    ranges: Vec<(Bytes, Bytes)>,
    file: Option<Reader>,
    /// Rows of the file that are to be put, before `up_to`.
    pending: BTreeMap<Bytes, Bytes>,
    /// Before this, the table's rows are those of the file, but for what is pending.
    walked_to: Bytes,
    /// Before this, the file's rows were read.
    up_to: Bytes,
    /// Whether the file was read to its end.
    at_end: bool,
    /// How many rows of the table the next step reads.
    read_rows: usize,
    /// Work since the table was last made durable, in bytes.
    unsynced: u64,
    limits: Limits,
}

impl Installation {
    /// Marks the table as being replaced; `orders_data` says whether user rows are among the group's.
    /// Blocking, as all of it is.
    pub(super) fn begin(
        table: Arc<dyn Table>,
        disk: Arc<dyn Disk>,
        manifest: Manifest,
        orders_data: bool,
    ) -> io::Result<Installation> {
        let mut marker = TableBatch::default();
        marker.put(rows::meta_row(INSTALLING_ROW), codec::encode(&manifest)?);
        table.apply(marker).map_err(io::Error::other)?;
        let mut ranges = vec![rows::retry_range(), rows::session_range(), rows::expiry_range()];
        if orders_data {
            ranges.push(rows::data_range());
        }
        ranges.sort();
        Ok(Installation {
            table,
            disk,
            manifest,
            ranges,
            file: None,
            pending: BTreeMap::new(),
            walked_to: Bytes::new(),
            up_to: Bytes::new(),
            at_end: false,
            read_rows: FIRST_READ_ROWS,
            unsynced: 0,
            limits: LIMITS,
        })
    }

    /// Takes steps of another size.
    #[cfg(test)]
    pub(super) fn within(mut self, limits: Limits) -> Installation {
        self.limits = limits;
        self.read_rows = self.read_rows.min(limits.read_rows);
        self
    }

    /// Does the next piece of work.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        if self.walked_to >= self.up_to && self.pending.is_empty() {
            if self.at_end {
                return self.finish().map(|state| Step::Done(Box::new(state)));
            }
            self.read_file()?;
        }
        let bytes = self.walk()?;
        self.unsynced += bytes;
        if self.unsynced >= self.limits.checkpoint_bytes {
            self.checkpoint()?;
        }
        Ok(Step::More(bytes))
    }

    /// Takes every step, without a rest.
    pub(super) fn run(mut self) -> io::Result<MachineState> {
        loop {
            if let Step::Done(state) = self.step()? {
                return Ok(*state);
            }
        }
    }

    fn apply(&self, batch: TableBatch) -> io::Result<()> {
        self.table.apply(batch).map_err(io::Error::other)
    }

    fn checkpoint(&mut self) -> io::Result<()> {
        self.unsynced = 0;
        if planted::is(Bug::SnapshotNotDurable) {
            return Ok(());
        }
        self.table.checkpoint().map_err(io::Error::other)
    }

    /// Takes the next pages of the file.
    fn read_file(&mut self) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => Reader::open(&*self.disk)?,
        };
        let mut bytes = 0;
        while bytes < self.limits.load_bytes && file.pages() < self.manifest.pages {
            let page = file.next_page()?;
            let rows: Vec<(Bytes, Bytes)> = codec::decode("a page of a snapshot", &page)?;
            for (row, value) in rows {
                if row < self.up_to {
                    return Err(codec::invalid("a page of a snapshot", "its keys do not rise"));
                }
                self.up_to = just_after(&row).into();
                self.pending.insert(row, value);
            }
            bytes += page.len() as u64;
        }
        if bytes == 0 {
            file.check(&self.manifest)?;
            self.at_end = true;
            self.up_to = self.ranges.last().map(|(_, to)| to.clone()).unwrap_or_default();
        }
        self.file = Some(file);
        Ok(())
    }

    /// Looks at the next rows of the table before `up_to`, and removes those that the file does not have;
    /// where none is left, puts what is pending. Gives the bytes of work.
    fn walk(&mut self) -> io::Result<u64> {
        let next = self.ranges.iter().find(|(_, to)| *to > self.walked_to);
        let window =
            next.map(|(from, to)| (from.max(&self.walked_to).clone(), to.min(&self.up_to).clone()));
        let Some((from, to)) = window.filter(|(from, to)| from < to) else {
            return self.put_pending();
        };
        let limit = self.read_rows;
        let found = self.table.scan(&from, &to, limit).map_err(io::Error::other)?;
        let read: usize = found.iter().map(|(row, value)| row.len() + value.len()).sum();
        self.read_rows = (READ_BYTES * limit / read.max(1)).clamp(1, self.limits.read_rows);
        self.walked_to = match found.last() {
            Some((last, _)) if found.len() == limit => just_after(last).into(),
            _ => to,
        };
        let mut batch = TableBatch::default();
        for (row, value) in found {
            match self.pending.get(&row) {
                Some(pending) if *pending == value => {
                    self.pending.remove(&row);
                }
                Some(_) => {}
                None if planted::is(Bug::SnapshotMissesDeletes) => {}
                None => batch.remove(row),
            }
        }
        let removed = batch.changes.len() as u64;
        if removed > 0 {
            self.apply(batch)?;
        }
        Ok(removed * REMOVED_ROW_BYTES + read as u64 / READ_PART)
    }

    fn put_pending(&mut self) -> io::Result<u64> {
        self.walked_to = self.up_to.clone();
        let (mut batch, mut bytes) = (TableBatch::default(), 0);
        for (row, value) in std::mem::take(&mut self.pending) {
            bytes += (row.len() + value.len()) as u64;
            batch.put(row, value);
        }
        if bytes > 0 {
            self.apply(batch)?;
        }
        Ok(bytes)
    }

    fn finish(&mut self) -> io::Result<MachineState> {
        let mut last = TableBatch::default();
        last.put(rows::meta_row(GROUP_ROW), codec::encode(&self.manifest.group)?);
        last.remove(rows::meta_row(INSTALLING_ROW));
        self.apply(last)?;
        self.checkpoint()?;
        discard(&*self.disk)?;
        MachineState::load(&*self.table)
    }
}

/// Finishes what a crash interrupted, and removes what is left of what it cut short. Blocking.
pub(super) fn recover(
    table: &Arc<dyn Table>,
    disk: &Arc<dyn Disk>,
    orders_data: bool,
) -> io::Result<()> {
    let marker = table.get(&rows::meta_row(INSTALLING_ROW)).map_err(io::Error::other)?;
    let Some(marker) = marker else { return discard(&**disk) };
    let manifest: Manifest = codec::decode("the marker of a snapshot being installed", &marker)?;
    if !exists(&**disk)? {
        return Err(codec::invalid(
            "the table is incomplete",
            "a snapshot was being installed and its file snapshot/incoming is gone",
        ));
    }
    Installation::begin(table.clone(), disk.clone(), manifest, orders_data)?.run().map(|_| ())
}
