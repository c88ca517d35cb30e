//! One child of a source, and whether it is slow. Pure: the time is an argument.
//!
//! A slow child holds back all that receive from it, so that it is found within a fraction of a second: over
//! [`CHILD_SLOW_AFTER`] it takes less than one in [`CHILD_SLOW_SHARE`] of what it should. That is what its siblings
//! take on average, or its part of what came to the source meanwhile, and never more than there was to take.

use std::net::SocketAddr;
use std::time::Duration;

use super::Applicant;
use crate::limits::{CHILD_SLOW_AFTER, CHILD_SLOW_BYTES_MIN, CHILD_SLOW_SHARE, CHILD_STALLED_AFTER};

/// A node that receives from this one.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) address: SocketAddr,
    pub(super) zone: String,
    /// Contiguous bytes that it has.
    pub(super) have_bytes: u64,
    /// Whether it came because its former source was slow.
    pub(super) has_left_slow: bool,
    pub(super) is_slow: bool,
    /// When it was last named to an applicant.
    pub(super) named: Option<Duration>,
    window: Window,
    /// Bytes that it had when it was looked at last, and when there were more than before, or no more to take.
    took: (u64, Duration),
    /// When it was last seen with all that the source has.
    had_all: Option<Duration>,
    /// Bytes a second that it took in the last window.
    last_rate: Option<u64>,
}

/// A time over which a child is watched.
#[derive(Debug)]
struct Window {
    since: Duration,
    /// Bytes that the child took.
    taken: u64,
    /// Bytes that the source had at its start.
    source_had: u64,
    /// How many of them the child lacked.
    lacked: u64,
}

impl Child {
    /// A child that comes now to a source with `source_had` bytes.
    pub(super) fn new(applicant: &Applicant, source_had: u64, now: Duration) -> Self {
        Self {
            address: applicant.address,
            zone: applicant.zone.clone(),
            have_bytes: applicant.have_bytes,
            has_left_slow: applicant.has_left_slow,
            is_slow: false,
            named: None,
            window: Window::starts(source_had, applicant.have_bytes, now),
            took: (applicant.have_bytes, now),
            had_all: None,
            last_rate: None,
        }
    }

    /// Notes that the child has `have_bytes` by now.
    pub(super) fn sent(&mut self, have_bytes: u64) {
        self.window.taken += have_bytes.saturating_sub(self.have_bytes);
        self.have_bytes = have_bytes;
    }

    /// Bytes a second that it takes, once that is known.
    pub(super) fn rate(&self, now: Duration) -> Option<u64> {
        let is_new =
            self.last_rate.is_none() && now.saturating_sub(self.window.since) >= CHILD_SLOW_AFTER / 2;
        if is_new { Some(self.window.rate(now)) } else { self.last_rate }
    }

    /// Decides anew whether the child is slow, if it was watched for long enough. The source has `source_has` bytes
    /// and `children` children, and the others take `of_others` bytes a second on average.
    pub(super) fn judge(&mut self, source_has: u64, children: u64, of_others: u64, now: Duration) {
        if self.have_bytes >= source_has {
            self.had_all = Some(now);
        }
        if self.have_bytes > self.took.0 || self.have_bytes >= source_has {
            self.took = (self.have_bytes, now);
        } else if now.saturating_sub(self.took.1) >= CHILD_STALLED_AFTER {
            // It is not there, however little there is to take, and whatever others do.
            self.is_slow = true;
            return;
        }
        let elapsed = now.saturating_sub(self.window.since);
        if elapsed < CHILD_SLOW_AFTER {
            return;
        }
        let came = source_has.saturating_sub(self.window.source_had);
        let like_others = (of_others as f64 * elapsed.as_secs_f64()) as u64;
        let should_take = (came / children.max(1)).max(like_others).min(self.window.lacked + came);
        // One that had all there was waited for the source, and may have had little time since.
        let was_behind = self.had_all.is_none_or(|had_all| had_all < self.window.since);
        let is_slow = was_behind && self.window.taken * CHILD_SLOW_SHARE < should_take;
        if is_slow && should_take < CHILD_SLOW_BYTES_MIN {
            return;
        }
        self.is_slow = is_slow;
        self.last_rate = Some(self.window.rate(now));
        self.window = Window::starts(source_has, self.have_bytes, now);
    }
}

