//! Where rows lie in the table, and reading user rows in key order.
//!
//! One ordered map holds everything, so a batch can change user rows and the applied position
//! together. The first byte of a row's key is its family: `d` user rows, `m` facts about the table
//! itself, `s` forwarding sessions, `i` idempotency keys, `h` hints, `x` the order in which records expire,
//! `c` which user rows are deletions, or will be. User rows lie by partition and then key, in both modes, so that a partition can be read, moved and compared as one range; reading them in key
//! order merges all partitions, which costs a small scan of each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::vec;

use bytes::{BufMut, Bytes, BytesMut};

use super::table::{Table, TableError, just_after};
use crate::types::{Key, NodeId, PARTITIONS, Partition};

const DATA: u8 = b'd';
const META: u8 = b'm';
const SESSION: u8 = b's';
const RETRY: u8 = b'i';
const HINT: u8 = b'h';
const EXPIRY: u8 = b'x';
const COLLECTABLE: u8 = b'c';

/// The name of the rows of collection horizons, before their partition.
const HORIZON: &[u8] = b"replica-horizon-";

/// What a row of the family of idempotency keys is: the count of all, what is remembered of one, or
/// its place in the order of expiry.
const RETRY_COUNT: u8 = b'c';
const RETRY_KEY: u8 = b'k';
const RETRY_EXPIRY: u8 = b't';

/// Family and partition, before the key of a user row.
const DATA_HEAD_BYTES: usize = 2;

/// Keys of one partition that a merge reads ahead at most: enough to make scans rare on a long
/// page, few enough that those of 256 partitions stay small.
const MAX_CHUNK_ROWS: usize = 64;

/// The row of a user key: family `d`, partition, key.
pub fn data_row(key: &Key) -> Bytes {
    data_row_bytes(key.partition(), key.as_str().as_bytes())
}

/// The partition and the key of a user row; `None` for a row of another family, or where no node of
/// ours wrote it.
pub fn parse_data_row(row: &[u8]) -> Option<(Partition, Key)> {
    let (partition, key) = split_data_row(row)?;
    Some((partition, Key::from_stored(key).ok()?))
}

/// The partition and the bytes of the key of a user row; `None` for a row of another family.
pub fn split_data_row(row: &[u8]) -> Option<(Partition, &[u8])> {
    match row {
        [DATA, partition, key @ ..] => Some((Partition(*partition), key)),
        _ => None,
    }
}

/// The row of a fact about the table itself: family `m`, name.
pub fn meta_row(name: &str) -> Bytes {
    let mut row = BytesMut::with_capacity(1 + name.len());
    row.put_u8(META);
    row.put_slice(name.as_bytes());
    row.freeze()
}

/// The collection horizon of a partition: of the facts about the table.
pub fn horizon_row(partition: Partition) -> Bytes {
    [&[META], HORIZON, &[partition.0]].concat().into()
}

/// What says that a user row is a deletion, or comes to be one; `None` of a row of another family.
pub fn collectable_row(data_row: &[u8]) -> Option<Bytes> {
    Some([&[COLLECTABLE], data_row.strip_prefix(&[DATA])?].concat().into())
}

/// The user row that such a row is of; `None` for any other row.
pub fn data_row_of_collectable(row: &[u8]) -> Option<Bytes> {
    Some([&[DATA], row.strip_prefix(&[COLLECTABLE])?].concat().into())
}

/// The deletions of one partition.
pub fn collectable_range(partition: Partition) -> (Bytes, Bytes) {
    let from: Bytes = [COLLECTABLE, partition.0].to_vec().into();
    let end = successor(&from);
    (from, end)
}

/// The row of a forwarding session: family `s`, origin.
pub fn session_row(origin: u16) -> Bytes {
    let [high, low] = origin.to_be_bytes();
    Bytes::copy_from_slice(&[SESSION, high, low])
}

/// The origin of a session row; `None` for any other row.
pub fn parse_session_row(row: &[u8]) -> Option<u16> {
    match row {
        [SESSION, high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// How many idempotency keys are remembered.
pub fn retry_count_row() -> Bytes {
    Bytes::from_static(&[RETRY, RETRY_COUNT])
}

/// What is remembered of an idempotency key.
pub fn retry_row(key: &str) -> Bytes {
    [&[RETRY, RETRY_KEY], key.as_bytes()].concat().into()
}

/// Where an idempotency key stands in the order of expiry.
pub fn retry_expiry_row(expires_ms: u64, key: &str) -> Bytes {
    [&[RETRY, RETRY_EXPIRY], &expires_ms.to_be_bytes()[..], key.as_bytes()].concat().into()
}

/// When a row of the order of expiry is due, and its key; `None` for any other row.
pub fn parse_retry_expiry_row(row: &[u8]) -> Option<(u64, &str)> {
    let rest = row.strip_prefix(&[RETRY, RETRY_EXPIRY])?;
    let (expires_ms, key) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*expires_ms), std::str::from_utf8(key).ok()?))
}

