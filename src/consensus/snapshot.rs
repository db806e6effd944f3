//! Snapshots: pages of rows on their way from one table to another.
//!
//! A snapshot is never kept: the table itself is the snapshot, made durable by a checkpoint. Where a
//! follower needs one, a consistent view of the leader's table is streamed to it in pages, which it
//! collects in a file; only when the file is whole and synced is the table replaced.
//!
//! **A crash in the middle of replacing.** Before the first row goes, a marker row is written, and
//! after a crash a table is some prefix of what was applied to it: where any row is gone, the marker
//! is there. A node that starts with the marker loads the file again from its first page; without
//! the file it refuses to start. The marker goes in the same batch that says what was applied, and
//! the file after the checkpoint that follows.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::apply::{GROUP_ROW, GroupState, MachineState};
use super::codec;
use super::raft_types::SnapshotMeta;
use crate::planted::{self, Bug};
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::rows;
use crate::storage::table::{Table, TableBatch};

/// Rows of one page, in bytes: a message that fits a frame.
pub(super) const PAGE_BYTES: usize = 200 << 10;

/// Rows removed in one batch, by their keys alone.
const ROWS_A_REMOVAL: usize = 4_096;

/// Rows put in one batch, in bytes of pages: far more would only hold memory.
const LOAD_BYTES: usize = 1 << 20;

/// The longest page a file may hold, in bytes: a page of one row of the largest size, with room.
const MAX_PAGE_BYTES: u32 = 64 << 20;

const DIR: &str = "snapshot";
const NAME: &str = "incoming";
const PATH: &str = "snapshot/incoming";

/// The row that says that the rows are being replaced, and by what.
const INSTALLING_ROW: &str = "raft.installing";

/// A page's length and checksum, before its bytes.
const PAGE_HEAD_BYTES: u64 = 8;

/// What a snapshot is, beside its pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) group: GroupState,
    pub(super) pages: u64,
    /// CRC-32C of all pages, one after the other.
    pub(super) checksum: u32,
}

impl Manifest {
    /// The snapshot as openraft names it.
    pub(super) fn meta(&self) -> SnapshotMeta {
        meta(&self.group)
    }
}

/// A state as openraft names the snapshot that is taken of it.
pub(super) fn meta(group: &GroupState) -> SnapshotMeta {
    SnapshotMeta { last_log_id: group.applied, last_membership: group.membership.clone() }
}

/// A page of rows, encoded.
pub(super) fn encode_page(rows: &[(Bytes, Bytes)]) -> io::Result<Bytes> {
    codec::encode(&rows)
}

/// Whether a row belongs into a snapshot. Facts about the table itself stay with their table; those
/// that concern the group are in the manifest.
pub(super) fn is_replicated(row: &[u8]) -> bool {
    let within = |(from, to): (Bytes, Bytes)| row >= &from[..] && row < &to[..];
    let with_sessions = !planted::is(Bug::SessionsMissingFromSnapshot);
    let with_keys = !planted::is(Bug::IdempotencyKeysMissingFromSnapshot);
    within(rows::data_range())
        || (with_sessions && within(rows::session_range()))
        || (with_keys && within(rows::retry_range()))
}

/// The file that pages are collected in.
pub(super) struct Incoming {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    offset: u64,
    pages: u64,
    checksum: u32,
}

impl Incoming {
    /// An empty file, instead of the one that may be there.
    pub(super) fn create(disk: Arc<dyn Disk>) -> io::Result<Incoming> {
        discard(&*disk)?;
        let file = disk.create(PATH)?;
        Ok(Incoming { disk, file, offset: 0, pages: 0, checksum: 0 })
    }

