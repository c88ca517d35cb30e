//! What went wrong with which peer lately, and therefore who is asked in which order; and what the
//! servers are told of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::count;
use super::peer::PeerError;
use super::reachability::{Condition, Reach};
use crate::agent::discovery::holder_reports::Reporter;
use crate::agent::expiring_set::ExpiringSet;
use crate::agent::notices::{Notices, Topic};
use crate::api::ReportReason;
use crate::limits::{PEER_AVOID_TTL, PEER_UNREACHABLE_TTL, SOURCE_STALL_TIMEOUT, TROUBLES_REMEMBERED_MAX};
use crate::oci::{ContentPath, Digest};

/// The time of silence doubles with each further one, this often.
const DOUBLINGS_MAX: u32 = 4;

/// After so many times of silence a peer that others overtook is reported.
const OVERTAKEN_REPORTED_AT: u32 = 3;

/// What there are notices of.
const ANSWERS: &str = "answers";
const DATA: &str = "data";

/// See the module.
pub(super) struct Troubles {
    reporter: Reporter,
    /// Peers that sent something wrong: not asked for that digest.
    bad: ExpiringSet<(SocketAddr, Digest)>,
    /// Peers whose stream broke off, or of whom it cannot be told whether their bytes were wrong: asked
    /// last.
    shaky: ExpiringSet<(SocketAddr, Digest)>,
    /// Digests of which several peers together sent wrong bytes.
    doubted: ExpiringSet<Digest>,
    /// Peers that did not answer at all: asked after all others, whatever is wanted.
    silent: Mutex<HashMap<SocketAddr, Silence>>,
    /// Peers that are not to be had at all, and that requests do not wait for.
    reach: Mutex<Reach>,
    /// There is one more of them.
    suspected: Notify,
    notices: Notices,
}

/// A peer that has not answered since.
#[derive(Clone, Copy, Debug)]
struct Silence {
    until: Instant,
    times: u32,
}

impl Troubles {
    pub(super) fn new(reporter: Reporter, notices: Notices) -> Self {
        Self {
            reporter,
            reach: Mutex::new(Reach::new()),
            suspected: Notify::new(),
            notices,
            bad: ExpiringSet::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            shaky: ExpiringSet::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            doubted: ExpiringSet::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            silent: Mutex::default(),
        }
    }

    /// Those of `holders` that are asked, in order: nearest first among equals.
    pub(super) fn order(&self, holders: Vec<SocketAddr>, digest: &Digest) -> Vec<SocketAddr> {
        let pair = |holder: &SocketAddr| (*holder, digest.clone());
        let mut order: Vec<SocketAddr> =
            holders.into_iter().filter(|holder| !self.bad.contains(&pair(holder))).collect();
        let reach = self.reach();
        order.retain(|holder| reach.admits(*holder));
        order.sort_by_cached_key(|holder| {
            (self.is_silent(holder), self.shaky.contains(&pair(holder)), reach.is_doubtful(*holder))
        });
        order
    }

    /// Whether requests wait for `holder`.
    pub(super) fn admits(&self, holder: SocketAddr) -> bool {
        self.reach().admits(holder)
    }

    /// Whether a transfer that has begun may go on with `holder`.
    pub(super) fn may_go_on_with(&self, holder: SocketAddr) -> bool {
        self.reach().may_go_on_with(holder)
    }

    /// `holders` hold what is asked for, whether or not each of them is asked.
    pub(super) fn asked(&self, holders: &[SocketAddr], path: &ContentPath) {
        self.reach().asked(holders, &Arc::new(path.clone()), Instant::now());
    }

    /// How long a request that has `left` waits for peers of which none has answered it.
    pub(super) fn patience(&self, left: Duration) -> Duration {
        self.reach().patience(left)
    }

    /// A request waited, and no peer has answered it.
    pub(super) fn waited(&self, from: Instant, to: Instant) {
        self.reach().waited(from, to);
    }

    /// Whether a request may wait until `to` for a busy peer.
    pub(super) fn waits_for_busy(&self, from: Instant, to: Instant) -> bool {
        self.reach().waits_for_busy(from, to)
    }

    /// None of `holders` may be asked for what a request wants.
    pub(super) fn request_was_skipped(&self, holders: &[SocketAddr]) {
        self.reach().request_was_skipped(holders);
        self.tell();
    }

    /// No peer has answered a request.
    pub(super) fn request_was_unanswered(&self) {
        self.reach().request_was_unanswered();
        self.tell();
    }

    /// Whether there are peers that only a probe may ask.
    pub(super) fn needs_probes(&self) -> bool {
        !self.reach().probes_due(Instant::now()).is_empty()
    }

    /// Peers that are probed now, and what each is asked for.
    pub(super) fn probes(&self) -> Vec<(SocketAddr, Arc<ContentPath>)> {
        let (now, mut reach) = (Instant::now(), self.reach());
        let due = reach.probes_due(now);
        reach.probing(due.iter().map(|(holder, _)| *holder), now);
        due
    }

    /// Waits for a peer that requests do not ask any more.
    pub(super) async fn new_suspect(&self) {
        self.suspected.notified().await;
    }

