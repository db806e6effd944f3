//! A table in memory, written out whole at each checkpoint.

use std::sync::Arc;

use bytes::Bytes;

use super::{Table, TableBatch, TableError, TableView};
use crate::storage::disk::Disk;

/// An ordered map in memory over a [`Disk`]; a crash loses what was not checkpointed.
pub struct MemoryTable {}

impl MemoryTable {
    /// Opens what the last checkpoint wrote to `path`, or an empty table.
    pub fn open(_disk: Arc<dyn Disk>, _path: &str) -> Result<MemoryTable, TableError> {
        todo!()
    }
}

impl Table for MemoryTable {
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