/// All rows of the order of expiry.
pub fn retry_expiry_range() -> (Bytes, Bytes) {
    (Bytes::from_static(&[RETRY, RETRY_EXPIRY]), Bytes::from_static(&[RETRY, RETRY_EXPIRY + 1]))
}

/// All that is remembered of idempotency keys.
pub fn retry_range() -> (Bytes, Bytes) {
    family_range(RETRY)
}

/// Where a record stands in the order of expiry: family `x`, when, key.
pub fn expiry_row(at_ms: u64, key: &[u8]) -> Bytes {
    [&[EXPIRY], &at_ms.to_be_bytes()[..], key].concat().into()
}

/// When a row of the order of expiry is due, and its key; `None` for any other row.
pub fn parse_expiry_row(row: &[u8]) -> Option<(u64, Key)> {
    let (at_ms, key) = row.strip_prefix(&[EXPIRY])?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*at_ms), Key::from_stored(key).ok()?))
}

/// The order of expiry.
pub fn expiry_range() -> (Bytes, Bytes) {
    family_range(EXPIRY)
}

/// All user rows: from (inclusive) and to (exclusive), as [`Table::scan`] takes them.
pub fn data_range() -> (Bytes, Bytes) {
    family_range(DATA)
}

/// The user rows of one partition.
pub fn partition_range(partition: Partition) -> (Bytes, Bytes) {
    let from = data_row_bytes(partition, b"");
    let to = successor(&from);
    (from, to)
}

/// The first row of a partition that may follow that of the key named `after`.
pub fn row_after(partition: Partition, after: &str) -> Bytes {
    just_after(&data_row_bytes(partition, after.as_bytes())).into()
}

/// A hint for a replica: family `h`, node, key.
pub fn hint_row(to: NodeId, key: &Key) -> Bytes {
    [&[HINT], &to.0.to_be_bytes()[..], key.as_str().as_bytes()].concat().into()
}

/// Whom a hint is for, and its key; `None` for any other row.
pub fn parse_hint_row(row: &[u8]) -> Option<(NodeId, Key)> {
    let (to, key) = row.strip_prefix(&[HINT])?.split_first_chunk::<2>()?;
    Some((NodeId(u16::from_be_bytes(*to)), Key::from_stored(key).ok()?))
}

/// All hints.
pub fn hint_range() -> (Bytes, Bytes) {
    family_range(HINT)
}

/// The hints for one replica.
pub fn hint_range_of(to: NodeId) -> (Bytes, Bytes) {
    let from: Bytes = [&[HINT], &to.0.to_be_bytes()[..]].concat().into();
    let end = successor(&from);
    (from, end)
}

/// All facts about the table itself.
pub fn meta_range() -> (Bytes, Bytes) {
    family_range(META)
}

/// All forwarding sessions.
pub fn session_range() -> (Bytes, Bytes) {
    family_range(SESSION)
}

fn family_range(family: u8) -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(&[family]), Bytes::copy_from_slice(&[family + 1]))
}

fn data_row_bytes(partition: Partition, key: &[u8]) -> Bytes {
    let mut row = BytesMut::with_capacity(DATA_HEAD_BYTES + key.len());
    row.put_u8(DATA);
    row.put_u8(partition.0);
    row.put_slice(key);
    row.freeze()
}

/// The least byte string above every one that begins with `prefix`. Rows begin with a family, which
/// is never 0xff, so that there always is one; it may lie in the next partition or family.
fn successor(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff).map_or(0, |at| at + 1);
    let mut bytes = BytesMut::from(&prefix[..kept]);
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    bytes.freeze()
}

/// Where a page of keys starts.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Bound {
    /// At the first key.
    Start,
    /// After this key.
    After(String),
    /// After every key that begins with this.
    AfterPrefix(String),
}

