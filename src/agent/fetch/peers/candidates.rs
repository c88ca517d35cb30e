//! The holders that are still to be asked in one fetch: each once, and those that may do better a second time
//! once more, after all others.

use std::collections::VecDeque;
use std::net::SocketAddr;

use tokio::time::Instant;

/// The holders of one content, in the order in which they are asked.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    waiting: VecDeque<SocketAddr>,
    /// Holders that are asked once more, each from its time on.
    again: VecDeque<(SocketAddr, Instant)>,
    /// All holders that were ever candidates, and how often each was put back.
    seen: Vec<(SocketAddr, usize)>,
    attempts: usize,
}

impl Candidates {
    /// Each of `holders` is asked once, in this order.
    pub(crate) fn new(holders: Vec<SocketAddr>) -> Self {
        let seen = holders.iter().map(|holder| (*holder, 0)).collect();
        Self { waiting: holders.into(), again: VecDeque::new(), seen, attempts: 0 }
    }

    /// Takes out the holder that is asked next, if one may be asked now.
    pub(crate) fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        let next = self.waiting.pop_front().or_else(|| {
            let at = self.again.iter().position(|(_, at)| *at <= now)?;
            self.again.remove(at).map(|(holder, _)| holder)
        });
        self.attempts += usize::from(next.is_some());
        next
    }

    /// When a holder that is asked once more may be asked; `None` if there is none.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.again.iter().map(|(_, at)| *at).min()
    }

    /// How many holders are asked before any is asked once more.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many requests were made so far.
    pub(crate) fn attempts(&self) -> usize {
        self.attempts
    }

    /// Asks `holder` once more, from `at` on and after all others; at most `times` in all.
    pub(crate) fn again(&mut self, holder: SocketAddr, at: Instant, times: usize) {
        let Some((_, put_back)) = self.seen.iter_mut().find(|(seen, _)| *seen == holder) else { return };
        if *put_back < times {
            *put_back += 1;
            self.again.push_back((holder, at));
        }
    }

    /// Asks `holder` after those that wait: its answer was not needed.
    pub(crate) fn back(&mut self, holder: SocketAddr) {
        self.waiting.push_back(holder);
    }

    /// Asks `holder` next: it has just answered, so that its failures do not count any more.
    pub(crate) fn first(&mut self, holder: SocketAddr) {
        if let Some((_, put_back)) = self.seen.iter_mut().find(|(seen, _)| *seen == holder) {
            *put_back = 0;
        }
        self.waiting.retain(|waiting| *waiting != holder);
        self.again.retain(|(waiting, _)| *waiting != holder);
        self.waiting.push_front(holder);
    }

    /// Asks only holders that `may_ask` allows.
    pub(crate) fn retain(&mut self, may_ask: impl Fn(SocketAddr) -> bool) {
        self.waiting.retain(|holder| may_ask(*holder));
        self.again.retain(|(holder, _)| may_ask(*holder));
    }

    /// Puts those of `holders` at the end that were never candidates.
    pub(crate) fn extend(&mut self, holders: Vec<SocketAddr>) {
        for holder in holders {
            if !self.seen.iter().any(|(seen, _)| *seen == holder) {
                self.seen.push((holder, 0));
                self.waiting.push_back(holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn peer(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    #[test]
    fn each_is_asked_once_and_one_that_is_put_back_after_all_others() {
        let now = Instant::now();
        let mut candidates = Candidates::new(vec![peer(1), peer(2)]);
        assert_eq!(candidates.next(now), Some(peer(1)));
        candidates.again(peer(1), now, 1);
        candidates.extend(vec![peer(1), peer(2), peer(3)]);
        let rest: Vec<_> = std::iter::from_fn(|| candidates.next(now)).collect();
        assert_eq!(rest, [peer(2), peer(3), peer(1)]);
        candidates.again(peer(1), now, 1);
        assert_eq!(candidates.next(now), None, "put back twice");
        candidates.back(peer(2));
        assert_eq!(candidates.next(now), Some(peer(2)));
        assert_eq!(candidates.attempts(), 5);
    }

    #[test]
    fn a_holder_that_is_asked_later_is_not_asked_now() {
        let now = Instant::now();
        let later = now + Duration::from_millis(5);
        let mut candidates = Candidates::new(vec![peer(1)]);
        candidates.next(now);
        candidates.again(peer(1), later, 1);
        assert_eq!((candidates.next(now), candidates.next_at()), (None, Some(later)));
        assert_eq!(candidates.next(later), Some(peer(1)));
    }
}
