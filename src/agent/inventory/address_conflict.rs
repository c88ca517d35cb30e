//! Distinguishes a later write of this agent from one of another agent at the same address. Pure.
//!
//! A write that discovery calls stale was overtaken by one with a later epoch. If an earlier run of this
//! agent wrote that (the clock has gone back since), or the node that had the address before, then the next
//! epoch settles it. Another agent that is alive continues behind this agent's epoch in turn, at its next
//! heartbeat at the latest. The third stale write within a window therefore means a conflict: to go on would
//! make both agents remove each other's keys from the index in turn, and both would call themselves synced.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{CLAIM_STALES, CLAIM_WINDOW, CLAIM_WINDOW_HEARTBEATS};

/// This agent's claim to one address.
#[derive(Debug)]
pub(super) struct Claims {
    window: Duration,
    /// Times of stale writes, the last one first; at most [`CLAIM_STALES`].
    stales: VecDeque<Instant>,
    contested: bool,
}

impl Claims {
    /// The claim of an agent with this time between two heartbeats.
    pub(super) fn new(heartbeat_interval: Duration) -> Self {
        let window = CLAIM_WINDOW.max(heartbeat_interval * CLAIM_WINDOW_HEARTBEATS);
        Self { window, stales: VecDeque::new(), contested: false }
    }

    /// Records a stale write. Returns whether the address is contested; the agent then claims it again only
    /// after [`CLAIM_CONTESTED_PAUSE`].
    pub(super) fn stale(&mut self, now: Instant) -> bool {
        self.stales.push_front(now);
        self.stales.truncate(CLAIM_STALES);
        let oldest = self.stales.get(CLAIM_STALES - 1);
        self.contested |= oldest.is_some_and(|oldest| now.duration_since(*oldest) <= self.window);
        self.contested
    }

    /// Whether another agent uses the same address.
    pub(super) fn is_contested(&self) -> bool {
        self.contested
    }

    /// Whether the conflict has just ended, after a whole window without a stale write. A window is longer
    /// than [`CLAIM_CONTESTED_PAUSE`], so that this agent has claimed the address meanwhile, and nobody
    /// objected.
    pub(super) fn has_settled(&mut self, now: Instant) -> bool {
        let quiet = self.stales.front().is_none_or(|last| now.duration_since(*last) > self.window);
        let settled = self.contested && quiet;
        self.contested &= !quiet;
        settled
    }

    /// Forgets everything, because this node has another address now.
    pub(super) fn moved(&mut self) {
        self.stales.clear();
        self.contested = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(30);

    #[test]
    fn an_address_is_contested_after_the_third_stale_write_within_the_window() {
        let window = CLAIM_WINDOW.as_secs();
        // Seconds of stale writes, and whether the last one makes the address contested.
        let cases: [(&str, &[u64], bool); 6] = [
            ("a restart with a clock that went back", &[1], false),
            ("a handover from one worker to the next", &[1, 2], false),
            ("another agent that goes on in its turn", &[1, 20, 45], true),
            ("one that takes its time", &[1, window / 2, window], true),
            ("a node that is restarted with a bad clock now and then", &[1, window, 2 * window], false),
            ("the last three count", &[1, 2, 2 * window, 2 * window + 1], false),
        ];
        for (case, seconds, expected) in cases {
            let (mut claims, start) = (Claims::new(BEAT), Instant::now());
            let mut contested = false;
            for second in seconds {
                contested = claims.stale(start + Duration::from_secs(*second));
            }
            assert_eq!((contested, claims.is_contested()), (expected, expected), "{case}");
        }
    }

    #[test]
    fn agents_that_beat_seldom_have_a_longer_window() {
        let (mut claims, start, hour) =
            (Claims::new(Duration::from_secs(3_600)), Instant::now(), Duration::from_secs(3_600));
        assert!(!claims.stale(start) && !claims.stale(start + hour));
        assert!(claims.stale(start + 2 * hour));
    }

    #[test]
    fn a_contested_address_settles_after_a_window_without_a_stale_write_or_by_moving() {
        let (mut claims, start) = (Claims::new(BEAT), Instant::now());
        for second in 0..3 {
            claims.stale(start + Duration::from_secs(second));
        }
        let last = start + Duration::from_secs(2);
        assert!(!claims.has_settled(last + CLAIM_WINDOW) && claims.is_contested());
        let moment = Duration::from_millis(1);
        assert!(claims.has_settled(last + CLAIM_WINDOW + moment) && !claims.is_contested());
        assert!(!claims.has_settled(last + 2 * CLAIM_WINDOW), "said once");
        let later = last + 3 * CLAIM_WINDOW;
        for second in 0..3 {
            claims.stale(later + Duration::from_secs(second));
        }
        claims.moved();
        assert!(!claims.is_contested() && !claims.has_settled(later));
    }
}
