//! One kind of failure of holders, and which holders are not waited for because of it.
//!
//! A marked holder is not waited for. Nor is a holder that is not known to be good: in a network, or anywhere,
//! where enough distinct holders failed since the last success. Nor is any holder once requests have waited for
//! long enough without a success.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{PEER_NETWORKS_REMEMBERED_MAX, TROUBLES_REMEMBERED_MAX, UNANSWERED_HOLDERS_MAX};

/// Failures and successes of one kind.
#[derive(Debug)]
pub(super) struct Ledger {
    /// After failures of this many distinct holders of a network, or of all, without a success the others are
    /// not tried.
    holders_max: usize,
    /// After this time of waiting for at least two holders they are not tried either.
    wait_max: Duration,
    /// Holders that are not waited for, with the time of the last failure.
    marked: HashMap<SocketAddr, Instant>,
    /// Holders that have not failed since their last success, with the time of that.
    good: HashMap<SocketAddr, Instant>,
    /// Failures in each network since a success there.
    networks: HashMap<IpAddr, Failures>,
    /// Failures since a success anywhere.
    all: Failures,
    failed_at: Option<Instant>,
}

/// Failures in a network, or anywhere.
#[derive(Debug, Default)]
struct Failures {
    /// The distinct holders that failed.
    holders: HashSet<SocketAddr>,
    waited: WaitedTime,
}

impl Failures {
    /// Whether requests have waited so long for at least two holders that no holder is tried any more.
    fn is_spent(&self, wait_max: Duration) -> bool {
        self.holders.len() > 1 && self.waited.total >= wait_max
    }
}

/// Time during which at least one request waited.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WaitedTime {
    pub(super) total: Duration,
    counted_until: Option<Instant>,
}

impl WaitedTime {
    /// Adds a wait. Requests that wait at the same time count once.
    pub(super) fn add(&mut self, from: Instant, to: Instant) {
        let from = self.counted_until.map_or(from, |until| from.max(until));
        self.total += to.saturating_duration_since(from);
        self.counted_until = Some(from.max(to));
    }
}

/// The network of an address: /24, or /64 for IPv6.
fn network(holder: SocketAddr) -> IpAddr {
    match holder.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Ipv4Addr::new(a, b, c, 0).into()
        }
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Adds `holder`, in place of the oldest one if there are too many.
fn remember(times: &mut HashMap<SocketAddr, Instant>, holder: SocketAddr, now: Instant) {
    if times.len() >= TROUBLES_REMEMBERED_MAX && !times.contains_key(&holder) {
        let oldest = times.iter().min_by_key(|(_, at)| **at).map(|(holder, _)| *holder);
        oldest.map(|oldest| times.remove(&oldest));
    }
    times.insert(holder, now);
}

impl Ledger {
    /// An empty ledger with its two bounds.
    pub(super) fn new(holders_max: usize, wait_max: Duration) -> Self {
        Self {
            holders_max,
            wait_max,
            marked: HashMap::new(),
            good: HashMap::new(),
            networks: HashMap::new(),
            all: Failures::default(),
            failed_at: None,
        }
    }

    /// Whether a request waits for `holder`.
    pub(super) fn admits(&self, holder: SocketAddr) -> bool {
        if self.marked.contains_key(&holder) || self.is_spent() {
            return false;
        }
        let network = self.networks.get(&network(holder));
        let is_walled = network.is_some_and(|failures| self.is_walled(failures));
        self.good.contains_key(&holder) || !(is_walled || self.is_shut())
    }

    /// Whether `holder` has failed since its last success in a way that marks it.
    pub(super) fn is_marked(&self, holder: SocketAddr) -> bool {
        self.marked.contains_key(&holder)
    }

    /// Whether `holder` has succeeded, and has not failed since.
    pub(super) fn is_good(&self, holder: SocketAddr) -> bool {
        self.good.contains_key(&holder)
    }

    /// Whether `holder` has succeeded since `since`, and has not failed after that.
    pub(super) fn has_succeeded_since(&self, holder: SocketAddr, since: Instant) -> bool {
        self.good.get(&holder).is_some_and(|at| *at >= since)
    }

    /// Whether holders in the network of `holder` failed since the last success there.
    pub(super) fn has_failures_near(&self, holder: SocketAddr) -> bool {
        self.networks.contains_key(&network(holder))
    }

    /// Whether requests have waited so long that no holder at all is tried.
    pub(super) fn is_spent(&self) -> bool {
        self.all.is_spent(self.wait_max)
    }

    /// Whether no holder is tried except those that are known to be good.
    pub(super) fn is_shut(&self) -> bool {
        self.all.holders.len() >= self.holders_max || self.is_spent()
    }

    /// The distinct holders that failed since the last success.
    pub(super) fn failed_holders(&self) -> &HashSet<SocketAddr> {
        &self.all.holders
    }