impl Window {
    fn starts(source_had: u64, child_had: u64, since: Duration) -> Self {
        Self { since, taken: 0, source_had, lacked: source_had.saturating_sub(child_had) }
    }

    /// Bytes a second that the child took until `now`.
    fn rate(&self, now: Duration) -> u64 {
        let elapsed = now.saturating_sub(self.since).as_secs_f64();
        if elapsed > 0.0 { (self.taken as f64 / elapsed) as u64 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// Whether a child is slow after a window in which it took `taken` MiB. At its start the source had `had` MiB, all
    /// of which the child lacked, and `came` MiB came to it; it has `children` children, of which the others took
    /// `others` MiB.
    fn is_slow(had: u64, came: u64, children: u64, others: u64, taken: u64) -> bool {
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let applicant = Applicant {
            address,
            zone: String::new(),
            have_bytes: 0,
            has_children: false,
            has_left_slow: false,
        };
        let mut child = Child::new(&applicant, had * MIB, Duration::ZERO);
        child.sent(taken * MIB);
        let of_others = (others * MIB) as f64 / CHILD_SLOW_AFTER.as_secs_f64();
        child.judge((had + came) * MIB, children, of_others as u64, CHILD_SLOW_AFTER);
        child.is_slow
    }

    #[test]
    fn a_child_is_compared_with_its_siblings_and_with_what_came_to_the_source() {
        for (had, came, children, others, taken, expected) in [
            (1_000, 0, 2, 90, 29, true),
            (1_000, 0, 2, 90, 30, false),
            (1_000, 0, 1, 0, 1, false), // nobody to compare it with
            (100, 90, 1, 0, 29, true),  // the only child of a node that receives itself
            (100, 90, 1, 0, 30, false),
            (100, 90, 2, 0, 16, false), // two share the link
            (100, 90, 2, 0, 14, true),
            (10, 10, 2, 90, 7, false),   // there was not more to take
            (1_000, 0, 2, 15, 0, false), // too few bytes to tell
            (1_000, 0, 2, 16, 0, true),
        ] {
            let slow = is_slow(had, came, children, others, taken);
            assert_eq!(slow, expected, "{had} {came} {children} {others} {taken}");
        }
    }

    #[test]
    fn a_child_that_takes_nothing_is_slow_however_little_there_is_until_it_takes_some() {
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let zone = String::new();
        let applicant = Applicant { address, zone, have_bytes: 0, has_children: false, has_left_slow: false };
        let mut child = Child::new(&applicant, 1, Duration::ZERO);
        let quarter = CHILD_STALLED_AFTER / 4;
        (1..4).for_each(|look| child.judge(1, 1, 0, quarter * look));
        assert!(!child.is_slow);
        child.judge(1, 1, 0, quarter * 4);
        assert!(child.is_slow, "one byte is left");
        child.sent(1);
        child.judge(1, 1, 0, quarter * 5);
        (6..20).for_each(|look| child.judge(1, 1, 0, quarter * look));
        assert!(!child.is_slow, "it has all");
    }

    #[test]
    fn a_child_that_waited_for_the_source_is_not_slow_when_much_comes_at_once() {
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let applicant = Applicant {
            address,
            zone: String::new(),
            have_bytes: 0,
            has_children: false,
            has_left_slow: false,
        };
        let mut child = Child::new(&applicant, 0, Duration::ZERO);
        child.judge(0, 1, 0, CHILD_SLOW_AFTER / 2);
        child.judge(100 * MIB, 1, 0, CHILD_SLOW_AFTER);
        assert!(!child.is_slow);
        child.judge(100 * MIB, 1, 0, CHILD_SLOW_AFTER * 2);
        assert!(!child.is_slow, "nothing came, and nobody else takes it");
        child.judge(200 * MIB, 1, 0, CHILD_SLOW_AFTER * 3);
        assert!(child.is_slow);
        child.sent(200 * MIB);
        child.judge(200 * MIB, 1, 0, CHILD_SLOW_AFTER * 4);
        assert!(!child.is_slow, "it has caught up");
    }
}
