//! A table in front of a table: batches gather in memory and reach the inner one in large flushes.
//!
//! **Why it exists.** A batch of a few rows costs sled several times as much a row as one of some
//! hundreds, and fjall half as much again; and a row that changes with every batch, as the applied
//! position does, is rewritten each time. Nothing has to be in the table before a checkpoint, since the log replays over it.
//!
//! **How.** `apply` puts a whole batch into the *active* layer. Once that is large enough, or has
//! waited long enough, it becomes the *frozen* layer, which one thread writes to the inner table as
//! one batch while a new active layer fills. A read looks at active, frozen and inner, in this order.
//!
//! **Guarantees.** The contract of [`Table`], over any inner table that keeps it:
//!
//! - *Atomicity.* Whole batches enter a layer, and a layer enters the inner table in one atomic batch.
//!   So the inner table always is what some prefix of the applied batches made it, after a crash too.
//! - *Reads.* For each row, a read gives a value that it had at some instant while the read ran: the
//!   layers are looked at first, and the inner table only becomes newer meanwhile.
//! - *Bounded memory.* Two layers, each of at most `max_rows` and `max_bytes` and one batch more; past
//!   that `apply` waits for the flush. Counted are the rows: a row that is a slice of a larger message
//!   keeps the message alive, which is little more, as a message's rows come and go together.
//! - *Errors.* Where a flush fails, every later call returns its error, and what waits returns too.
//!
//! **Not guaranteed.** Dropping the table flushes what is left, but is no checkpoint. A flush that
//! fails then is only logged: the log still has what it lost.
//!
//! It has a thread of its own, and so never runs in a simulated world.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock, RwLockWriteGuard};

use super::{Table, TableBatch, TableError, TableView};
use crate::runtime::Runtime;

mod layers;

use self::layers::{Layer, Layers, Row};

/// When the active layer is flushed, and when `apply` waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The active layer is flushed from here on, in rows and in bytes.
    pub(super) flush_rows: usize,
    pub(super) flush_bytes: usize,
    /// `apply` waits from here on, in rows and in bytes; above the two before.
    pub(super) max_rows: usize,
    pub(super) max_bytes: usize,
    /// A smaller layer is flushed after this, so that an idle node keeps nothing in memory.
    pub(super) idle_flush: Duration,
}

impl Limits {
    /// What suits sled. A row's cost hardly falls any further past some hundreds of rows in a batch,
    /// while sled's readers wait as long as a batch is applied: 512 rows take a few milliseconds, and
    /// what gathers at most behind a slow flush some tens.
    pub(super) const SLED: Limits = Limits {
        flush_rows: 512,
        flush_bytes: 2 << 20,
        max_rows: 4_096,
        max_bytes: 16 << 20,
        idle_flush: Duration::from_millis(200),
    };
}

/// A flush of a layer from here on, in rows and in bytes, takes longer than a task may hold up others:
/// more than some 10 ms. Below the most that a layer takes, so that who waits for room was told before.
const LONG_FLUSH_ROWS: usize = 1_024;
const LONG_FLUSH_BYTES: usize = 1 << 20;
const _: () = assert!(LONG_FLUSH_ROWS < Limits::SLED.max_rows);
const _: () = assert!(LONG_FLUSH_BYTES < Limits::SLED.max_bytes);

/// A table whose writes reach the inner table later, and many at a time.
pub struct WriteBehind<T: Table> {
    shared: Arc<Shared<T>>,
    flusher: Option<JoinHandle<()>>,
}

/// What callers and the flushing thread share. Locks are taken in the order of the fields.
struct Shared<T> {
    inner: T,
    limits: Limits,
    /// Held by every apply, and while a view drains the layers.
    applying: Mutex<()>,
    requests: Mutex<Requests>,
    layers: RwLock<Layers>,
    /// With `requests`: there may be something to flush.
    wake: Condvar,
    /// With `requests`: a layer was frozen, or flushed, or failed.
    progress: Condvar,
}

#[derive(Default)]
struct Requests {
    /// How many freezes somebody waits for.
    freezes: u64,
    closing: bool,
}

