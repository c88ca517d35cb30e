//! Where the log ended a moment ago. While thousands of entries a second come in, a learner that keeps
//! pace still lacks more of them than a fixed number: what it has tells more when it is held against
//! what the leader had then.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use tokio::time::Instant;

use crate::limits::{LAG_SAMPLE_AGE, LAG_SAMPLE_AGE_MAX};

/// Last log indices, the oldest first.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Recent(Mutex<VecDeque<(Instant, u64)>>);

impl Recent {
    /// Notes the last log index `last` at the time `at`. To be called a few times a second.
    pub(in crate::cluster) fn note(&self, at: Instant, last: u64) {
        let mut samples = self.samples();
        samples.retain(|(then, _)| at.saturating_duration_since(*then) <= LAG_SAMPLE_AGE_MAX);
        samples.push_back((at, last));
    }

    /// The last log index [`LAG_SAMPLE_AGE`], or a little earlier; `None`: not known.
    pub(super) fn before(&self, now: Instant) -> Option<u64> {
        let samples = self.samples();
        let old = |then: Instant| {
            (LAG_SAMPLE_AGE..=LAG_SAMPLE_AGE_MAX).contains(&now.saturating_duration_since(then))
        };
        samples.iter().rev().find(|(then, _)| old(*then)).map(|(_, last)| *last)
    }

    fn samples(&self) -> MutexGuard<'_, VecDeque<(Instant, u64)>> {
        self.0.lock().expect("nothing panics while it holds the samples")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_log_of_two_seconds_ago_is_known_and_no_older_one() {
        let (recent, start) = (Recent::default(), Instant::now());
        let after = |millis: u64| start + Duration::from_millis(millis);
        for half in 0..20 {
            recent.note(after(half * 500), half * 100);
        }
        assert_eq!(recent.before(after(9500)), Some(1500), "the youngest that is old enough");
        assert_eq!(recent.before(after(9499)), Some(1400));
        assert_eq!(recent.before(after(13_500)), Some(1900));
        assert_eq!(recent.before(after(13_501)), None, "nobody has looked since");
        assert_eq!(Recent::default().before(start), None);
        assert!(recent.samples().len() <= 9, "{recent:?}");
    }
}
