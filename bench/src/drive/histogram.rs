//! Latencies in buckets that grow with them: at most 3 % wide, from a microsecond to an hour.

use std::time::Duration;

/// Buckets a power of two: the last bits that count.
const BITS: u32 = 5;
/// Powers of two beyond the exact values.
const POWERS: u32 = 27;
const BUCKETS: usize = ((POWERS + 1) << BITS) as usize;

/// How often each latency was seen.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u32>,
    count: u64,
    most: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Vec::new(), count: 0, most: Duration::ZERO }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, latency: Duration) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        self.counts[bucket(micros(latency))] += 1;
        self.count += 1;
        self.most = self.most.max(latency);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn most(&self) -> Duration {
        self.most
    }

    /// The latency that `share` (0 to 1) of all do not exceed; zero if there are none.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (position, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Duration::from_micros(upper(position)).min(self.most);
            }
        }
        self.most
    }

    /// `p50 / p99 / max` in milliseconds.
    pub(crate) fn text(&self) -> String {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        format!("{:.1} / {:.1} / {:.0}", ms(self.quantile(0.5)), ms(self.quantile(0.99)), ms(self.most()))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts.clone_from(&other.counts);
        } else {
            self.counts.iter_mut().zip(&other.counts).for_each(|(ours, theirs)| *ours += theirs);
        }
        self.count += other.count;
        self.most = self.most.max(other.most);
    }
}

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}

fn bucket(micros: u64) -> usize {
    let shift = (64 - micros.leading_zeros()).saturating_sub(BITS + 1);
    let position = (u64::from(shift) << BITS) + (micros >> shift);
    usize::try_from(position).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper(position: usize) -> u64 {
    let position = position as u64;
    let shift = (position >> BITS).saturating_sub(1);
    let mantissa = position - (shift << BITS);
    ((mantissa + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_at_most_three_percent_wide_and_none_overlap() {
        let mut before = 0;
        for position in 1..BUCKETS - 1 {
            let high = upper(position);
            assert_eq!(bucket(high), position);
            assert_eq!(bucket(before + 1), position, "{before}");
            assert!((high - before - 1) as f64 <= 0.0313 * before.max(1) as f64 + 1.0, "{before}..{high}");
            before = high;
        }
        assert!(before > 3_600_000_000);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        let close = |share, ms: f64| {
            let found = histogram.quantile(share).as_secs_f64() * 1e3;
            assert!((found - ms).abs() <= ms * 0.04, "{share}: {found} for {ms}");
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
