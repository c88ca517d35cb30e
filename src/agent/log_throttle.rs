//! Decides which failures of a series are logged. A failure that repeats adds nothing each time: it would
//! fill the log, and displace what matters.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::REPEATED_FAILURE_LOG_PAUSE;

/// Passes the first failure of a series, each one whose text differs from the one before, and one after each
/// pause, which doubles.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    last: Option<Logged>,
}

/// The failure that was logged last.
#[derive(Debug)]
struct Logged {
    text: String,
    /// When the same failure is logged again.
    due: Instant,
    pause: Duration,
    /// Number of times that it was left out since.
    left_out: u64,
}

impl LogThrottle {
    /// Whether a failure with this text is logged at `now`: `Some` with the number of equal failures that
    /// were left out before it.
    pub(crate) fn passes(&mut self, text: &str, now: Instant) -> Option<u64> {
        let (pause, left_out) = match &mut self.last {
            Some(last) if last.text == text && now < last.due => {
                last.left_out += 1;
                return None;
            }
            Some(last) if last.text == text => {
                ((last.pause * 2).min(REPEATED_FAILURE_LOG_PAUSE.1), last.left_out)
            }
            _ => (REPEATED_FAILURE_LOG_PAUSE.0, 0),
        };
        self.last = Some(Logged { text: text.to_owned(), due: now + pause, pause, left_out: 0 });
        Some(left_out)
    }

    /// Ends the series after a success.
    pub(crate) fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: an agent without containerd's socket logged the same sentence eleven times in 15 s.
    #[tokio::test(start_paused = true)]
    async fn a_failure_that_repeats_is_logged_once_and_then_ever_more_seldom() {
        let (mut throttle, start) = (LogThrottle::default(), Instant::now());
        let mut logged = Vec::new();
        for second in 0..3600 {
            if throttle.passes("no socket", start + Duration::from_secs(second)).is_some() {
                logged.push(second);
            }
        }
        assert_eq!(logged, [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_new_is_logged_at_once_and_what_was_left_out_is_counted() {
        let (mut throttle, now) = (LogThrottle::default(), Instant::now());
        assert_eq!(throttle.passes("a", now), Some(0));
        assert_eq!(throttle.passes("a", now), None);
        assert_eq!(throttle.passes("a", now), None);
        assert_eq!(throttle.passes("a", now + REPEATED_FAILURE_LOG_PAUSE.0), Some(2));
        assert_eq!(throttle.passes("b", now), Some(0), "it says something else");
        assert_eq!(throttle.passes("b", now), None);
        throttle.reset();
        assert_eq!(throttle.passes("b", now), Some(0), "it had worked meanwhile");
    }
}
