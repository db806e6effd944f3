//! Telling what a crash left of the last write from damage, where a record is bad and others follow.
//!
//! **Why it exists.** The log syncs each write before the next, so that at most one write, the last,
//! is not durable when the power goes. A disk writes that one in sectors, in any order: it may keep
//! the end and lose the middle. Nothing acknowledged is lost then, and the node must start.
//!
//! **The rule.** A bad record is a hole in the last write where both hold:
//!
//! - no record that begins a write follows it. A write begins only once all before it is durable, so
//!   such a record shows that the bad one was durable, and so is damaged;
//! - sectors that never reached the disk explain it: they are nothing but zeros, from the bad record
//!   on. Rot does not empty sectors. Records whose payload has such a sector say so in their heads,
//!   and are damaged whatever it looks like.
//!
//! **What it does not tell apart** is a hole from whole sectors of an acknowledged last write that
//! something emptied later: as with zeros at the end of the log, only a later write could say.

use std::io;

use super::Position;
use super::codec::{self, HEAD_BYTES, Head};
use crate::storage::disk::DiskFile;

/// What a disk writes whole or not at all, in bytes. Those that write more write several of these.
pub(super) const SECTOR_BYTES: usize = 512;

/// Whether the bad record at `offset` of the last segment, which has `used_bytes` without the zeros at
/// its end, is a hole in the last write.
pub(super) fn is_hole(
    file: &dyn DiskFile,
    offset: u64,
    used_bytes: u64,
    position: Position,
) -> io::Result<bool> {
    let mut rest = vec![0; (used_bytes - offset) as usize];
    file.read_exact_at(&mut rest, offset)?;
    let into_sector = (offset % SECTOR_BYTES as u64) as usize;
    Ok(lost_sectors_explain(&rest, into_sector, position) && !a_write_begins_in(&rest, position))
}

/// Whether a record behind the first of these bytes begins a write.
fn a_write_begins_in(bytes: &[u8], position: Position) -> bool {
    let heads = bytes.windows(HEAD_BYTES).enumerate().skip(1);
    let mut heads = heads.filter_map(|(at, head)| Some((at, head.try_into().ok()?)));
    heads.any(|(at, head)| codec::begins_write(&head, Position(position.0 + at as u64)))
}

/// Whether the record at the beginning of these bytes, which begin so far into a sector, is bad
/// because of sectors that were not written.
fn lost_sectors_explain(bytes: &[u8], into_sector: usize, position: Position) -> bool {
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return false };
    let first_boundary = SECTOR_BYTES - into_sector;
    match codec::decode_head(head, position) {
        Ok(head) => is_lost_in_body(head, bytes, first_boundary),
        Err(_) => {
            let next_is_lost = first_boundary < HEAD_BYTES && is_lost(bytes, first_boundary);
            let own = &bytes[..first_boundary.min(bytes.len())];
            let own_is_lost = own.iter().all(|byte| *byte == 0);
            // A few zeros may be a length's: then one bit that flipped explains as much.
            let is_certain = own.len() >= HEAD_BYTES || !codec::is_one_bit_off(head, position);
            next_is_lost || (own_is_lost && is_certain)
        }
    }
}

fn is_lost_in_body(head: Head, bytes: &[u8], first_boundary: usize) -> bool {
    let mut sectors = (first_boundary..head.record_bytes() as usize).step_by(SECTOR_BYTES);
    !head.has_blank_sector && sectors.any(|sector| is_lost(bytes, sector))
}

/// Whether the whole sector that begins here is nothing but zeros.
fn is_lost(bytes: &[u8], sector: usize) -> bool {
    let whole = bytes.get(sector..sector + SECTOR_BYTES);
    whole.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}

/// Whether a payload at this offset of a file has a whole sector that is nothing but zeros.
pub(super) fn has_blank_sector(payload: &[u8], offset: u64) -> bool {
    let into_sector = (offset % SECTOR_BYTES as u64) as usize;
    let first_boundary = (SECTOR_BYTES - into_sector) % SECTOR_BYTES;
    (first_boundary..payload.len()).step_by(SECTOR_BYTES).any(|sector| is_lost(payload, sector))
}