    /// A probe with `path` failed. Requests do not ask such a holder any more, so its reports would lapse at the
    /// servers if probes did not repeat them. While no peer at all answers, this node may be the one that is
    /// cut off: then it reports nobody.
    pub(super) fn probe_failed(&self, holder: SocketAddr, path: &ContentPath, error: &PeerError) {
        tracing::debug!(%holder, %error, "a probe failed");
        self.learn(holder, path.digest(), error);
        if let (Some(reason), Some(digest)) = (reason(error), path.digest())
            && !self.reach().is_cut_off()
        {
            self.reporter.report(holder, digest.as_str(), reason);
        }
    }

    /// So many bytes of `holder` have come that large packets of it arrive.
    pub(super) fn delivered(&self, holder: SocketAddr) {
        self.reach().delivered(holder, Instant::now());
        self.tell();
    }

    /// A probe has ended with all of `path`, or with the news that `holder` does not have it.
    pub(super) fn probed(&self, holder: SocketAddr, path: &ContentPath, has_it: bool) {
        self.reach().probed(holder, path, has_it, Instant::now());
        self.tell();
    }

    /// Whether `holder` has answered since, whatever it was.
    pub(super) fn has_answered_since(&self, holder: SocketAddr, since: Instant) -> bool {
        self.reach().has_answered_since(holder, since)
    }

    fn learn(&self, holder: SocketAddr, digest: Option<&Digest>, error: &PeerError) {
        let now = Instant::now();
        let is_news = match error {
            // Costs no time, so it may be asked again.
            PeerError::Connect(_) => self.reach().unanswered(holder, now, false),
            PeerError::ConnectTimeout | PeerError::HeaderTimeout => {
                self.reach().unanswered(holder, now, true)
            }
            PeerError::Stalled => self.reach().stalled(holder, digest, now, SOURCE_STALL_TIMEOUT),
            PeerError::Spool(_) => false,
            _ => {
                self.reach().answered(holder, now);
                false
            }
        };
        if is_news {
            self.suspected.notify_one();
        }
        self.tell();
    }

    /// Keeps what the operator sees true.
    fn tell(&self) {
        // Two at once must not tell in the wrong order.
        let mut reach = self.reach();
        let Some(Condition { unanswered, undelivered }) = reach.news() else { return };
        ::metrics::gauge!("piccolo_peers_reachable").set(f64::from(u8::from(unanswered.is_none())));
        match unanswered {
            Some((count, port)) => {
                let text = format!(
                    "no peer can be reached: {count} of {count}; is port {port} open between the nodes?"
                );
                self.notices.set(Topic::Peers, ANSWERS, text);
            }
            None => self.notices.clear(Topic::Peers, ANSWERS),
        }
        match undelivered {
            Some(count) => {
                let text = format!(
                    "peers answer, but their data does not arrive: {count} of {count}; do large packets pass \
                     between the nodes (MTU of the network and of its tunnels)?"
                );
                self.notices.set(Topic::Peers, DATA, text);
            }
            None => self.notices.clear(Topic::Peers, DATA),
        }
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().expect("nothing panics with it in hand")
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
        self.learn(holder, Some(digest), error);
        if error.is_silent() {
            self.stayed_silent(holder);
        }
        if let Some(reason) = reason(error) {
            self.reporter.report(holder, digest.as_str(), reason);
        }
        let pair = (holder, digest.clone());
        if error.is_wrong() || (error.is_broken() && self.shaky.contains(&pair)) {
            self.bad.insert(pair);
        } else if error.is_broken() || matches!(error, PeerError::OtherLength { .. }) {
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
        self.reach().answered(holder, Instant::now());
        self.tell();
    }

    /// The peer has what was asked for.
    pub(super) fn won(&self, holder: SocketAddr) {
        self.answered(holder);
        self.reach().won();
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
        // Nobody can tell yet who is wrong; and a peer does as well as it can.
        PeerError::OtherLength { .. } | PeerError::SlowerThanRegistry => return None,
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
    async fn who_lied_or_kept_silent_is_not_asked_and_who_broke_off_is_asked_last() {
        let (troubles, digest) = (Troubles::new(unheard_reporter(), Notices::default()), Digest::of(b"x"));
        troubles.failed(peer(1), &digest, &PeerError::WrongBytes);
        troubles.failed(peer(2), &digest, &PeerError::ConnectTimeout);
        troubles.failed(peer(3), &digest, &PeerError::Short);
        let all = vec![peer(1), peer(2), peer(3), peer(4)];
        assert_eq!(troubles.order(all.clone(), &digest), [peer(4), peer(3)]);
        let other = Digest::of(b"y");
        assert_eq!(troubles.order(all.clone(), &other), [peer(1), peer(3), peer(4)]);
        troubles.answered(peer(2));
        assert_eq!(troubles.order(all.clone(), &other), all);
        troubles.overtaken(peer(1), &other);
        assert_eq!(troubles.order(all, &other), [peer(2), peer(3), peer(4), peer(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_failing_is_avoided_for_longer_and_longer() {
        let (troubles, digest) = (Troubles::new(unheard_reporter(), Notices::default()), Digest::of(b"x"));
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
