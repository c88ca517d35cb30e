//! How long the headers of a peer take, learned as TCP learns its retransmission time-out: smoothed
//! mean plus four times the smoothed deviation (RFC 6298, section 2).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::limits::{HEDGE_DELAY_MAX, HEDGE_DELAY_MIN};

/// The time without headers after which another peer is asked as well.
#[derive(Debug, Default)]
pub(super) struct HeaderDelay {
    learned: Mutex<Option<HeaderTimes>>,
}

/// Smoothed times until headers came.
#[derive(Clone, Copy, Debug)]
struct HeaderTimes {
    mean: Duration,
    deviation: Duration,
}

impl HeaderDelay {
    /// Learns that headers came after `took`.
    pub(super) fn learn(&self, took: Duration) {
        // Two durations are whole after any panic.
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        *learned = Some(match *learned {
            None => HeaderTimes { mean: took, deviation: took / 2 },
            Some(HeaderTimes { mean, deviation }) => HeaderTimes {
                mean: mean * 7 / 8 + took / 8,
                deviation: deviation * 3 / 4 + mean.abs_diff(took) / 4,
            },
        });
    }

    /// The present delay.
    pub(super) fn now(&self) -> Duration {
        let learned = *self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = learned.map_or(HEDGE_DELAY_MAX, |learned| learned.mean + learned.deviation * 4);
        delay.clamp(HEDGE_DELAY_MIN, HEDGE_DELAY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_follows_what_was_seen_within_its_bounds() {
        let delay = HeaderDelay::default();
        assert_eq!(delay.now(), HEDGE_DELAY_MAX, "nothing learned yet");
        for _ in 0..50 {
            delay.learn(Duration::from_millis(1));
        }
        assert_eq!(delay.now(), HEDGE_DELAY_MIN);
        for _ in 0..50 {
            delay.learn(Duration::from_millis(100));
        }
        let learned = delay.now();
        assert!((100..150).contains(&learned.as_millis()), "{learned:?}");
        for _ in 0..50 {
            delay.learn(Duration::from_secs(5));
        }
        assert_eq!(delay.now(), HEDGE_DELAY_MAX);
    }
}
