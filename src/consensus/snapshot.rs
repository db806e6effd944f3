//! Snapshots: pages of rows on their way from one table to another.
//!
//! A snapshot is never kept: the table itself is the snapshot, made durable by a checkpoint. Where a
//! follower needs one, a consistent view of the leader's table is streamed to it in pages, which it
//! collects in a file, synced as it grows; only when the file is whole and durable is the table
//! replaced (see [`super::installation`]).

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::apply::GroupState;
use super::codec;
use super::raft_types::SnapshotMeta;
use crate::planted::{self, Bug};
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::rows;

/// Rows of one page, in bytes: a message that fits a frame.
pub(super) const PAGE_BYTES: usize = 200 << 10;

/// The file is synced after so many bytes: one long sync at its end would hold up everything else that
/// is on the disk, and one a page would cost more than it spreads.
const SYNC_BYTES: u64 = 8 << 20;

/// The longest page a file may hold, in bytes: a page of one row of the largest size, with room.
const MAX_PAGE_BYTES: u32 = 64 << 20;

const DIR: &str = "snapshot";
const NAME: &str = "incoming";
const PATH: &str = "snapshot/incoming";

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
    let with_expiries = !planted::is(Bug::ExpiriesMissingFromSnapshot);
    let with_keys = !planted::is(Bug::IdempotencyKeysMissingFromSnapshot);
    within(rows::data_range())
        || (with_sessions && within(rows::session_range()))
        || (with_keys && within(rows::retry_range()))
        || (with_expiries && within(rows::expiry_range()))
}

/// The file that pages are collected in.
pub(super) struct Incoming {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    offset: u64,
    pages: u64,
    checksum: u32,
    /// Bytes since the last sync.
    unsynced: u64,
}

impl Incoming {
    /// An empty file, instead of the one that may be there.
    pub(super) fn create(disk: Arc<dyn Disk>) -> io::Result<Incoming> {
        discard(&*disk)?;
        let file = disk.create(PATH)?;
        Ok(Incoming { disk, file, offset: 0, pages: 0, checksum: 0, unsynced: 0 })
    }

    /// How many pages it holds.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether a page of this length is synced, with all before it, as it is added.
    pub(super) fn will_sync(&self, page_bytes: usize) -> bool {
        self.unsynced + PAGE_HEAD_BYTES + page_bytes as u64 >= SYNC_BYTES
    }

    /// Adds a page.
    pub(super) fn append(&mut self, page: &[u8]) -> io::Result<()> {
        let syncs = self.will_sync(page.len());
        let mut bytes = Vec::with_capacity(page.len() + PAGE_HEAD_BYTES as usize);
        bytes.extend_from_slice(&(page.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(page).to_le_bytes());
        bytes.extend_from_slice(page);
        self.file.write_all_at(&bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        self.pages += 1;
        self.checksum = crc32c::crc32c_append(self.checksum, page);
        self.unsynced += bytes.len() as u64;
        if syncs {
            self.file.sync()?;
            self.unsynced = 0;
        }
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

/// Whether there is a file, whole or not.
pub(super) fn exists(disk: &dyn Disk) -> io::Result<bool> {
    Ok(disk.list(DIR)?.iter().any(|name| name == NAME))
}

/// Removes the file, where there is one.
pub(super) fn discard(disk: &dyn Disk) -> io::Result<()> {
    if exists(disk)? {
        disk.remove(PATH)?;
        disk.sync_dir(DIR)?;
    }
    Ok(())
}

/// Reads the pages of the file, one after the other.
pub(super) struct Reader {
    file: Arc<dyn DiskFile>,
    offset: u64,
    pages: u64,
    checksum: u32,
}

impl Reader {
    pub(super) fn open(disk: &dyn Disk) -> io::Result<Reader> {
        Ok(Reader { file: disk.open(PATH)?, offset: 0, pages: 0, checksum: 0 })
    }

    /// How many pages were read.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn next_page(&mut self) -> io::Result<Bytes> {
        let page = read_page(&*self.file, &mut self.offset)?;
        self.pages += 1;
        self.checksum = crc32c::crc32c_append(self.checksum, &page);
        Ok(page)
    }

    /// An error where what was read is not what the manifest says.
    pub(super) fn check(&self, manifest: &Manifest) -> io::Result<()> {
        if (self.pages, self.checksum) == (manifest.pages, manifest.checksum) {
            return Ok(());
        }
        Err(codec::invalid(PATH, "its checksum is not the manifest's"))
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
