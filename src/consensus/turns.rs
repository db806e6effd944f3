//! Whose turn it is to be sent a snapshot: one follower at a time, since a second view of the table
//! would end the first.
//!
//! **Why it is more than a lock.** A follower that is gone keeps its turn for as long as its transfer
//! goes on trying. Nobody minds where nobody waits; where another does, it is told here, and gives
//! its turn up sooner.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard};

/// The turns of one machine.
#[derive(Default)]
pub(super) struct Turns {
    turn: Mutex<()>,
    waiting: AtomicUsize,
    /// Views in a row that were overrun by writes before all of their pages were sent.
    overruns: AtomicU32,
}

/// Counts as waiting until it is dropped, also where the wait is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    /// Waits for a turn, in the order of asking; it lasts until the guard is dropped.
    pub(super) async fn take(&self) -> MutexGuard<'_, ()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        self.turn.lock().await
    }

    /// How many views in a row were overrun.
    pub(super) fn overruns(&self) -> u32 {
        self.overruns.load(Ordering::Relaxed)
    }

    /// A view was overrun by writes.
    pub(super) fn note_overrun(&self) {
        self.overruns.fetch_add(1, Ordering::Relaxed);
    }

    /// All pages of a view were sent.
    pub(super) fn note_whole(&self) {
        self.overruns.store(0, Ordering::Relaxed);
    }

    /// Whether somebody waits for a turn.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}
