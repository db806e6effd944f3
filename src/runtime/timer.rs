//! The rate of a simulated node's monotonic clock.
//!
//! **Why it exists.** A lease rests on clocks that run at about one rate. A world in which they all
//! run at exactly one proves nothing about it, so a simulated node's monotonic clock can run fast or
//! slow against the world's time. Consensus reads its clock and sets its timers here: heartbeats,
//! election timeouts and leases drift apart as they would on real machines. Deadlines of requests
//! go on in the world's time, which nothing may rest on.
//!
//! A clock of another rate is still an [`Instant`]: the world's, moved by what the rate has gained.

use std::time::Duration;

use parking_lot::Mutex;

use super::{Instant, Runtime, instant_now};

/// Parts per million in one.
const MILLION: i128 = 1_000_000;

/// A monotonic clock that may run at a rate of its own.
pub(super) struct TimerClock(Mutex<Reading>);

/// The clock showed `shown` at `since`, and has run at this rate from then on.
#[derive(Clone, Copy)]
struct Reading {
    shown: Instant,
    since: Instant,
    rate_ppm: i64,
}

impl TimerClock {
    pub fn new(now: Instant) -> TimerClock {
        TimerClock(Mutex::new(Reading { shown: now, since: now, rate_ppm: 0 }))
    }
}

impl Reading {
    fn rate(self) -> i128 {
        // A clock that stood still would never reach any deadline.
        (MILLION + i128::from(self.rate_ppm)).max(1)
    }

    fn at(self, now: Instant) -> Instant {
        let elapsed = now.saturating_duration_since(self.since);
        self.shown + scaled(elapsed, self.rate(), MILLION)
    }
}

/// `duration` times `by / of`.
fn scaled(duration: Duration, by: i128, of: i128) -> Duration {
    let nanos = duration.as_nanos() as i128 * by / of;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Runtime {
    fn timer(&self) -> Option<Reading> {
        self.0.simulated.as_ref().map(|simulated| *simulated.timer.0.lock())
    }

    /// Lets a simulated node's monotonic clock run fast, or slow where negative, from now on, by so
    /// many parts per million. It does not jump.
    pub fn set_timer_rate_ppm(&self, rate_ppm: i64) {
        if let Some(simulated) = &self.0.simulated {
            let now = instant_now();
            let mut reading = simulated.timer.0.lock();
            *reading = Reading { shown: reading.at(now), since: now, rate_ppm };
        }
    }

    /// What the monotonic clock of the node shows whose task asks; the real one outside a simulated
    /// node. For code that is given no handle, as [`Runtime::of_this_task`] is.
    pub fn timer_now_of_this_task() -> Instant {
        super::CURRENT.try_with(Runtime::timer_now).unwrap_or_else(|_| instant_now())
    }

    /// What the node's own monotonic clock shows; the real one's where the node is real.
    pub fn timer_now(&self) -> Instant {
        self.timer().map_or_else(instant_now, |reading| reading.at(instant_now()))
    }

    /// How long it takes until the node's own monotonic clock has gone on by `duration`.
    pub fn timer_sleep(&self, duration: Duration) -> Duration {
        match self.timer() {
            None => duration,
            // Up, not down: a timer never fires before its time.
            Some(reading) => {
                scaled(duration, MILLION, reading.rate())
                    + Duration::from_nanos(u64::from(reading.rate_ppm != 0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::in_a_paused_world;

    #[test]
    fn a_clock_that_runs_slow_shows_less_time_and_its_timers_take_longer() {
        in_a_paused_world(async {
            let ms = Duration::from_millis;
            let runtime = Runtime::simulated(1, 0);
            let (world, own) = (runtime.now(), runtime.timer_now());
            assert_eq!(world, own);
            runtime.set_timer_rate_ppm(-500_000);
            runtime.sleep(ms(100)).await;
            assert_eq!(runtime.timer_now() - own, ms(50));
            assert_eq!(runtime.timer_sleep(ms(10)).as_millis(), 20);
            runtime.set_timer_rate_ppm(1_000_000);
            runtime.sleep(ms(10)).await;
            assert_eq!(runtime.timer_now() - own, ms(70));
            assert_eq!(runtime.timer_sleep(ms(10)).as_millis(), 5);
        });
    }
}