impl<T: Table> WriteBehind<T> {
    /// Puts the layers over `inner`, which nobody else may write to, and starts the thread.
    pub fn new(inner: T) -> Result<WriteBehind<T>, TableError> {
        WriteBehind::with_limits(inner, Limits::SLED)
    }

    pub(super) fn with_limits(inner: T, limits: Limits) -> Result<WriteBehind<T>, TableError> {
        let shared = Arc::new(Shared {
            inner,
            limits,
            applying: Mutex::new(()),
            requests: Mutex::default(),
            layers: RwLock::default(),
            wake: Condvar::new(),
            progress: Condvar::new(),
        });
        let flushing = shared.clone();
        let flusher = Runtime::real().thread("table-flush", move || flushing.run())?;
        Ok(WriteBehind { shared, flusher: Some(flusher) })
    }
}

impl<T: Table> Drop for WriteBehind<T> {
    fn drop(&mut self) {
        self.shared.requests.lock().closing = true;
        self.shared.wake.notify_one();
        // The inner table closes after this, with the last handle to it, and may be opened again.
        if let Some(flusher) = self.flusher.take() {
            let _ = flusher.join();
        }
        if let Err(error) = self.shared.layers.read().check() {
            tracing::warn!(%error, "the table closes without the writes since the last flush");
        }
    }
}

impl<T: Table> Table for WriteBehind<T> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        {
            let layers = self.shared.layers.read();
            layers.check()?;
            if let Some(value) = layers.get(key) {
                return Ok(value.clone());
            }
        }
        self.shared.inner.get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        let inner = &self.shared.inner;
        self.shared.merged(from, to, limit, |from, to, limit| inner.scan(from, to, limit))
    }

    fn scan_keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Bytes>, TableError> {
        let inner = &self.shared.inner;
        self.shared.merged(from, to, limit, |from, to, limit| inner.scan_keys(from, to, limit))
    }

    fn apply(&self, batch: TableBatch) -> Result<(), TableError> {
        let shared = &*self.shared;
        let _applying = shared.applying.lock();
        let wakes = {
            let mut layers = shared.layers_with_room()?;
            let was_empty = layers.active.is_empty();
            layers.active.take(batch);
            // While a layer is being written, the thread looks again by itself.
            layers.frozen.is_none() && (was_empty || shared.is_full(&layers.active))
        };
        if wakes {
            shared.wake_flusher();
        }
        Ok(())
    }

    /// While a long layer is being written, or about to be: sled's readers wait for all of it.
    fn may_wait(&self) -> bool {
        let layers = self.shared.layers.read();
        let is_long = |layer: &Layer| layer.reaches(LONG_FLUSH_ROWS, LONG_FLUSH_BYTES);
        is_long(&layers.active) || layers.frozen.as_ref().is_some_and(|layer| is_long(layer))
    }

    fn checkpoint(&self) -> Result<(), TableError> {
        self.shared.drain()?;
        self.shared.inner.checkpoint()
    }

    fn view(&self) -> Result<Box<dyn TableView>, TableError> {
        // Most of it while batches may still come; then what came meanwhile.
        self.shared.drain()?;
        let _no_apply = self.shared.applying.lock();
        self.shared.drain()?;
        self.shared.inner.view()
    }
}

impl<T: Table> Shared<T> {
    fn is_full(&self, layer: &Layer) -> bool {
        layer.reaches(self.limits.flush_rows, self.limits.flush_bytes)
    }

    fn has_room(&self, layer: &Layer) -> bool {
        !layer.reaches(self.limits.max_rows, self.limits.max_bytes)
    }

