//! Whether a transfer waits for its source or for its reader. Several sources help only in the first case.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{STRIPE_JUDGED_AFTER, STRIPE_WAIT_FACTOR, STRIPED_BLOB_BYTES_MIN};

/// The time that was spent on each side since the last comparison.
#[derive(Debug, Default)]
pub(crate) struct Bottleneck {
    since: Option<Instant>,
    source: Duration,
    reader: Duration,
}

impl Bottleneck {
    /// Notes that the reader has dealt with what it had, and wants more.
    pub(crate) fn asks_source(&mut self) {
        let lap = self.lap();
        self.reader += lap;
    }

    /// Notes that the source has sent something.
    pub(crate) fn source_sent(&mut self) {
        let lap = self.lap();
        self.source += lap;
    }

    /// Whether several sources would be faster for what is left. The comparison begins anew every
    /// [`STRIPE_JUDGED_AFTER`].
    pub(crate) fn is_the_source(&mut self, left_bytes: u64) -> bool {
        if self.source + self.reader < STRIPE_JUDGED_AFTER {
            return false;
        }
        let is_the_source = self.source > self.reader * STRIPE_WAIT_FACTOR;
        (self.source, self.reader) = (Duration::ZERO, Duration::ZERO);
        is_the_source && left_bytes >= STRIPED_BLOB_BYTES_MIN
    }

    /// The time since the last call.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        self.since.replace(now).map_or(Duration::ZERO, |since| now - since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn the_source_is_waited_for_if_that_takes_much_longer_than_the_reader() {
        let ms = Duration::from_millis;
        for (source, reader, left_bytes, expected) in [
            (300, 10, STRIPED_BLOB_BYTES_MIN, true),
            (300, 10, STRIPED_BLOB_BYTES_MIN - 1, false),
            (300, 100, STRIPED_BLOB_BYTES_MIN, false),
            (100, 10, STRIPED_BLOB_BYTES_MIN, false),
        ] {
            let mut bottleneck = Bottleneck::default();
            bottleneck.asks_source();
            advance(ms(source)).await;
            bottleneck.source_sent();
            advance(ms(reader)).await;
            bottleneck.asks_source();
            assert_eq!(bottleneck.is_the_source(left_bytes), expected, "{source} {reader} {left_bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_comparison_begins_anew() {
        let mut bottleneck = Bottleneck::default();
        bottleneck.asks_source();
        advance(STRIPE_JUDGED_AFTER).await;
        bottleneck.source_sent();
        assert!(bottleneck.is_the_source(u64::MAX) && !bottleneck.is_the_source(u64::MAX));
    }
}
