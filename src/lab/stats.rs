//! Latency distributions and other small sums.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency told apart, in microseconds; longer ones count as this long.
const MAX_LATENCY_US: u64 = 60_000_000;

/// Latencies in microseconds, to three significant digits.
pub struct Latencies(Histogram<u64>);

/// What a report says of a distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

impl Latencies {
    /// None so far.
    pub fn new() -> anyhow::Result<Latencies> {
        Histogram::new_with_bounds(1, MAX_LATENCY_US, 3)
            .map(Latencies)
            .map_err(|error| anyhow::anyhow!("no histogram: {error:?}"))
    }

    /// Counts every latency in `latencies_us`.
    pub fn of(latencies_us: impl IntoIterator<Item = u64>) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::new()?;
        latencies_us.into_iter().for_each(|latency_us| latencies.record(latency_us));
        Ok(latencies)
    }

    /// Counts one latency.
    pub fn record(&mut self, latency_us: u64) {
        self.0.saturating_record(latency_us);
    }

    /// Counts all that `other` has counted.
    pub fn add(&mut self, other: &Latencies) -> anyhow::Result<()> {
        self.0.add(&other.0).map_err(|error| anyhow::anyhow!("histograms differ: {error:?}"))
    }

    /// The usual percentiles; `None` where nothing was counted.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile| self.0.value_at_quantile(quantile);
        (!self.0.is_empty()).then(|| Percentiles {
            count: self.0.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.0.max(),
        })
    }
}

/// The middle of `values`; `None` where there are none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The longest time between two of these instants within the window, whose ends count as well.
pub fn longest_gap(instants_us: impl Iterator<Item = u64>, (from_us, to_us): (u64, u64)) -> u64 {
    let inside = |at_us: &u64| (from_us..to_us).contains(at_us);
    let mut at_us: Vec<u64> = instants_us.filter(inside).collect();
    at_us.extend([from_us, to_us]);
    at_us.sort_unstable();
    at_us.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

/// The value that a share of all `values` does not exceed (nearest rank): exact, for few of them.
pub fn nearest_rank(values: &[u64], share: f64) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_what_was_counted() {
        let all = Latencies::of(1..=1000).expect("a histogram").percentiles().expect("counted");
        assert_eq!((all.count, all.p50_us, all.p99_us, all.max_us), (1000, 500, 990, 1000));
        assert_eq!(Latencies::of([]).expect("a histogram").percentiles(), None);
        let long = Latencies::of([u64::MAX]).expect("a histogram").percentiles().expect("one");
        assert!(long.max_us >= MAX_LATENCY_US);
    }

    #[test]
    fn the_nearest_rank_is_one_of_the_values() {
        assert_eq!(nearest_rank(&[], 0.5), None);
        assert_eq!(nearest_rank(&[7], 0.99), Some(7));
        let values: Vec<u64> = (1..=10).rev().collect();
        assert_eq!(nearest_rank(&values, 0.5), Some(5));
        assert_eq!(nearest_rank(&values, 0.99), Some(10));
        assert_eq!(nearest_rank(&values, 0.0), Some(1));
    }

    #[test]
    fn the_longest_gap_reaches_to_the_ends_of_the_window() {
        assert_eq!(longest_gap([].into_iter(), (100, 900)), 800);
        assert_eq!(longest_gap([50, 300, 200, 950].into_iter(), (100, 900)), 600);
    }

    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
