//! What a simulated file holds, and what of it survives a crash.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::counts::DiskCounts;
use super::dice::Dice;

pub(super) type SharedContents = Arc<Mutex<Contents>>;

/// What a file holds.
#[derive(Default)]
pub(super) struct Contents {
    /// As reads see it.
    pub live: Vec<u8>,
    /// As it is after every synced change.
    pub durable: Vec<u8>,
    /// The changes since the last sync, oldest first.
    pub pending: Vec<Change>,
}

pub(super) enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Contents {
    /// A file that holds this, and nothing else ever.
    pub fn settled(bytes: Vec<u8>) -> Contents {
        Contents { live: bytes.clone(), durable: bytes, pending: Vec::new() }
    }

    /// Makes a change that is not synced.
    pub fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    /// Whether a byte is on the disk, and nothing is under way that would change it.
    pub fn is_settled_at(&self, byte: usize) -> bool {
        let touched = self.pending.iter().any(|change| match change {
            Change::Write { offset, bytes } => (*offset..offset + bytes.len()).contains(&byte),
            Change::SetLen(len) => *len <= byte,
        });
        !touched && byte < self.live.len() && byte < self.durable.len()
    }

    /// Decides which changes survive a crash, and gives what the file holds then. Pages are written
    /// in any order, in units of `sector_bytes`; 0 says that they are written in the order of writes.
    pub fn settle(
        &mut self,
        dice: &mut Dice,
        sector_bytes: usize,
        counts: &mut DiskCounts,
    ) -> Vec<u8> {
        let survived = std::mem::take(&mut self.durable);
        let pending = std::mem::take(&mut self.pending);
        let only_writes = pending.iter().all(|change| matches!(change, Change::Write { .. }));
        if pending.is_empty() {
            survived
        } else if sector_bytes > 0 && only_writes && dice.one_in(2) {
            settle_scattered(survived, &pending, dice, sector_bytes, counts)
        } else {
            settle_in_order(survived, &pending, dice, counts)
        }
    }
}

/// Some of the first changes survive, and some of the first bytes of the next.
fn settle_in_order(
    mut survived: Vec<u8>,
    pending: &[Change],
    dice: &mut Dice,
    counts: &mut DiskCounts,
) -> Vec<u8> {
    let kept = dice.below(pending.len() + 1);
    for (index, change) in pending.iter().enumerate() {
        if index < kept {
            change.apply(&mut survived);
        } else if let (true, Change::Write { offset, bytes }) = (index == kept, change)
            && !dice.one_in(4)
        {
            let torn_at = dice.below(bytes.len().max(1));
            let end = survived.len().max(offset + bytes.len());
            write_at(&mut survived, *offset, &bytes[..torn_at]);
            // A new length without the bytes: what was there before is not written over with zeros.
            if dice.one_in(4) {
                survived.resize(end, 0);
            }
            counts.torn_writes += 1;
        }
    }
    survived
}

/// Each sector survives as it was after one of the writes, or before them, whatever the others do:
/// a page cache writes a page as it is at some moment, and pages in any order.
fn settle_scattered(
    mut survived: Vec<u8>,
    pending: &[Change],
    dice: &mut Dice,
    sector_bytes: usize,
    counts: &mut DiskCounts,
) -> Vec<u8> {
    let writes: Vec<(usize, &[u8])> = pending
        .iter()
        .filter_map(|change| match change {
            Change::Write { offset, bytes } if !bytes.is_empty() => Some((*offset, &bytes[..])),
            _ => None,
        })
        .collect();
    let sectors: BTreeSet<usize> = writes
        .iter()
        .flat_map(|(offset, bytes)| {
            offset / sector_bytes..=(offset + bytes.len() - 1) / sector_bytes
        })
        .collect();
    // From one crash to the next, many sectors survive, or few.
    let odds = 2 + dice.below(4);
    let mostly_kept = dice.one_in(2);
    let (mut kept, mut lost) = (0, 0);
    for sector in sectors {
        let chosen = dice.one_in(odds);
        let whole = chosen != mostly_kept;
        let until = if whole { writes.len() } else { dice.below(writes.len()) };
        let range = sector * sector_bytes..(sector + 1) * sector_bytes;
        for (offset, bytes) in &writes[..until] {
            let from = range.start.max(*offset);
            let to = range.end.min(offset + bytes.len());
            if from < to {
                write_at(&mut survived, from, &bytes[from - offset..to - offset]);
            }
        }
        *(if whole { &mut kept } else { &mut lost }) += 1;
    }
    counts.scattered_writes += u64::from(kept > 0 && lost > 0);
    survived
}

impl Change {
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes: written } => write_at(bytes, *offset, written),
            Change::SetLen(len) => bytes.resize(*len, 0),
        }
    }
}

fn write_at(target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if target.len() < end {
        target.resize(end, 0);
    }
    target[offset..end].copy_from_slice(bytes);
}
