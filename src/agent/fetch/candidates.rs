//! Who is still to be asked in one fetch: each holder once, and those that may do better a second time
//! once more, after all others.

use std::collections::VecDeque;
use std::net::SocketAddr;

use tokio::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Roster {
    waiting: VecDeque<SocketAddr>,
    again: VecDeque<(SocketAddr, Instant)>,
    /// Everybody who was ever on it, with how often he was put back.
    seen: Vec<(SocketAddr, usize)>,
    attempts: usize,
}

impl Roster {
    pub(super) fn new(holders: Vec<SocketAddr>) -> Self {
        let seen = holders.iter().map(|holder| (*holder, 0)).collect();
        Self { waiting: holders.into(), again: VecDeque::new(), seen, attempts: 0 }
    }

    /// The next one to ask now.
    pub(super) fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        let next = self.waiting.pop_front().or_else(|| {
            let at = self.again.iter().position(|(_, at)| *at <= now)?;
            self.again.remove(at).map(|(holder, _)| holder)
        });
        self.attempts += usize::from(next.is_some());
        next
    }

    /// When there will be one to ask, if there is none now.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.again.iter().map(|(_, at)| *at).min()
    }

    /// How many are to be asked before anyone is asked again.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests made so far.
    pub(super) fn attempts(&self) -> usize {
        self.attempts
    }

    /// Asks `holder` once more, from `at` on and after all others. At most `times` in all.
    pub(super) fn again(&mut self, holder: SocketAddr, at: Instant, times: usize) {
        let Some((_, put_back)) = self.seen.iter_mut().find(|(seen, _)| *seen == holder) else { return };
        if *put_back < times {
            *put_back += 1;
            self.again.push_back((holder, at));
        }
    }

    /// Asks `holder` after those that wait: it has not been heard.
    pub(super) fn back(&mut self, holder: SocketAddr) {
        self.waiting.push_back(holder);
    }

    /// Asks `holder` next: it has just answered, and all is forgiven.
    pub(super) fn first(&mut self, holder: SocketAddr) {
        if let Some((_, put_back)) = self.seen.iter_mut().find(|(seen, _)| *seen == holder) {
            *put_back = 0;
        }
        self.waiting.retain(|waiting| *waiting != holder);
        self.again.retain(|(waiting, _)| *waiting != holder);
        self.waiting.push_front(holder);
    }

    /// Asks nobody but those that `may_ask` allows.
    pub(super) fn retain(&mut self, may_ask: impl Fn(SocketAddr) -> bool) {
        self.waiting.retain(|holder| may_ask(*holder));
        self.again.retain(|(holder, _)| may_ask(*holder));
    }

    /// Puts those at the end that were never on it.
    pub(super) fn extend(&mut self, holders: Vec<SocketAddr>) {
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
    fn each_is_asked_once_and_who_is_put_back_after_all_others() {
        let now = Instant::now();
        let mut roster = Roster::new(vec![peer(1), peer(2)]);
        assert_eq!(roster.next(now), Some(peer(1)));
        roster.again(peer(1), now, 1);
        roster.extend(vec![peer(1), peer(2), peer(3)]);
        let rest: Vec<_> = std::iter::from_fn(|| roster.next(now)).collect();
        assert_eq!(rest, [peer(2), peer(3), peer(1)]);
        roster.again(peer(1), now, 1);
        assert_eq!(roster.next(now), None, "put back twice");
        roster.back(peer(2));
        assert_eq!(roster.next(now), Some(peer(2)));
        assert_eq!(roster.attempts(), 5);
    }

    #[test]
    fn who_is_to_be_asked_later_is_not_asked_now() {
        let now = Instant::now();
        let later = now + Duration::from_millis(5);
        let mut roster = Roster::new(vec![peer(1)]);
        roster.next(now);
        roster.again(peer(1), later, 1);
        assert_eq!((roster.next(now), roster.next_at()), (None, Some(later)));
        assert_eq!(roster.next(later), Some(peer(1)));
    }
}
