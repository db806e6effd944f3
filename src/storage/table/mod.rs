//! The table: an ordered map that log records are applied to.
//!
//! One contract, three engines: sled (the default), fjall and memory. Over sled and fjall lies
//! [`WriteBehind`], a table itself, which gathers batches in memory so that they see few large ones. `contract.rs` is the
//! suite that all of them pass.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::runtime::Runtime;

/// A batch of changes; later changes of the same key win.
#[derive(Clone, Debug, Default)]
pub struct TableBatch {
    /// `None` removes.
    pub changes: Vec<(Bytes, Option<Bytes>)>,
}

impl TableBatch {
    /// Puts a row.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push((key.into(), Some(value.into())));
    }

    /// Removes a row.
    pub fn remove(&mut self, key: impl Into<Bytes>) {
        self.changes.push((key.into(), None));
    }
}

/// Why a table operation failed. The node stops: nothing is known about the table after it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TableError {
    #[error("the table failed: {0}")]
    Io(Arc<io::Error>),
    #[error("the table is damaged: {0}")]
    Damaged(String),
    /// More rows changed ahead of a view than it may keep: drop the view and take another.
    #[error("the view fell too far behind the writes: more than {limit_bytes} bytes of old rows")]
    ViewOverrun { limit_bytes: u64 },
    /// Another view was taken, or the table was closed.
    #[error("the view has ended: another was taken, or the table was closed")]
    ViewEnded,
}

impl From<io::Error> for TableError {
    fn from(error: io::Error) -> TableError {
        TableError::Io(Arc::new(error))
    }
}

/// An ordered map of byte strings.
///
/// **Atomicity.** [`Table::apply`] changes all rows of a batch or none, also across a crash. One
/// writer at a time; readers run beside it and may see a batch half applied, except through a view.
///
/// **Durability.** None until [`Table::checkpoint`] returns: after a crash the table is what some
/// prefix of the applied batches made it, at least up to the last checkpoint.
///
/// **Order.** Keys compare as bytes.
///
/// **Errors.** Any error but [`TableError::ViewOverrun`] and [`TableError::ViewEnded`] is final for
/// the process.
pub trait Table: Send + Sync + 'static {
    /// The row at `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TableError>;

    /// Up to `limit` rows from `from` (inclusive) to `to` (exclusive), in order; none where `to` is
    /// not above `from`.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize)
    -> Result<Vec<(Bytes, Bytes)>, TableError>;

    /// The keys alone of what [`Table::scan`] gives. An engine whose scan copies values does
    /// without the copies here.
    fn scan_keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Bytes>, TableError> {
        Ok(self.scan(from, to, limit)?.into_iter().map(|(key, _)| key).collect())
    }

    /// Applies a batch.
    fn apply(&self, batch: TableBatch) -> Result<(), TableError>;

    /// Whether reading or applying may wait for the disk for longer than tasks should now, by a guess
    /// that costs nothing. See [`on_a_task`].
    fn may_wait(&self) -> bool;

    /// Makes everything applied before the call durable. Blocking; call it off the task threads.
    fn checkpoint(&self) -> Result<(), TableError>;

    /// A picture of all rows as they are now, however many writes follow. One view at a time: taking
    /// a second ends the first, whose next page then fails with [`TableError::ViewEnded`]. Closing
    /// the table may end a view too; dropping a view ends it.
    fn view(&self) -> Result<Box<dyn TableView>, TableError>;
}

/// The least key above `key`, where a scan goes on that ended with it.
pub fn just_after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Does `work`, which reads or writes the table, on a task: where it may wait, without holding up the
/// tasks that would have run on the same thread, heartbeats among them.
pub fn on_a_task<T>(table: &dyn Table, work: impl FnOnce() -> T) -> T {
    if table.may_wait() { Runtime::wait_here(work) } else { work() }
}

/// A consistent picture of a table, read once from the first key to the last.
pub trait TableView: Send {
    /// The next rows in order, about `max_bytes` of them and at least one; empty only at the end.
    fn next_page(&mut self, max_bytes: usize) -> Result<Vec<(Bytes, Bytes)>, TableError>;
}

#[cfg(test)]
mod contract;
mod fjall;
mod hooked;
mod memory;
mod sled;
mod write_behind;

pub use self::fjall::FjallTable;
pub use self::hooked::{Hooked, Hooks};
pub use self::memory::MemoryTable;
pub use self::sled::SledTable;
pub use self::write_behind::WriteBehind;
