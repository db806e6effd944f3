//! What all rows of a sled table add up to, kept beside them and changed with every batch.
//!
//! **Why it exists.** sled checks every page that it reads, and skips in silence over pages that it
//! cannot find again: after a power cut or rot, rows may be missing or old although the applied
//! position is past them, and the log does not bring them back. Nothing in sled says so. So the table
//! keeps a sum over a hash of every row; a table whose rows do not add up to it is refused.
//!
//! **How.** The sum of 64-bit hashes of key and value (XXH3, the value's seeded with the key's), by
//! wrapping addition, as in incremental multiset hashing (Clarke and others, 2003, there by modular
//! addition too; ours need not withstand an enemy, only accidents). Order does not matter, so a
//! changed row costs one subtraction and one addition. A wrong table passes once in 2^64.
//!
//! **Guarantees.** The ledger's row changes in the same atomic batch as the rows it counts.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use twox_hash::XxHash3_64;

use crate::storage::table::TableError;

/// The format of the ledger's row, and of the rows that it counts.
const FORMAT: u8 = 1;

/// Format, rows, sum, next part, and the hash of these.
const LEDGER_BYTES: usize = 1 + 8 + 8 + 8 + 8;

/// A hash of one row.
pub(super) fn hash(key: &[u8], value: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(key), value)
}

/// How many rows there are, and what their hashes add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    rows: u64,
    hashes: u64,
}

impl Sum {
    pub(super) fn add(&mut self, hash: u64) {
        self.rows = self.rows.wrapping_add(1);
        self.hashes = self.hashes.wrapping_add(hash);
    }

    /// Takes a row away: also before it was added, where rows are counted out of order.
    pub(super) fn subtract(&mut self, hash: u64) {
        self.rows = self.rows.wrapping_sub(1);
        self.hashes = self.hashes.wrapping_sub(hash);
    }

    /// An error where the rows that were found are not those that were written.
    pub(super) fn check(self, found: Sum) -> Result<(), TableError> {
        if self == found {
            return Ok(());
        }
        let problem = match self.rows == found.rows {
            true => "rows are not as they were written".to_owned(),
            false => format!("it holds {} rows where {} were written", found.rows, self.rows),
        };
        Err(TableError::Damaged(format!(
            "{problem}: part of its files was lost or has rotted; restore this node's data \
             directory from a copy, or replace the node"
        )))
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub sum: Sum,
    /// The number of the next value that is stored in parts; never used twice.
    pub next_parts: u64,
}

impl Ledger {
    pub(super) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(LEDGER_BYTES);
        out.put_u8(FORMAT);
        out.put_u64(self.sum.rows);
        out.put_u64(self.sum.hashes);
        out.put_u64(self.next_parts);
        let own = XxHash3_64::oneshot(&out);
        out.put_u64(own);
        out.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Ledger, TableError> {
        let damaged = |problem: &str| TableError::Damaged(format!("its ledger {problem}"));
        if bytes.first().is_some_and(|format| *format != FORMAT) {
            return Err(damaged("is of another version of quorate: run the one that made it"));
        }
        if bytes.len() != LEDGER_BYTES {
            return Err(damaged("has a wrong length"));
        }
        let (body, mut own) = bytes.split_at(LEDGER_BYTES - 8);
        if XxHash3_64::oneshot(body) != own.get_u64() {
            return Err(damaged("does not match its hash"));
        }
        let mut body = &body[1..];
        let sum = Sum { rows: body.get_u64(), hashes: body.get_u64() };
        Ok(Ledger { sum, next_parts: body.get_u64() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_reads_back_and_a_damaged_one_does_not() {
        let mut ledger = Ledger { next_parts: 7, ..Ledger::default() };
        ledger.sum.add(hash(b"a", b"1"));
        let bytes = ledger.encode();
        assert_eq!(Ledger::decode(&bytes).expect("it reads back"), ledger);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Ledger::decode(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Ledger::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_sum_sees_missing_old_and_swapped_rows() {
        let sum_of = |rows: &[(&[u8], &[u8])]| {
            let mut sum = Sum::default();
            rows.iter().for_each(|(key, value)| sum.add(hash(key, value)));
            sum
        };
        let whole = sum_of(&[(b"a", b"1"), (b"b", b"2")]);
        assert!(whole.check(sum_of(&[(b"b", b"2"), (b"a", b"1")])).is_ok(), "in any order");
        for wrong in [
            &[(&b"a"[..], &b"1"[..])][..],
            &[(b"a", b"1"), (b"b", b"1")],
            &[(b"a", b"2"), (b"b", b"1")],
            &[(b"a", b"1"), (b"c", b"2")],
            &[(b"a", b"1"), (b"b", b"2"), (b"", b"")],
            &[(b"a", b"1b"), (b"", b"2")],
        ] {
            assert!(whole.check(sum_of(wrong)).is_err(), "{wrong:?}");
        }
        let mut changed = whole;
        changed.subtract(hash(b"b", b"2"));
        changed.add(hash(b"b", b"3"));
        assert_eq!(changed, sum_of(&[(b"a", b"1"), (b"b", b"3")]));
    }
}
