//! A table whose failure stops the node.
//!
//! **Why it exists.** Nothing is known about a table after it failed, whoever met the failure: the
//! replica, the state machine, a checkpoint or a snapshot. A checkpoint whose sync failed must above
//! all not be tried again, since the second may succeed without what the first was to write.

use std::sync::Arc;

use bytes::Bytes;

use super::fail;
use crate::runtime::watch;
use crate::storage::table::{Table, TableBatch, TableError, TableView};

/// Passes everything on, and says where that failed.
pub(super) struct WatchedTable {
    inner: Arc<dyn Table>,
    failed: watch::Sender<Option<String>>,
}

impl WatchedTable {
    pub fn new(inner: Arc<dyn Table>, failed: watch::Sender<Option<String>>) -> WatchedTable {
        WatchedTable { inner, failed }
    }

    fn watched<T>(&self, result: Result<T, TableError>) -> Result<T, TableError> {
        match &result {
            Ok(_) | Err(TableError::ViewOverrun { .. } | TableError::ViewEnded) => {}
            Err(error @ (TableError::Io(_) | TableError::Damaged(_))) => {
                fail(&self.failed, error.to_string());
            }
        }
        result
    }
}

impl Table for WatchedTable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        self.watched(self.inner.get(key))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        self.watched(self.inner.scan(from, to, limit))
    }

    fn scan_keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Bytes>, TableError> {
        self.watched(self.inner.scan_keys(from, to, limit))
    }

    fn apply(&self, batch: TableBatch) -> Result<(), TableError> {
        self.watched(self.inner.apply(batch))
    }

    fn may_wait(&self) -> bool {
        self.inner.may_wait()
    }

    fn checkpoint(&self) -> Result<(), TableError> {
        if let Some(reason) = self.failed.borrow().clone() {
            return Err(TableError::Io(Arc::new(std::io::Error::other(reason))));
        }
        self.watched(self.inner.checkpoint())
    }

    fn view(&self) -> Result<Box<dyn TableView>, TableError> {
        self.watched(self.inner.view())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::SimDisk;
    use crate::storage::table::MemoryTable;

    /// A table that may wait.
    struct Waiting;

    impl Table for Waiting {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, TableError> {
            Ok(None)
        }
        fn scan(&self, _: &[u8], _: &[u8], _: usize) -> Result<Vec<(Bytes, Bytes)>, TableError> {
            Ok(Vec::new())
        }
        fn apply(&self, _: TableBatch) -> Result<(), TableError> {
            Ok(())
        }
        fn may_wait(&self) -> bool {
            true
        }
        fn checkpoint(&self) -> Result<(), TableError> {
            Ok(())
        }
        fn view(&self) -> Result<Box<dyn TableView>, TableError> {
            Err(TableError::ViewEnded)
        }
    }

    #[test]
    fn that_a_table_may_wait_is_passed_on() {
        assert!(WatchedTable::new(Arc::new(Waiting), watch::Sender::new(None)).may_wait());
    }

    #[test]
    fn a_checkpoint_whose_sync_failed_stops_the_node_and_is_not_tried_again() {
        let disk = SimDisk::new(1);
        let table = MemoryTable::open(Arc::new(disk.clone()), "table").expect("a table");
        let failed = watch::Sender::new(None);
        let table = WatchedTable::new(Arc::new(table), failed.clone());
        table.checkpoint().expect("a healthy disk");
        assert_eq!(*failed.borrow(), None);
        let mut batch = TableBatch::default();
        batch.put(&b"row"[..], &b"value"[..]);
        table.apply(batch).expect("a healthy table");
        disk.fail_next_sync();
        assert!(table.checkpoint().is_err());
        assert!(failed.borrow().is_some());
        assert!(table.checkpoint().is_err(), "the disk would take it now");
    }
}
