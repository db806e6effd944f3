//! Replica writes that nobody waits for any more: counted, so that they are bounded.
//!
//! A write is answered once W replicas have it; the others finish in the background, and are never
//! cancelled. A slow replica must not let them pile up without end.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::telemetry::Metrics;

/// The replica writes of one coordinator that are finishing in the background.
pub struct Stragglers {
    limit: usize,
    now: AtomicUsize,
    metrics: Metrics,
}

impl Stragglers {
    /// None yet; `limit` is the setting `max_stragglers`.
    pub fn new(limit: usize, metrics: Metrics) -> Stragglers {
        Stragglers { limit, now: AtomicUsize::new(0), metrics }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// Whether there are as many as may be: nothing new is started then.
    pub fn is_full(&self) -> bool {
        self.count() >= self.limit
    }

    /// Says that nobody waits any more for `count` replica writes.
    pub(super) fn add(&self, count: usize) {
        self.now.fetch_add(count, Ordering::Relaxed);
    }

    /// Says that one of them is done, or was given up.
    pub(super) fn end(&self, finished: bool) {
        self.now.fetch_sub(1, Ordering::Relaxed);
        let counter = match finished {
            true => &self.metrics.stragglers_finished,
            false => &self.metrics.stragglers_failed,
        };
        counter.inc();
    }
}
