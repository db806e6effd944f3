//! A table whose failure stops the node.
//!
//! **Why it exists.** Nothing is known about a table after it failed, whoever met the failure: the
//! replica, the state machine, a checkpoint or a snapshot. A checkpoint whose sync failed must above
//! all not be tried again, since the second may succeed without what the first was to write.

use std::sync::Arc;

use super::fail;
use crate::runtime::watch;
use crate::storage::table::{Hooked, Hooks, Table, TableError};

/// Passes everything on, and says where that failed.
pub(super) fn watched(
    table: Arc<dyn Table>,
    failed: watch::Sender<Option<String>>,
) -> Hooked<FailureWatch> {
    Hooked::new(table, FailureWatch(failed))
}

/// What stops the node where its table fails.
pub(super) struct FailureWatch(watch::Sender<Option<String>>);

impl Hooks for FailureWatch {
    fn before_checkpoint(&self) -> Result<(), TableError> {
        match self.0.borrow().clone() {
            Some(reason) => Err(TableError::Io(Arc::new(std::io::Error::other(reason)))),
            None => Ok(()),
        }
    }

    fn failed(&self, error: &TableError) {
        match error {
            TableError::ViewOverrun { .. } | TableError::ViewEnded => {}
            TableError::Io(_) | TableError::Damaged(_) => fail(&self.0, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::SimDisk;
    use crate::storage::table::{MemoryTable, TableBatch};

    /// A table that may wait.
    struct Waiting;

    impl Hooks for Waiting {
        fn may_wait(&self, _: bool) -> bool {
            true
        }
    }

    fn plain() -> (SimDisk, Arc<dyn Table>) {
        let disk = SimDisk::new(1);
        let table = MemoryTable::open(Arc::new(disk.clone()), "table").expect("a table");
        (disk, Arc::new(table))
    }

    #[test]
    fn that_a_table_may_wait_is_passed_on() {
        let waiting = Arc::new(Hooked::new(plain().1, Waiting));
        assert!(watched(waiting, watch::Sender::new(None)).may_wait());
        assert!(!watched(plain().1, watch::Sender::new(None)).may_wait());
    }

    #[test]
    fn a_checkpoint_whose_sync_failed_stops_the_node_and_is_not_tried_again() {
        let (disk, table) = plain();
        let failed = watch::Sender::new(None);
        let table = watched(table, failed.clone());
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
