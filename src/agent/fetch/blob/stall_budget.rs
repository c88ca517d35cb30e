//! How long one transfer waits for sources that stall or crawl.

use std::time::Duration;

use crate::limits::{STALL_BUDGET, STALL_FORGIVEN_BYTES};

/// The time that a transfer lost with slow sources. It is forgiven after [`STALL_FORGIVEN_BYTES`].
#[derive(Debug, Default)]
pub(super) struct StallBudget {
    lost: Duration,
    /// Bytes that came since the last loss.
    since_bytes: u64,
}

impl StallBudget {
    /// Notes that `bytes` came.
    pub(super) fn received(&mut self, bytes: u64) {
        self.since_bytes += bytes;
        if self.since_bytes >= STALL_FORGIVEN_BYTES {
            self.lost = Duration::ZERO;
        }
    }

    /// Notes that a source cost `time`.
    pub(super) fn lost(&mut self, time: Duration) {
        self.since_bytes = 0;
        self.lost += time;
    }

    /// Whether the transfer waits no longer.
    pub(super) fn is_spent(&self) -> bool {
        self.lost >= STALL_BUDGET
    }

    /// Whether the last thing that happened was a loss.
    pub(super) fn has_just_lost(&self) -> bool {
        self.lost > Duration::ZERO && self.since_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_lost_is_forgiven_after_enough_bytes() {
        let mut budget = StallBudget::default();
        budget.lost(STALL_BUDGET - Duration::from_millis(1));
        assert!(!budget.is_spent() && budget.has_just_lost());
        budget.received(STALL_FORGIVEN_BYTES - 1);
        assert!(!budget.has_just_lost());
        budget.lost(Duration::from_millis(1));
        assert!(budget.is_spent());
        budget.received(STALL_FORGIVEN_BYTES);
        assert!(!budget.is_spent());
    }
}
