//! How rows lie in sled: large values in parts, so that no page grows into a file of its own.
//!
//! **Why it exists.** sled puts a page that does not fit a quarter of a segment into a file that it
//! never syncs, and skips over it in silence where a power cut took it. A page holds up to 17 rows, so
//! rows of at most [`PART_BYTES`] keep every page small, whatever is stored.
//!
//! **How.** One map, three families by the first byte of sled's key: the ledger, the rows, and the
//! parts. A row's value begins with a tag: the value follows, or it lies in parts under a number that
//! was never used before. Parts change in the same atomic batch as the row that names them.
//!
//! **Guarantees.** Rows keep their order. A reader beside the writer sees a value whole, as it was at
//! some instant while it read. Parts that do not make up the value that was written are damage.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sled::IVec;

use super::ledger::hash;
use crate::storage::table::TableError;

/// The longest value that lies in its row, and the longest part of one that does not, in bytes.
/// Seventeen of them, and their keys of up to 4 KiB, stay below a quarter of a segment of 2 MiB.
pub(super) const PART_BYTES: usize = 16 << 10;

/// The key of the ledger's row.
pub(super) const LEDGER_KEY: [u8; 1] = [0];

const ROW: u8 = 1;
const PART: u8 = 2;

const WHOLE: u8 = 0;
const IN_PARTS: u8 = 1;

/// The part's family and number, and its place in the value.
const PART_KEY_BYTES: usize = 1 + 8 + 4;

/// sled's key for a row.
pub(super) fn row_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(ROW);
    stored.extend_from_slice(key);
    stored
}

/// A row's key from sled's.
pub(super) fn key_of(stored: &[u8]) -> &[u8] {
    stored.get(1..).unwrap_or_default()
}

/// Where the rows end in sled: every row's key is below.
pub(super) const ROWS_END: [u8; 1] = [ROW + 1];

/// A value in parts, as its row names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub number: u64,
    bytes: u64,
    /// The hash of the key and the whole value.
    hash: u64,
}

/// What sled holds at a row's key.
pub(super) enum Stored<'a> {
    Whole(&'a [u8]),
    Parts(Parts),
}

impl Stored<'_> {
    pub(super) fn parse(stored: &[u8]) -> Result<Stored<'_>, TableError> {
        match stored.split_first() {
            Some((&WHOLE, value)) => Ok(Stored::Whole(value)),
            Some((&IN_PARTS, mut rest)) if rest.len() == 24 => Ok(Stored::Parts(Parts {
                number: rest.get_u64(),
                bytes: rest.get_u64(),
                hash: rest.get_u64(),
            })),
            _ => Err(TableError::Damaged("a row has an unknown form".to_owned())),
        }
    }

    /// The hash of the row, as the ledger counts it.
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        match self {
            Stored::Whole(value) => hash(key, value),
            Stored::Parts(parts) => parts.hash,
        }
    }
}

impl Parts {
    fn key(self, part: u32) -> [u8; PART_KEY_BYTES] {
        let mut key = [PART; PART_KEY_BYTES];
        key[1..9].copy_from_slice(&self.number.to_be_bytes());
        key[9..].copy_from_slice(&part.to_be_bytes());
        key
    }

    fn keys(self) -> impl Iterator<Item = [u8; PART_KEY_BYTES]> {
        let count = self.bytes.div_ceil(PART_BYTES as u64) as u32;
        (0..count).map(move |part| self.key(part))
    }

    /// Adds the removal of every part.
    pub(super) fn remove(self, changes: &mut sled::Batch) {
        self.keys().for_each(|key| changes.remove(&key));
    }
}

/// Adds a row to sled's batch; `number` is for its parts, and rises where it was needed. Gives the
/// row's hash.
pub(super) fn put(key: &[u8], value: &[u8], number: &mut u64, changes: &mut sled::Batch) -> u64 {
    let hash = hash(key, value);
    let mut stored = BytesMut::with_capacity(1 + value.len().clamp(24, PART_BYTES));
    if value.len() <= PART_BYTES {
        stored.put_u8(WHOLE);
        stored.put_slice(value);
    } else {
        let parts = Parts { number: *number, bytes: value.len() as u64, hash };
        *number += 1;
        for (key, part) in parts.keys().zip(value.chunks(PART_BYTES)) {
            changes.insert(&key, part);
        }
        stored.put_u8(IN_PARTS);
        stored.put_u64(parts.number);
        stored.put_u64(parts.bytes);
        stored.put_u64(parts.hash);
    }
    changes.insert(row_key(key), &stored[..]);
    hash
}

/// The row at `key`.
pub(super) fn get(db: &sled::Db, key: &[u8]) -> Result<Option<Bytes>, TableError> {
    let row = row_key(key);
    match db.get(&row)? {
        Some(stored) => read(db, &row, stored),
        None => Ok(None),
    }
}

/// The value of a row whose key in sled and contents were read already; `None` where the row has
/// gone meanwhile.
pub(super) fn read(
    db: &sled::Db,
    row: &[u8],
    mut stored: IVec,
) -> Result<Option<Bytes>, TableError> {
    loop {
        let parts = match Stored::parse(&stored)? {
            Stored::Whole(value) => return Ok(Some(Bytes::copy_from_slice(value))),
            Stored::Parts(parts) => parts,
        };
        if let Some(value) = join(db, parts)? {
            if hash(key_of(row), &value) == parts.hash {
                return Ok(Some(value));
            }
            return Err(TableError::Damaged("a value's parts do not make it up".to_owned()));
        }
        match db.get(row)? {
            // Nobody changed it: its parts have to be there.
            Some(again) if again == stored => {
                return Err(TableError::Damaged("a part of a value is missing".to_owned()));
            }
            Some(again) => stored = again,
            None => return Ok(None),
        }
    }
}

/// A value from its parts; `None` where one is not there.
fn join(db: &sled::Db, parts: Parts) -> Result<Option<Bytes>, TableError> {
    let mut value = Vec::new();
    for key in parts.keys() {
        let Some(part) = db.get(key)? else { return Ok(None) };
        value.extend_from_slice(&part);
    }
    Ok(Some(value.into()))
}
