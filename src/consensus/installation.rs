//! Installing a snapshot: the rows of the received file in place of the table's, step by step.
//!
//! **A crash in the middle.** Before the first row goes, a marker row is written, and after a crash a
//! table is some prefix of what was applied to it: where any row is gone, the marker is there. A node
//! that starts with the marker loads the file again from its first page; without the file it refuses
//! to start. The marker goes in the same batch that says what was applied, and the file after the
//! checkpoint that follows.
//!
//! **In steps.** Each is bounded, so that whoever takes them may rest in between. The table is made
//! durable every so often on the way, so that no long flush comes at the end, for which everything else
//! on the disk would wait.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::apply::{GROUP_ROW, MachineState};
use super::codec;
use super::snapshot::{Manifest, Reader, discard, exists};
use crate::planted::{self, Bug};
use crate::storage::disk::Disk;
use crate::storage::rows;
use crate::storage::table::{Table, TableBatch};

/// What the removal of a row counts for, in bytes: it costs what writing a short row does.
const REMOVED_ROW_BYTES: u64 = 256;

/// How large the steps are.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Rows removed in one step, by their keys alone.
    pub(super) removed_rows: usize,
    /// Rows put in one step, in bytes of pages: far more would only hold memory.
    pub(super) load_bytes: u64,
    /// The table is made durable after so many bytes: a flush of that size takes a disk some tenths of a
    /// second, and few more than the last one are needed for a small snapshot.
    pub(super) checkpoint_bytes: u64,
}

const LIMITS: Limits =
    Limits { removed_rows: 4_096, load_bytes: 1 << 20, checkpoint_bytes: 32 << 20 };

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
    /// The ranges of rows that are still to go, the next one last.
    removals: Vec<(Bytes, Bytes)>,
    file: Option<Reader>,
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
        let mut removals = vec![rows::retry_range(), rows::session_range(), rows::expiry_range()];
        if orders_data && !planted::is(Bug::SnapshotMissesDeletes) {
            removals.push(rows::data_range());
        }
        let limits = LIMITS;
        Ok(Installation { table, disk, manifest, removals, file: None, unsynced: 0, limits })
    }

    /// Takes steps of another size.
    #[cfg(test)]
    pub(super) fn within(mut self, limits: Limits) -> Installation {
        self.limits = limits;
        self
    }

    /// Does the next piece of work.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        let bytes = match self.removals.last().cloned() {
            Some(range) => self.remove_some(&range)?,
            None => match self.load_some()? {
                Some(bytes) => bytes,
                None => return self.finish().map(|state| Step::Done(Box::new(state))),
            },
        };
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

    fn remove_some(&mut self, (from, to): &(Bytes, Bytes)) -> io::Result<u64> {
        let limit = self.limits.removed_rows;
        let rows = self.table.scan_keys(from, to, limit).map_err(io::Error::other)?;
        let (Some(next), Some(last)) = (self.removals.last_mut(), rows.last()) else {
            self.removals.pop();
            return Ok(0);
        };
        // What is gone is not passed over again: an engine may take as long for that as for rows.
        next.0 = [last, &[0_u8][..]].concat().into();
        let bytes = rows.len() as u64 * REMOVED_ROW_BYTES;
        let mut batch = TableBatch::default();
        rows.into_iter().for_each(|row| batch.remove(row));
        self.apply(batch)?;
        Ok(bytes)
    }

    /// Puts the rows of the next pages; `None` where all were put.
    fn load_some(&mut self) -> io::Result<Option<u64>> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => Reader::open(&*self.disk)?,
        };
        let (mut batch, mut bytes) = (TableBatch::default(), 0);
        while bytes < self.limits.load_bytes && file.pages() < self.manifest.pages {
            let page = file.next_page()?;
            let rows: Vec<(Bytes, Bytes)> = codec::decode("a page of a snapshot", &page)?;
            rows.into_iter().for_each(|(row, value)| batch.put(row, value));
            bytes += page.len() as u64;
        }
        if bytes == 0 {
            file.check(&self.manifest)?;
            return Ok(None);
        }
        self.apply(batch)?;
        self.file = Some(file);
        Ok(Some(bytes))
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
