//! A bounded rate for work that may wait, so that requests beside it keep their turn.

use std::time::Duration;

use super::{Instant, Runtime};

const NANOS_A_SECOND: u128 = 1_000_000_000;

/// How often a rest is looked up from: haste waits for no longer than that.
const HASTE_LOOK: Duration = Duration::from_millis(250);

/// Keeps work in bytes at a rate. Time that passed without work is not saved up: after a pause no burst
/// follows.
pub struct Pace {
    bytes_per_s: u64,
    /// When the next work may begin.
    free_at: Instant,
}

impl Pace {
    /// For work that begins `now`. A rate of 0 is taken for 1.
    pub fn new(bytes_per_s: u64, now: Instant) -> Pace {
        Pace { bytes_per_s: bytes_per_s.max(1), free_at: now }
    }

    /// Says that work begins `now`, for a pace that is kept between pieces of work: the time since the
    /// last is not saved up.
    pub fn begin(&mut self, now: Instant) {
        self.free_at = self.free_at.max(now);
    }

    /// Notes that `bytes` more were worked on, and says when the next work may begin: work that took its
    /// time needs no rest.
    pub fn charge(&mut self, bytes: u64, now: Instant) -> Instant {
        let nanos = u128::from(bytes) * NANOS_A_SECOND / u128::from(self.bytes_per_s);
        let share = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = (self.free_at + share).max(now);
        self.free_at
    }

    /// Rests until the next work may begin; not at all, or no longer, where there is haste. What was
    /// worked on in haste is not rested for afterwards. Safe to cancel.
    pub async fn rest(&mut self, runtime: &Runtime, in_haste: impl Fn() -> bool) {
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

#[cfg(test)]
mod tests {
    use super::super::flag::Flag;
    use super::*;
    use crate::runtime::in_a_paused_world;

    impl Pace {
        /// How long to rest, now that `bytes` more were worked on.
        fn owed(&mut self, bytes: u64, now: Instant) -> Duration {
            self.charge(bytes, now).saturating_duration_since(now)
        }
    }

    #[test]
    fn haste_ends_a_rest_and_what_was_done_in_haste_is_not_rested_for() {
        in_a_paused_world(async {
            let runtime = Runtime::simulated(1, 1_000_000);
            let began = runtime.now();
            let haste = Flag::default();
            let mut pace = Pace::new(1 << 20, began);
            // A minute of rest, in which somebody comes to wait for the work.
            pace.charge(60 << 20, began);
            let waiting = haste.clone();
            let clock = runtime.clone();
            let _waiter = runtime.spawn(async move {
                clock.sleep(Duration::from_secs(2)).await;
                waiting.set(true);
            });
            pace.rest(&runtime, || haste.is_set()).await;
            let rested = runtime.now() - began;
            assert!(
                rested >= Duration::from_secs(2) && rested < Duration::from_secs(3),
                "{rested:?}"
            );
            for _ in 0..100 {
                pace.charge(60 << 20, runtime.now());
                pace.rest(&runtime, || haste.is_set()).await;
            }
            assert_eq!(runtime.now() - began, rested, "no rest at all");
            haste.set(false);
            pace.charge(1 << 20, runtime.now());
            pace.rest(&runtime, || haste.is_set()).await;
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
    fn two_kinds_of_work_share_a_pace_and_neither_gets_what_was_left_unused_before() {
        let start = Runtime::real().now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(1 << 20, start);
        pace.begin(at(10_000));
        assert_eq!(
            pace.charge(256 << 10, at(10_000)),
            at(10_250),
            "ten idle seconds count for nothing"
        );
        // The other begins, and ends, while the first rests.
        pace.begin(at(10_100));
        assert_eq!(pace.charge(512 << 10, at(10_200)), at(10_750));
    }

    #[test]
    fn a_rate_without_a_bound_does_not_rest_and_none_is_a_very_slow_one() {
        let start = Runtime::real().now();
        assert!(Pace::new(u64::MAX, start).owed(1 << 40, start) < Duration::from_micros(1));
        assert!(Pace::new(0, start).owed(1, start) >= Duration::from_millis(999));
    }
}