    /// How many pages it holds.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Adds a page.
    pub(super) fn append(&mut self, page: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(page.len() + PAGE_HEAD_BYTES as usize);
        bytes.extend_from_slice(&(page.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(page).to_le_bytes());
        bytes.extend_from_slice(page);
        self.file.write_all_at(&bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        self.pages += 1;
        self.checksum = crc32c::crc32c_append(self.checksum, page);
        Ok(())
    }

    /// Makes the file durable, if it is what the manifest says.
    pub(super) fn finish(self, manifest: &Manifest) -> io::Result<()> {
        if (self.pages, self.checksum) != (manifest.pages, manifest.checksum) {
            let problem = format!("{} pages, {} expected", self.pages, manifest.pages);
            return Err(codec::invalid("the snapshot received", problem));
        }
        self.file.sync()?;
        self.disk.sync_dir(DIR)?;
        self.disk.sync_dir("")
    }

    /// What the pages so far amount to.
    pub(super) fn manifest(&self, group: GroupState) -> Manifest {
        Manifest { group, pages: self.pages, checksum: self.checksum }
    }
}

fn exists(disk: &dyn Disk) -> io::Result<bool> {
    Ok(disk.list(DIR)?.iter().any(|name| name == NAME))
}

fn discard(disk: &dyn Disk) -> io::Result<()> {
    if exists(disk)? {
        disk.remove(PATH)?;
        disk.sync_dir(DIR)?;
    }
    Ok(())
}

/// Replaces the group's rows by those of the file; `orders_data` says whether user rows are among
/// them. Blocking.
pub(super) fn install(
    table: &dyn Table,
    disk: &dyn Disk,
    manifest: &Manifest,
    orders_data: bool,
) -> io::Result<MachineState> {
    let apply = |batch: TableBatch| table.apply(batch).map_err(io::Error::other);
    let mut marker = TableBatch::default();
    marker.put(rows::meta_row(INSTALLING_ROW), codec::encode(manifest)?);
    apply(marker)?;
    if orders_data && !planted::is(Bug::SnapshotMissesDeletes) {
        remove_all(table, rows::data_range())?;
    }
    remove_all(table, rows::session_range())?;
    remove_all(table, rows::retry_range())?;

    let file = disk.open(PATH)?;
    let (mut offset, mut checksum) = (0, 0);
    let (mut batch, mut batch_bytes) = (TableBatch::default(), 0);
    for _ in 0..manifest.pages {
        let page = read_page(&*file, &mut offset)?;
        checksum = crc32c::crc32c_append(checksum, &page);
        let rows: Vec<(Bytes, Bytes)> = codec::decode("a page of a snapshot", &page)?;
        rows.into_iter().for_each(|(row, value)| batch.put(row, value));
        batch_bytes += page.len();
        if batch_bytes >= LOAD_BYTES {
            apply(std::mem::take(&mut batch))?;
            batch_bytes = 0;
        }
    }
    apply(batch)?;
    if checksum != manifest.checksum {
        return Err(codec::invalid(PATH, "its checksum is not the manifest's"));
    }

    let mut last = TableBatch::default();
    last.put(rows::meta_row(GROUP_ROW), codec::encode(&manifest.group)?);
    last.remove(rows::meta_row(INSTALLING_ROW));
    apply(last)?;
    if !planted::is(Bug::SnapshotNotDurable) {
        table.checkpoint().map_err(io::Error::other)?;
    }
    discard(disk)?;
    MachineState::load(table)
}

/// Finishes what a crash interrupted, and removes what is left of what it cut short. Blocking.
pub(super) fn recover(table: &dyn Table, disk: &dyn Disk, orders_data: bool) -> io::Result<()> {
    let marker = table.get(&rows::meta_row(INSTALLING_ROW)).map_err(io::Error::other)?;
    let Some(marker) = marker else { return discard(disk) };
    let manifest: Manifest = codec::decode("the marker of a snapshot being installed", &marker)?;
    if !exists(disk)? {
        return Err(codec::invalid(
            "the table is incomplete",
            format!("a snapshot was being installed and its file {PATH} is gone"),
        ));
    }
    install(table, disk, &manifest, orders_data).map(|_| ())
}

fn remove_all(table: &dyn Table, (from, to): (Bytes, Bytes)) -> io::Result<()> {
    loop {
        let rows = table.scan_keys(&from, &to, ROWS_A_REMOVAL).map_err(io::Error::other)?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut batch = TableBatch::default();
        rows.into_iter().for_each(|row| batch.remove(row));
        table.apply(batch).map_err(io::Error::other)?;
    }
}

fn read_page(file: &dyn DiskFile, offset: &mut u64) -> io::Result<Bytes> {
    let mut head = [0; PAGE_HEAD_BYTES as usize];
    file.read_exact_at(&mut head, *offset)?;
    let [a, b, c, d, e, f, g, h] = head;
    let (len, crc) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    if len > MAX_PAGE_BYTES {
        return Err(codec::invalid(PATH, format!("a page of {len} bytes at byte {offset}")));
    }
    let mut page = vec![0; len as usize];
    file.read_exact_at(&mut page, *offset + PAGE_HEAD_BYTES)?;
    if crc32c::crc32c(&page) != crc {
        return Err(codec::invalid(PATH, format!("a page with a wrong checksum at byte {offset}")));
    }
    *offset += PAGE_HEAD_BYTES + u64::from(len);
    Ok(page.into())
}
