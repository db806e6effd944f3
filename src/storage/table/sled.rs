//! sled 0.34 as a table.

use bytes::Bytes;

use super::{Table, TableBatch, TableError, TableView};

/// sled as a table.
pub struct SledTable {}

impl SledTable {
    /// Opens or creates the table in `dir`. `overlay_bytes` bounds what a view may keep.
    pub fn open(
        _dir: &std::path::Path,
        _cache_bytes: u64,
        _overlay_bytes: u64,
    ) -> Result<SledTable, TableError> {
        todo!()
    }
}

impl Table for SledTable {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, TableError> {
        todo!()
    }
    fn scan(
        &self,
        _from: &[u8],
        _to: &[u8],
        _limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        todo!()
    }
    fn apply(&self, _batch: TableBatch) -> Result<(), TableError> {
        todo!()
    }
    fn checkpoint(&self) -> Result<(), TableError> {
        todo!()
    }
    fn view(&self) -> Result<Box<dyn TableView>, TableError> {
        todo!()
    }
}
