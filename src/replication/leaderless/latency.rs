//! How long a replica's answers took of late: an average to choose by, and a percentile to hedge by.
//!
//! The percentile is read off counts in buckets whose width grows with the time, four to each doubling,
//! so that it is right to a fifth of itself. Counts are halved every [`HALVE_EVERY`] answers: what was
//! long ago weighs little. As in Dean, Barroso, "The Tail at Scale" (2013), which hedges after the 95th
//! percentile.

use parking_lot::Mutex;

/// Buckets to each doubling of the time, as a power of two.
const FRACTION_BITS: u32 = 2;

/// Up to some minutes, in microseconds.
const BUCKETS: usize = 28 << FRACTION_BITS;

/// Answers after which what is known counts half.
const HALVE_EVERY: u32 = 1_024;

/// Answers without which a percentile says nothing.
const LEAST_ANSWERS: u32 = 20;

/// How much of the known average a new measurement replaces: one part in this many.
const SMOOTHING: u64 = 8;

/// How long one replica takes for one kind of request.
pub struct Latency(Mutex<State>);

struct State {
    average_us: u64,
    buckets: [u32; BUCKETS],
    count: u32,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency(Mutex::new(State { average_us: 0, buckets: [0; BUCKETS], count: 0 }))
    }
}

impl Latency {
    /// Takes in how long an answer took.
    pub fn learn(&self, took_us: u64) {
        let took_us = took_us.max(1);
        let mut state = self.0.lock();
        state.average_us = match state.average_us {
            0 => took_us,
            known => (known - known / SMOOTHING + took_us / SMOOTHING).max(1),
        };
        state.count_one(took_us);
    }

    /// Says that an answer has been awaited for `waited_us` in vain.
    pub fn note_slow(&self, waited_us: u64) {
        let mut state = self.0.lock();
        state.average_us = state.average_us.max(waited_us);
        state.count_one(waited_us);
    }

    /// The average of late, in microseconds; 0 where nothing is known.
    pub fn average_us(&self) -> u64 {
        self.0.lock().average_us
    }

    /// What 95 of a hundred answers took at most of late, in microseconds; `None` where too few are
    /// known.
    pub fn p95_us(&self) -> Option<u64> {
        let state = self.0.lock();
        if state.count < LEAST_ANSWERS {
            return None;
        }
        let mut left = state.count - state.count / 20;
        let place = state.buckets.iter().position(|count| {
            left = left.saturating_sub(*count);
            left == 0
        });
        place.map(upper_us)
    }
}

impl State {
    fn count_one(&mut self, took_us: u64) {
        self.buckets[bucket(took_us.max(1))] += 1;
        self.count += 1;
        if self.count >= HALVE_EVERY {
            self.buckets.iter_mut().for_each(|count| *count /= 2);
            self.count = self.buckets.iter().sum();
        }
    }
}

/// Where a time falls.
fn bucket(us: u64) -> usize {
    let doublings = us.ilog2();
    let fraction = (us << FRACTION_BITS >> doublings) & ((1 << FRACTION_BITS) - 1);
    (((doublings << FRACTION_BITS) as u64 + fraction) as usize).min(BUCKETS - 1)
}

/// The longest time that falls into a bucket.
fn upper_us(bucket: usize) -> u64 {
    let (doublings, fraction) = (bucket >> FRACTION_BITS, bucket & ((1 << FRACTION_BITS) - 1));
    let quarters = (1 << FRACTION_BITS) as u64 + fraction as u64 + 1;
    ((quarters << doublings) >> FRACTION_BITS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_percentile_is_that_of_late() {
        let latency = Latency::default();
        assert_eq!(latency.p95_us(), None);
        (0..100).for_each(|number| latency.learn(if number % 20 == 7 { 50_000 } else { 1_000 }));
        let usual = latency.p95_us().expect("known");
        assert!((1_000..=1_250).contains(&usual), "{usual}");
        (0..20).for_each(|_| latency.learn(50_000));
        assert!(latency.p95_us().is_some_and(|p95| (50_000..=62_500).contains(&p95)));
        (0..20_000).for_each(|_| latency.learn(300));
        assert!(latency.p95_us().is_some_and(|p95| (300..=375).contains(&p95)), "forgotten");
    }

    #[test]
    fn an_average_follows_and_one_that_hangs_counts_as_slow() {
        let latency = Latency::default();
        assert_eq!(latency.average_us(), 0);
        (0..100).for_each(|_| latency.learn(800));
        assert_eq!(latency.average_us(), 800);
        latency.note_slow(30_000);
        assert_eq!(latency.average_us(), 30_000);
        latency.note_slow(10);
        assert_eq!(latency.average_us(), 30_000);
    }

    proptest! {
        #[test]
        fn a_time_lies_in_its_bucket(us in 1_u64..100_000_000) {
            let upper = upper_us(bucket(us));
            prop_assert!(upper >= us && upper <= us + us / 4 + 1, "{} {}", us, upper);
        }
    }
}