    /// Waits until the active layer may take a batch. Only under `applying`.
    fn layers_with_room(&self) -> Result<RwLockWriteGuard<'_, Layers>, TableError> {
        let layers = self.layers.write();
        layers.check()?;
        if self.has_room(&layers.active) {
            return Ok(layers);
        }
        drop(layers);
        let mut requests = self.requests.lock();
        loop {
            let layers = self.layers.write();
            layers.check()?;
            if self.has_room(&layers.active) {
                return Ok(layers);
            }
            drop(layers);
            self.progress.wait(&mut requests);
        }
    }

    fn wake_flusher(&self) {
        // With the lock held, so that it does not fall between the thread's last look and its wait.
        let _requests = self.requests.lock();
        self.wake.notify_one();
    }

    /// Returns once everything that was applied before is in the inner table.
    fn drain(&self) -> Result<(), TableError> {
        let mut requests = self.requests.lock();
        let freezes = {
            let layers = self.layers.read();
            layers.freezes + u64::from(!layers.active.is_empty())
        };
        requests.freezes = requests.freezes.max(freezes);
        self.wake.notify_one();
        loop {
            {
                let layers = self.layers.read();
                layers.check()?;
                if layers.flushes() >= freezes {
                    return Ok(());
                }
            }
            self.progress.wait(&mut requests);
        }
    }

    /// A scan of the inner table, done by `scan`, with the layers over it.
    fn merged<R: Row>(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        scan: impl Fn(&[u8], &[u8], usize) -> Result<Vec<R>, TableError>,
    ) -> Result<Vec<R>, TableError> {
        let mut rows = Vec::new();
        let mut from = from.to_vec();
        while rows.len() < limit && from[..] < *to {
            let wanted = limit - rows.len();
            // The layers first: what leaves them meanwhile is in the inner table by then.
            let window = {
                let layers = self.layers.read();
                layers.check()?;
                layers.window(&from, to, wanted)
            };
            let inner_limit = window.inner_rows(wanted);
            let inner = scan(&from, &window.end, inner_limit)?;
            from = window.over(inner, inner_limit, &mut rows);
        }
        rows.truncate(limit);
        Ok(rows)
    }

    /// The flushing thread.
    fn run(&self) {
        while let Some(layer) = self.next_layer() {
            let batch = layer.to_batch();
            let applied = catch_unwind(AssertUnwindSafe(|| self.inner.apply(batch)));
            let applied = applied.unwrap_or_else(|_| {
                Err(TableError::from(io::Error::other("the engine panicked in a flush")))
            });
            let failed = applied.is_err();
            {
                let _requests = self.requests.lock();
                let mut layers = self.layers.write();
                match applied {
                    Ok(()) => layers.frozen = None,
                    Err(error) => layers.failed = Some(error),
                }
                self.progress.notify_all();
            }
            if failed {
                return;
            }
            // The layer itself goes here, outside of the locks.
        }
    }

    /// Waits until the active layer is to be flushed, and freezes it; `None` once the table closes
    /// and there is nothing left.
    fn next_layer(&self) -> Option<Arc<Layer>> {
        let mut requests = self.requests.lock();
        let mut waited = false;
        loop {
            let is_empty = {
                let mut layers = self.layers.write();
                let due = waited
                    || requests.closing
                    || requests.freezes > layers.freezes
                    || self.is_full(&layers.active);
                if due && !layers.active.is_empty() {
                    self.progress.notify_all();
                    return Some(layers.freeze());
                }
                layers.active.is_empty()
            };
            if requests.closing {
                return None;
            }
            if is_empty {
                self.wake.wait(&mut requests);
            } else {
                waited = self.wake.wait_for(&mut requests, self.limits.idle_flush).timed_out();
            }
        }
    }
}

#[cfg(test)]
impl<T: Table> WriteBehind<T> {
    /// Asks for a flush and returns once it has begun, if there is anything to flush.
    pub(super) fn begin_flush(&self) {
        let shared = &*self.shared;
        let mut requests = shared.requests.lock();
        let layers = shared.layers.read();
        assert!(layers.frozen.is_none(), "no flush is under way");
        let freezes = layers.freezes + u64::from(!layers.active.is_empty());
        drop(layers);
        requests.freezes = freezes;
        shared.wake.notify_one();
        while shared.layers.read().freezes < freezes {
            shared.progress.wait(&mut requests);
        }
    }

    /// How many rows are in the active and in the frozen layer.
    pub(super) fn layer_rows(&self) -> (usize, usize) {
        let layers = self.shared.layers.read();
        (layers.active.len(), layers.frozen.as_ref().map_or(0, |frozen| frozen.len()))
    }
}
