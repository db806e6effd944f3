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
    /// Counts every latency in `latencies_us`.
    pub fn of(latencies_us: impl IntoIterator<Item = u64>) -> anyhow::Result<Latencies> {
        let mut histogram = Histogram::new_with_bounds(1, MAX_LATENCY_US, 3)
            .map_err(|error| anyhow::anyhow!("no histogram: {error:?}"))?;
        for latency_us in latencies_us {
            histogram.saturating_record(latency_us);
        }
        Ok(Latencies(histogram))
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
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