    /// How long requests have waited since the last success.
    pub(super) fn waited_total(&self) -> Duration {
        self.all.waited.total
    }

    /// Notes that a request waited, for no holder in particular.
    pub(super) fn waited(&mut self, from: Instant, to: Instant) {
        self.all.waited.add(from, to);
    }

    /// Notes that requests have waited for `holder`, which failed.
    pub(super) fn waited_for(&mut self, holder: SocketAddr, from: Instant, to: Instant) {
        self.all.waited.add(from, to);
        if let Some(failures) = self.networks.get_mut(&network(holder)) {
            failures.waited.add(from, to);
        }
    }

    /// Notes that `holder` failed. Returns whether that marks it and it was not marked before.
    pub(super) fn failed(&mut self, holder: SocketAddr, now: Instant, is_marked: bool) -> bool {
        let is_new = is_marked && !self.marked.contains_key(&holder);
        self.failed_at = Some(now);
        self.good.remove(&holder);
        if is_marked {
            remember(&mut self.marked, holder, now);
        }
        let network = network(holder);
        if self.networks.len() < PEER_NETWORKS_REMEMBERED_MAX || self.networks.contains_key(&network) {
            let failed = &mut self.networks.entry(network).or_default().holders;
            if failed.len() < UNANSWERED_HOLDERS_MAX {
                failed.insert(holder);
            }
        }
        if self.all.holders.len() < TROUBLES_REMEMBERED_MAX {
            self.all.holders.insert(holder);
        }
        is_new
    }

    /// Notes that `holder` failed in a way for which no other holder is left out.
    pub(super) fn is_not_good(&mut self, holder: SocketAddr) {
        self.good.remove(&holder);
    }

    /// Notes that `holder` succeeded.
    pub(super) fn succeeded(&mut self, holder: SocketAddr, now: Instant) {
        remember(&mut self.good, holder, now);
        // A marked holder that succeeds came back, perhaps with all of a network that was given up.
        let failures = self.networks.remove(&network(holder)).unwrap_or_default();
        let was_walled = self.is_walled(&failures);
        if self.marked.remove(&holder).is_some() && was_walled {
            self.marked.retain(|other, _| network(*other) != network(holder));
        }
        self.all.holders.clear();
        self.all.waited.total = Duration::ZERO;
    }

    /// Forgets marks that are older than `before`.
    pub(super) fn forget(&mut self, before: Instant) {
        self.marked.retain(|_, at| *at >= before);
    }

    /// Forgets all failures if nothing has failed since `before`.
    pub(super) fn forget_all(&mut self, before: Instant) {
        if self.failed_at.is_some_and(|at| at < before) {
            self.failed_at = None;
            self.all = Failures::default();
            self.networks.clear();
        }
    }

    fn is_walled(&self, failures: &Failures) -> bool {
        failures.holders.len() >= self.holders_max || failures.is_spent(self.wait_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A holder in a network of its own.
    fn peer(number: u32) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::from_bits(number << 8), 1))
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_wait_at_the_same_time_count_once() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut waited = WaitedTime::default();
        waited.add(start, start + second);
        waited.add(start, start + second);
        assert_eq!(waited.total, second);
        waited.add(start + second / 2, start + second * 2);
        assert_eq!(waited.total, second * 2);
        waited.add(start + second * 5, start + second * 6);
        assert_eq!(waited.total, second * 3, "nobody waited between");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_marks_is_news_once() {
        let (now, mut ledger) = (Instant::now(), Ledger::new(2, Duration::MAX));
        assert!(ledger.failed(peer(1), now, true) && !ledger.failed(peer(1), now, true));
        assert!(!ledger.failed(peer(2), now, false), "not marked");
        assert!(!ledger.admits(peer(3)), "two holders failed without a success");
        ledger.succeeded(peer(2), now);
        assert!(ledger.admits(peer(3)) && !ledger.admits(peer(1)));
        assert!(ledger.has_succeeded_since(peer(2), now) && !ledger.is_good(peer(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded() {
        let now = Instant::now();
        for every_second_succeeds in [true, false] {
            let mut ledger = Ledger::new(usize::MAX, Duration::MAX);
            for number in 0..6_000 {
                ledger.failed(peer(number), now, true);
                if every_second_succeeds && number % 2 == 0 {
                    ledger.succeeded(peer(number), now);
                }
            }
            let remembered = [ledger.marked.len(), ledger.good.len(), ledger.all.holders.len()];
            assert!(remembered.iter().all(|length| *length <= TROUBLES_REMEMBERED_MAX), "{remembered:?}");
            assert!(ledger.networks.len() <= PEER_NETWORKS_REMEMBERED_MAX);
        }
    }
}
