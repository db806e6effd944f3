//! Where rows lie in the table, and reading user rows in key order.

use bytes::Bytes;

use super::table::{Table, TableError};
use crate::types::Key;

/// The row of a user key: family `d`, partition, key.
pub fn data_row(_key: &Key) -> Bytes {
    todo!()
}

/// The row of a fact about the table itself: family `m`, name.
pub fn meta_row(_name: &str) -> Bytes {
    todo!()
}

/// The row of a forwarding session: family `s`, origin.
pub fn session_row(_origin: u16) -> Bytes {
    todo!()
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

/// Up to `limit` user rows that begin with `prefix`, from `from`, over all partitions merged in key
/// order. Values are encoded records, tombstones included. Fewer than `limit` mean the end.
pub fn page(
    _table: &dyn Table,
    _prefix: &str,
    _from: &Bound,
    _limit: usize,
) -> Result<Vec<(Key, Bytes)>, TableError> {
    todo!()
}
