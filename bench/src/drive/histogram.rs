//! Latencies with a resolution of 1 % (two significant digits), from a microsecond to [`LATENCY_MAX`].

use std::time::Duration;

/// Significant digits of a latency: latencies that differ by more than 1 % are counted separately.
const SIGNIFICANT_DIGITS: u8 = 2;
/// Longest latency that is counted; longer ones count as this, but the maximum is exact.
const LATENCY_MAX: Duration = Duration::from_secs(3_600);

/// Number of occurrences of each latency.
#[derive(Clone, Default)]
pub(crate) struct Histogram {
    /// Latencies in microseconds. Allocated with the first one, because most histograms of a load stay empty.
    seen: Option<hdrhistogram::Histogram<u32>>,
    most: Duration,
}

impl Histogram {
    pub(crate) fn record(&mut self, latency: Duration) {
        self.seen.get_or_insert_with(empty).saturating_record(micros(latency));
        self.most = self.most.max(latency);
    }

    pub(crate) fn count(&self) -> u64 {
        self.seen.as_ref().map_or(0, hdrhistogram::Histogram::len)
    }

    pub(crate) fn most(&self) -> Duration {
        self.most
    }

    /// Latency that `share` (0 to 1) of all do not exceed, at most 1 % too high; zero without latencies.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let micros = self.seen.as_ref().map_or(0, |seen| seen.value_at_quantile(share));
        Duration::from_micros(micros).min(self.most)
    }

    /// `p50 / p99 / max` in milliseconds.
    pub(crate) fn text(&self) -> String {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        format!("{:.1} / {:.1} / {:.0}", ms(self.quantile(0.5)), ms(self.quantile(0.99)), ms(self.most()))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if let Some(theirs) = &other.seen {
            self.seen.get_or_insert_with(empty).add(theirs).expect("both have the same bounds");
        }
        self.most = self.most.max(other.most);
    }
}

fn empty() -> hdrhistogram::Histogram<u32> {
    hdrhistogram::Histogram::new_with_max(micros(LATENCY_MAX), SIGNIFICANT_DIGITS)
        .expect("the bounds are valid")
}

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_distinct_from_a_microsecond_to_an_hour() {
        let mut micros = 1;
        while micros < 3_600_000_000 {
            let mut histogram = Histogram::default();
            histogram.record(Duration::from_micros(micros));
            histogram.record(LATENCY_MAX);
            let found = histogram.quantile(0.5).as_micros() as u64;
            assert!(
                found >= micros && (found - micros) as f64 <= 0.01 * micros as f64,
                "{found} for {micros}"
            );
            micros += micros / 7 + 1;
        }
        let mut beyond = Histogram::default();
        beyond.record(2 * LATENCY_MAX);
        assert_eq!((beyond.count(), beyond.most()), (1, 2 * LATENCY_MAX));
        assert!(beyond.quantile(0.5) >= LATENCY_MAX);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        let close = |share, ms: f64| {
            let found = histogram.quantile(share).as_secs_f64() * 1e3;
            assert!((found - ms).abs() <= ms * 0.02, "{share}: {found} for {ms}");
        };
        close(0.5, 500.0);
        close(0.99, 990.0);
        assert_eq!(histogram.quantile(1.0), Duration::from_secs(1));
        let mut both = Histogram::default();
        assert_eq!(both.quantile(0.5), Duration::ZERO);
        both.add(&histogram);
        both.add(&histogram);
        assert_eq!((both.count(), both.quantile(0.5)), (2000, histogram.quantile(0.5)));
    }
}
