//! A bounded rate for work that may wait, so that requests beside it keep their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::runtime::{Instant, Runtime};

const NANOS_A_SECOND: u128 = 1_000_000_000;

/// How often a rest is looked up from: haste waits for no longer than that.
const HASTE_LOOK: Duration = Duration::from_millis(250);

/// Keeps work in bytes at a rate. Time that passed without work is not saved up: after a pause no burst
/// follows.
pub(super) struct Pace {
    bytes_per_s: u64,
    /// When the next work may begin.
    free_at: Instant,
}

impl Pace {
    /// For work that begins `now`. A rate of 0 is taken for 1.
    pub(super) fn new(bytes_per_s: u64, now: Instant) -> Pace {
        Pace { bytes_per_s: bytes_per_s.max(1), free_at: now }
    }

    /// Notes that `bytes` more were worked on: work that took its time needs no rest.
    pub(super) fn charge(&mut self, bytes: u64, now: Instant) {
        let nanos = u128::from(bytes) * NANOS_A_SECOND / u128::from(self.bytes_per_s);
        let share = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = (self.free_at + share).max(now);
    }

    /// Rests until the next work may begin; not at all, or no longer, where there is haste. What was
    /// worked on in haste is not rested for afterwards. Safe to cancel.
    pub(super) async fn rest(&mut self, runtime: &Runtime, in_haste: impl Fn() -> bool) {
        loop {
            let now = runtime.now();
            if in_haste() {
                self.free_at = now;
            }
            if now >= self.free_at {
                return;
            }
            runtime.sleep_until(self.free_at.min(now + HASTE_LOOK)).await;
        }
    }
}

/// Whether somebody waits for the work, so that it takes no rest. Cheap to clone; all clones say the same.
#[derive(Clone, Default)]
pub(super) struct Haste(Arc<AtomicBool>);

impl Haste {
    /// For work that takes no rest at all.
    pub(super) fn always() -> Haste {
        Haste(Arc::new(AtomicBool::new(true)))
    }

    pub(super) fn set(&self, needed: bool) {
        self.0.store(needed, Ordering::Relaxed);
    }

    pub(super) fn is_needed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::in_a_paused_world;

    impl Pace {
        /// How long to rest, now that `bytes` more were worked on.
        fn owed(&mut self, bytes: u64, now: Instant) -> Duration {
            self.charge(bytes, now);
            self.free_at.saturating_duration_since(now)
        }
    }

    #[test]
    fn haste_ends_a_rest_and_what_was_done_in_haste_is_not_rested_for() {
        in_a_paused_world(async {
            let runtime = Runtime::simulated(1, 1_000_000);
            let began = runtime.now();
            let haste = Haste::default();
            let mut pace = Pace::new(1 << 20, began);
            // A minute of rest, in which somebody comes to wait for the work.
            pace.charge(60 << 20, began);
            let waiting = haste.clone();
            let clock = runtime.clone();
            let _waiter = runtime.spawn(async move {
                clock.sleep(Duration::from_secs(2)).await;
                waiting.set(true);
            });
            pace.rest(&runtime, || haste.is_needed()).await;
            let rested = runtime.now() - began;
            assert!(
                rested >= Duration::from_secs(2) && rested < Duration::from_secs(3),
                "{rested:?}"
            );
            for _ in 0..100 {
                pace.charge(60 << 20, runtime.now());
                pace.rest(&runtime, || haste.is_needed()).await;
            }
            assert_eq!(runtime.now() - began, rested, "no rest at all");
            haste.set(false);
            pace.charge(1 << 20, runtime.now());
            pace.rest(&runtime, || haste.is_needed()).await;
            assert_eq!(
                runtime.now() - began,
                rested + Duration::from_secs(1),
                "its own share alone"
            );
        });
    }

    #[test]
    fn work_rests_for_what_is_left_of_its_share_of_time() {
        let start = Runtime::real().now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(1 << 20, start);
        // A quarter of a second's bytes, done in 50 ms, and then in no time.
        assert_eq!(pace.owed(256 << 10, at(50)), Duration::from_millis(200));
        assert_eq!(pace.owed(256 << 10, at(250)), Duration::from_millis(250));
    }

    #[test]
    fn work_that_was_slower_than_its_rate_neither_rests_nor_catches_up() {
        let start = Runtime::real().now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(1 << 20, start);
        assert_eq!(pace.owed(256 << 10, at(900)), Duration::ZERO);
        assert_eq!(pace.owed(256 << 10, at(900)), Duration::from_millis(250));
    }

    #[test]
    fn a_rate_without_a_bound_does_not_rest_and_none_is_a_very_slow_one() {
        let start = Runtime::real().now();
        assert!(Pace::new(u64::MAX, start).owed(1 << 40, start) < Duration::from_micros(1));
        assert!(Pace::new(0, start).owed(1, start) >= Duration::from_millis(999));
    }
}
