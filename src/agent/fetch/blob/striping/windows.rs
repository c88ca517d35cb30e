//! The windows of one striped blob: which is asked for next, and which is passed on next. Pure, except that it
//! reads the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::limits::{
    FAILOVER_TIMEOUT, STRIPE_AHEAD_BYTES_MAX, STRIPE_STRAGGLES_AFTER_MIN, STRIPE_STRAGGLES_FACTOR,
    STRIPE_WINDOW_BYTES,
};

/// All windows that are not passed on, by the offset of their start.
#[derive(Debug)]
pub(super) struct Windows {
    /// The first window that no peer was asked for.
    next: u64,
    /// The end of the last window.
    end: u64,
    /// Windows that have to be asked for again.
    returned: BTreeSet<u64>,
    /// Windows that peers were asked for.
    coming: BTreeMap<u64, Coming>,
    /// Windows that have come.
    here: BTreeMap<u64, Window>,
    /// The window that is passed on next.
    passed_on_next: u64,
    /// How long a window takes, smoothed.
    usual: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Coming {
    since: Instant,
    /// Whether two peers were asked.
    is_doubled: bool,
}

/// The bytes of one window, and the memory that they take.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) pieces: Vec<Bytes>,
    /// None for a window that was passed on next when it was asked for.
    pub(super) _memory: Option<OwnedSemaphorePermit>,
}

/// What a worker does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It fetches the window that starts here.
    Fetch(u64),
    /// It waits for news, or until this time has passed.
    Wait(Duration),
    /// All windows have come.
    Done,
}

/// What a window that has come early must wait for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing: it is passed on next.
    Now,
    /// An earlier window has to be asked for again, and goes first.
    AfterReturned,
    /// Memory, or its turn.
    Later,
}

impl Windows {
    /// The windows from `start` to `end`.
    pub(super) fn new(start: u64, end: u64) -> Self {
        Self {
            next: start,
            end,
            returned: BTreeSet::new(),
            coming: BTreeMap::new(),
            here: BTreeMap::new(),
            passed_on_next: start,
            usual: None,
        }
    }

    /// Chooses what a worker does next.
    pub(super) fn choose(&mut self) -> Next {
        let now = Instant::now();
        let coming = Coming { since: now, is_doubled: false };
        if let Some(start) = self.returned.pop_first() {
            self.coming.insert(start, coming);
            return Next::Fetch(start);
        }
        if self.next < self.end && self.next < self.passed_on_next + STRIPE_AHEAD_BYTES_MAX {
            let start = self.next;
            self.next = window_end(start, self.end);
            self.coming.insert(start, coming);
            return Next::Fetch(start);
        }
        let Some((start, first)) = self.coming.iter_mut().next() else {
            return if self.next < self.end { Next::Wait(FAILOVER_TIMEOUT) } else { Next::Done };
        };
        let Some(usual) = self.usual else { return Next::Wait(FAILOVER_TIMEOUT) };
        let straggles_at = first.since + (usual * STRIPE_STRAGGLES_FACTOR).max(STRIPE_STRAGGLES_AFTER_MIN);
        if first.is_doubled {
            Next::Wait(FAILOVER_TIMEOUT)
        } else if straggles_at <= now {
            first.is_doubled = true;
            Next::Fetch(*start)
        } else {
            Next::Wait(straggles_at - now)
        }
    }

    /// Notes that the window is asked for now. It may have waited for memory, which does not count against the
    /// peer. Returns the time.
    pub(super) fn begin(&mut self, start: u64) -> Instant {
        let now = Instant::now();
        if let Some(coming) = self.coming.get_mut(&start) {
            coming.since = now;
        }
        now
    }

    /// Notes that a peer failed to send the window. If two peers were asked, the other one still may.
    pub(super) fn give_back(&mut self, start: u64) {
        match self.coming.get_mut(&start) {
            Some(coming) if coming.is_doubled => coming.is_doubled = false,
            Some(_) => {
                self.coming.remove(&start);
                self.returned.insert(start);
            }
            None => {}
        }
    }

