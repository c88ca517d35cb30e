//! What went wrong with which peer lately, and therefore who is asked in which order; and what the
//! servers are told of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::count;
use crate::agent::peer::PeerError;
use crate::agent::recent::Recent;
use crate::agent::report::Reporter;
use crate::api::ReportReason;
use crate::limits::{PEER_AVOID_TTL, PEER_UNREACHABLE_TTL, TROUBLES_REMEMBERED_MAX};
use crate::oci::Digest;

/// The time of silence doubles with each further one, this often.
const DOUBLINGS_MAX: u32 = 4;

/// After so many times of silence a peer that others overtook is reported.
const OVERTAKEN_REPORTED_AT: u32 = 3;

/// See the module.
pub(super) struct Troubles {
    reporter: Reporter,
    /// Peers that sent something wrong: not asked for that digest.
    bad: Recent<(SocketAddr, Digest)>,
    /// Peers whose stream broke off, or of whom it cannot be told whether their bytes were wrong: asked
    /// last.
    shaky: Recent<(SocketAddr, Digest)>,
    /// Digests of which several peers together sent wrong bytes.
    doubted: Recent<Digest>,
    /// Peers that did not answer at all: asked after all others, whatever is wanted.
    silent: Mutex<HashMap<SocketAddr, Silence>>,
}

/// A peer that has not answered since.
#[derive(Clone, Copy, Debug)]
struct Silence {
    until: Instant,
    times: u32,
}

impl Troubles {
    pub(super) fn new(reporter: Reporter) -> Self {
        Self {
            reporter,
            bad: Recent::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            shaky: Recent::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            doubted: Recent::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            silent: Mutex::default(),
        }
    }

    /// Who of `holders` is asked, in which order: nearest first among equals.
    pub(super) fn order(&self, holders: Vec<SocketAddr>, digest: &Digest) -> Vec<SocketAddr> {
        let pair = |holder: &SocketAddr| (*holder, digest.clone());
        let mut order: Vec<SocketAddr> =
            holders.into_iter().filter(|holder| !self.bad.contains(&pair(holder))).collect();
        order.sort_by_cached_key(|holder| (self.is_silent(holder), self.shaky.contains(&pair(holder))));
        order
    }

    /// The bytes of `senders` together were wrong, and it cannot be told whose.
    pub(super) fn doubt(&self, senders: &[SocketAddr], digest: &Digest) {
        tracing::warn!(%digest, ?senders, "the bytes of these peers together are wrong");
        self.doubted.insert(digest.clone());
        senders.iter().for_each(|sender| self.suspect(*sender, digest));
    }

    /// Whether that has happened with `digest` lately.
    pub(super) fn is_doubted(&self, digest: &Digest) -> bool {
        self.doubted.contains(digest)
    }

    /// An attempt failed.
    pub(super) fn failed(&self, holder: SocketAddr, digest: &Digest, error: &PeerError) {
        count(error.label());
        tracing::info!(%holder, %digest, %error, "peer did not deliver");
        if error.is_silent() {
            self.stayed_silent(holder);
        }
        if let Some(reason) = reason(error) {
            self.reporter.report(holder, digest.as_str(), reason);
        }
        let pair = (holder, digest.clone());
        if error.is_wrong() || (error.is_broken() && self.shaky.contains(&pair)) {
            self.bad.insert(pair);
        } else if error.is_broken() {
            self.suspect(holder, digest);
        }
    }

    /// Another peer, asked later, was faster: this one may be frozen. Once can be chance, and is not
    /// worth a report.
    pub(super) fn overtaken(&self, holder: SocketAddr, digest: &Digest) {
        count("overtaken");
        tracing::debug!(%holder, "overtaken by another peer");
        if self.stayed_silent(holder) >= OVERTAKEN_REPORTED_AT {
            self.reporter.report(holder, digest.as_str(), ReportReason::Silent);
        }
    }

    /// The peer is alive.
    pub(super) fn answered(&self, holder: SocketAddr) {
        self.lock().remove(&holder);
    }

    /// Bytes of `digest` were wrong or missing, and this peer had sent some of them.
    pub(super) fn suspect(&self, holder: SocketAddr, digest: &Digest) {
        self.shaky.insert((holder, digest.clone()));
    }

    fn is_silent(&self, holder: &SocketAddr) -> bool {
        self.lock().get(holder).is_some_and(|silence| Instant::now() < silence.until)
    }

    /// How often, one time of silence after the other.
    fn stayed_silent(&self, holder: SocketAddr) -> u32 {
        let (now, mut silent) = (Instant::now(), self.lock());
        if silent.len() >= TROUBLES_REMEMBERED_MAX && !silent.contains_key(&holder) {
            let oldest = silent.iter().min_by_key(|(_, silence)| silence.until).map(|(holder, _)| *holder);
            oldest.map(|oldest| silent.remove(&oldest));
        }
        let silence = silent.entry(holder).or_insert(Silence { until: now, times: 0 });
        // Several requests at once see the same silence: that counts once.
        if silence.until <= now {
            let time: Duration = PEER_UNREACHABLE_TTL * 2_u32.pow(silence.times.min(DOUBLINGS_MAX));
            *silence = Silence { until: now + time, times: silence.times + 1 };
        }
        silence.times
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Silence>> {
        // A map of instants is whole after any panic.
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the servers are told. A peer that does not have it, or is busy, is no trouble.
fn reason(error: &PeerError) -> Option<ReportReason> {
    Some(match error {
        PeerError::Connect(_) | PeerError::ConnectTimeout => ReportReason::Unreachable,
        PeerError::HeaderTimeout | PeerError::Stalled | PeerError::Slow => ReportReason::Silent,
        PeerError::Exchange(_) | PeerError::Broken(_) | PeerError::Short | PeerError::Length => {
            ReportReason::Broken
        }
        PeerError::WrongBytes | PeerError::NotManifest => ReportReason::Wrong,
        PeerError::Status(_) | PeerError::Unsatisfiable { .. } | PeerError::Spool(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::unheard_reporter;

    fn peer(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    #[tokio::test(start_paused = true)]
    async fn who_lied_is_not_asked_and_who_broke_off_or_kept_silent_is_asked_last() {
        let (troubles, digest) = (Troubles::new(unheard_reporter()), Digest::of(b"x"));
        troubles.failed(peer(1), &digest, &PeerError::WrongBytes);
        troubles.failed(peer(2), &digest, &PeerError::ConnectTimeout);
        troubles.failed(peer(3), &digest, &PeerError::Short);
        let all = vec![peer(1), peer(2), peer(3), peer(4)];
        assert_eq!(troubles.order(all.clone(), &digest), [peer(4), peer(3), peer(2)]);
        let other = Digest::of(b"y");
        assert_eq!(troubles.order(all.clone(), &other), [peer(1), peer(3), peer(4), peer(2)]);
        troubles.answered(peer(2));
        assert_eq!(troubles.order(all, &other), [peer(1), peer(2), peer(3), peer(4)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_failing_is_avoided_for_longer_and_longer() {
        let (troubles, digest) = (Troubles::new(unheard_reporter()), Digest::of(b"x"));
        let mut expected = PEER_UNREACHABLE_TTL;
        for _ in 0..3 {
            for _ in 0..5 {
                troubles.failed(peer(1), &digest, &PeerError::HeaderTimeout);
            }
            let start = Instant::now();
            while troubles.is_silent(&peer(1)) {
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            assert_eq!(start.elapsed(), expected);
            expected *= 2;
        }
    }
}
