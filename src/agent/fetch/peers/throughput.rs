//! How fast a source has been lately: bytes per second of waiting for it. Time in which nobody waited
//! for the source does not count.

use std::time::Duration;

use crate::limits::{SOURCE_BYTES_PER_SECOND_MIN, SOURCE_RATE_WINDOW_SECONDS};

const SECOND: Duration = Duration::from_secs(1);

/// The bytes that came in the last [`SOURCE_RATE_WINDOW_SECONDS`] seconds of waiting.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Bytes of each whole second; the oldest is overwritten next.
    seconds: [u64; SOURCE_RATE_WINDOW_SECONDS],
    /// Whole seconds so far.
    filled: usize,
    /// Bytes of the second that is not over.
    current_bytes: u64,
    /// The part of that second which is over.
    current_waited: Duration,
}

impl Pace {
    /// Adds `bytes`, which came after a wait of `waited`.
    pub(crate) fn add(&mut self, waited: Duration, bytes: u64) {
        self.current_waited += waited;
        self.current_bytes += bytes;
        while self.current_waited >= SECOND {
            self.current_waited -= SECOND;
            self.seconds[self.filled % SOURCE_RATE_WINDOW_SECONDS] = std::mem::take(&mut self.current_bytes);
            self.filled += 1;
        }
    }

    /// The rate over the window; `None` until the window is full.
    pub(crate) fn bytes_per_second(&self) -> Option<u64> {
        let is_full = self.filled >= SOURCE_RATE_WINDOW_SECONDS;
        is_full.then(|| self.seconds.iter().sum::<u64>() / SOURCE_RATE_WINDOW_SECONDS as u64)
    }

    /// Whether the rate over a full window is below the least rate.
    pub(super) fn is_too_slow(&self) -> bool {
        let least = SOURCE_BYTES_PER_SECOND_MIN * SOURCE_RATE_WINDOW_SECONDS as u64;
        self.filled >= SOURCE_RATE_WINDOW_SECONDS && self.seconds.iter().sum::<u64>() < least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_bytes_at_first_hide_slow_ones_for_no_longer_than_a_window_and_a_second() {
        let mut pace = Pace::default();
        pace.add(Duration::from_millis(10), 32 << 20);
        let mut seconds = 0;
        while !pace.is_too_slow() {
            pace.add(SECOND, 1);
            seconds += 1;
            assert!(seconds <= SOURCE_RATE_WINDOW_SECONDS + 1, "never found out");
        }
        assert_eq!(seconds, SOURCE_RATE_WINDOW_SECONDS + 1);
    }

    #[test]
    fn the_least_rate_is_fast_enough_and_a_byte_less_is_not() {
        for (short_by, too_slow) in [(0, false), (1, true)] {
            let mut pace = Pace::default();
            for _ in 0..SOURCE_RATE_WINDOW_SECONDS {
                pace.add(SECOND, SOURCE_BYTES_PER_SECOND_MIN - short_by);
            }
            assert_eq!(pace.is_too_slow(), too_slow);
        }
    }
}
