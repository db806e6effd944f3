//! A table with something done beside what it does.

use std::sync::Arc;

use bytes::Bytes;

use super::{Table, TableBatch, TableError, TableView};

/// What is done beside the work of a table; each part does nothing where it is not given.
pub trait Hooks: Send + Sync + 'static {
    /// Before a batch is applied; an error takes the place of applying it.
    fn before_apply(&self, _: &TableBatch) -> Result<(), TableError> {
        Ok(())
    }

    /// Before a checkpoint; an error takes its place.
    fn before_checkpoint(&self) -> Result<(), TableError> {
        Ok(())
    }

    /// After a checkpoint that succeeded; an error makes it one that failed.
    fn after_checkpoint(&self) -> Result<(), TableError> {
        Ok(())
    }

    /// Whether the table may wait, given what it says itself.
    fn may_wait(&self, says: bool) -> bool {
        says
    }

    /// The table, or what is done beside it, failed.
    fn failed(&self, _: &TableError) {}
}

/// Passes everything on to a table, with [`Hooks`] beside it.
pub struct Hooked<H> {
    table: Arc<dyn Table>,
    hooks: H,
}

impl<H: Hooks> Hooked<H> {
    pub fn new(table: Arc<dyn Table>, hooks: H) -> Hooked<H> {
        Hooked { table, hooks }
    }

    fn seen<T>(&self, result: Result<T, TableError>) -> Result<T, TableError> {
        result.inspect_err(|error| self.hooks.failed(error))
    }
}

impl<H: Hooks> Table for Hooked<H> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        self.seen(self.table.get(key))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        self.seen(self.table.scan(from, to, limit))
    }

    fn scan_keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Bytes>, TableError> {
        self.seen(self.table.scan_keys(from, to, limit))
    }

    fn apply(&self, batch: TableBatch) -> Result<(), TableError> {
        let applied = self.hooks.before_apply(&batch).and_then(|()| self.table.apply(batch));
        self.seen(applied)
    }

    fn may_wait(&self) -> bool {
        self.hooks.may_wait(self.table.may_wait())
    }

    fn checkpoint(&self) -> Result<(), TableError> {
        let begun = self.hooks.before_checkpoint();
        let ended = begun.and_then(|()| self.table.checkpoint());
        self.seen(ended.and_then(|()| self.hooks.after_checkpoint()))
    }

    fn view(&self) -> Result<Box<dyn TableView>, TableError> {
        self.seen(self.table.view())
    }
}