    /// Adds a window that took so long. Returns false if another peer has brought it before.
    pub(super) fn arrived(&mut self, start: u64, window: Window, took: Duration) -> bool {
        if self.coming.remove(&start).is_none() {
            return false;
        }
        self.here.insert(start, window);
        self.usual = Some(self.usual.map_or(took, |usual| usual * 3 / 4 + took / 4));
        true
    }

    /// Whether the window at `start` is passed on next.
    pub(super) fn turn_of(&self, start: u64) -> Turn {
        if self.passed_on_next >= start {
            Turn::Now
        } else if self.returned.first().is_some_and(|returned| *returned < start) {
            Turn::AfterReturned
        } else {
            Turn::Later
        }
    }

    /// Takes out the window that is passed on next, if it has come.
    pub(super) fn take_next(&mut self) -> Option<Window> {
        let start = self.passed_on_next;
        let window = self.here.remove(&start)?;
        self.passed_on_next = window_end(start, self.end);
        Some(window)
    }
}

/// Where the window at `start` ends, if the last one ends at `end`.
pub(super) fn window_end(start: u64, end: u64) -> u64 {
    end.min(start + STRIPE_WINDOW_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = STRIPE_WINDOW_BYTES;

    fn empty() -> Window {
        Window { pieces: Vec::new(), _memory: None }
    }

    #[tokio::test(start_paused = true)]
    async fn windows_are_asked_for_in_order_and_not_too_far_ahead() {
        let end = 5 + STRIPE_AHEAD_BYTES_MAX + SIZE / 2;
        let mut windows = Windows::new(5, end);
        for number in 0..STRIPE_AHEAD_BYTES_MAX / SIZE {
            assert_eq!(windows.choose(), Next::Fetch(5 + number * SIZE));
        }
        assert_eq!(windows.choose(), Next::Wait(FAILOVER_TIMEOUT), "far enough ahead");
        assert!(windows.take_next().is_none(), "it has not come");
        assert!(windows.arrived(5, empty(), Duration::from_secs(1)));
        assert!(windows.take_next().is_some());
        let last = 5 + STRIPE_AHEAD_BYTES_MAX;
        assert_eq!((windows.choose(), window_end(last, end)), (Next::Fetch(last), end));
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_that_was_given_back_goes_first() {
        let mut windows = Windows::new(0, 4 * SIZE);
        assert_eq!((windows.choose(), windows.choose()), (Next::Fetch(0), Next::Fetch(SIZE)));
        assert_eq!((windows.turn_of(0), windows.turn_of(SIZE)), (Turn::Now, Turn::Later));
        windows.give_back(0);
        assert_eq!(windows.turn_of(SIZE), Turn::AfterReturned);
        assert_eq!((windows.choose(), windows.choose()), (Next::Fetch(0), Next::Fetch(2 * SIZE)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_straggling_window_is_asked_of_a_second_peer_and_comes_once() {
        let mut windows = Windows::new(0, 2 * SIZE);
        assert_eq!((windows.choose(), windows.choose()), (Next::Fetch(0), Next::Fetch(SIZE)));
        let usual = Duration::from_millis(100);
        assert!(windows.arrived(SIZE, empty(), usual));
        assert_eq!(windows.choose(), Next::Wait(usual * STRIPE_STRAGGLES_FACTOR));
        tokio::time::advance(usual * STRIPE_STRAGGLES_FACTOR).await;
        assert_eq!(windows.choose(), Next::Fetch(0));
        assert_eq!(windows.choose(), Next::Wait(FAILOVER_TIMEOUT), "two peers are enough");
        windows.give_back(0);
        assert_eq!(windows.turn_of(SIZE), Turn::Later, "the other peer may still send it");
        assert!(windows.arrived(0, empty(), usual) && !windows.arrived(0, empty(), usual));
        assert_eq!(windows.choose(), Next::Done);
    }
}