impl Bound {
    /// The first row of `partition` at or after the bound that may begin with `prefix`.
    fn first_row(&self, partition: Partition, prefix: &str) -> Bytes {
        let begin = data_row_bytes(partition, prefix.as_bytes());
        let bound = match self {
            Bound::Start => return begin,
            Bound::After(key) => row_after(partition, key),
            Bound::AfterPrefix(skipped) => {
                successor(&data_row_bytes(partition, skipped.as_bytes()))
            }
        };
        begin.max(bound)
    }
}

/// Up to `limit` user rows that begin with `prefix`, from `from`, over all partitions merged in key
/// order. Values are encoded records, tombstones included. Fewer than `limit` mean the end.
///
/// Costs a scan of two keys for each partition, few more where keys spread evenly, and a read of
/// each row of the page: no value is read that is not in the page. Rows that change while the page
/// is read may show before or after their change.
pub fn page(
    table: &dyn Table,
    prefix: &str,
    from: &Bound,
    limit: usize,
) -> Result<Vec<(Key, Bytes)>, TableError> {
    let mut merge = Merge::new(table, prefix, from, limit)?;
    let mut rows = Vec::new();
    while rows.len() < limit {
        let Some(row) = merge.next()? else { break };
        // A row that was removed since its key was read is no row.
        let Some(value) = table.get(&row)? else { continue };
        let (_, key) = parse_data_row(&row)
            .ok_or_else(|| TableError::Damaged(format!("{row:?} is not the row of a key")))?;
        rows.push((key, value));
    }
    Ok(rows)
}

/// The rows of all partitions, in the order of their keys.
struct Merge<'a> {
    table: &'a dyn Table,
    /// Of partitions that have rows, the next row and where its successors come from.
    heads: BinaryHeap<Reverse<Head>>,
}

impl<'a> Merge<'a> {
    fn new(
        table: &'a dyn Table,
        prefix: &str,
        from: &Bound,
        limit: usize,
    ) -> Result<Merge<'a>, TableError> {
        // A partition's even share of the page, and one more so that most never need a second scan.
        let chunk_rows = (limit.div_ceil(PARTITIONS) + 1).min(limit.max(1)).min(MAX_CHUNK_ROWS);
        let mut merge = Merge { table, heads: BinaryHeap::with_capacity(PARTITIONS) };
        for partition in Partition::all() {
            merge.push(Cursor::new(partition, prefix, from, chunk_rows))?;
        }
        Ok(merge)
    }

    fn next(&mut self) -> Result<Option<Bytes>, TableError> {
        let Some(Reverse(head)) = self.heads.pop() else { return Ok(None) };
        self.push(head.cursor)?;
        Ok(Some(head.row))
    }

    fn push(&mut self, mut cursor: Cursor) -> Result<(), TableError> {
        if let Some(row) = cursor.next(self.table)? {
            self.heads.push(Reverse(Head { row, cursor }));
        }
        Ok(())
    }
}

/// The rows of one partition, read a chunk at a time.
struct Cursor {
    chunk: vec::IntoIter<Bytes>,
    from: Bytes,
    to: Bytes,
    chunk_rows: usize,
    at_end: bool,
}

impl Cursor {
    fn new(partition: Partition, prefix: &str, from: &Bound, chunk_rows: usize) -> Cursor {
        let from = from.first_row(partition, prefix);
        let to = successor(&data_row_bytes(partition, prefix.as_bytes()));
        let at_end = from >= to;
        Cursor { chunk: Vec::new().into_iter(), from, to, chunk_rows, at_end }
    }

    fn next(&mut self, table: &dyn Table) -> Result<Option<Bytes>, TableError> {
        if let Some(row) = self.chunk.next() {
            return Ok(Some(row));
        }
        if self.at_end {
            return Ok(None);
        }
        let rows = table.scan_keys(&self.from, &self.to, self.chunk_rows)?;
        self.at_end = rows.len() < self.chunk_rows;
        if let Some(last) = rows.last() {
            self.from = just_after(last).into();
        }
        // A partition that needs more than its share is likely to need much more.
        self.chunk_rows = (self.chunk_rows * 2).min(MAX_CHUNK_ROWS);
        self.chunk = rows.into_iter();
        Ok(self.chunk.next())
    }
}

/// The next row of a partition; ordered by its key alone.
struct Head {
    row: Bytes,
    cursor: Cursor,
}

impl Head {
    fn key(&self) -> &[u8] {
        self.row.get(DATA_HEAD_BYTES..).unwrap_or_default()
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Head) -> std::cmp::Ordering {
        self.key().cmp(other.key())
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

#[cfg(test)]
mod tests;
