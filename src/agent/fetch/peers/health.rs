//! What went wrong with which peer lately. It decides who is asked in which order, what is reported to the
//! servers, and what the operator is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::{PeerError, count_attempt};
use super::reachability::{Condition, Reachability};
use super::silence::Silences;
use crate::agent::discovery::holder_reports::Reporter;
use crate::agent::expiring_set::ExpiringSet;
use crate::agent::notices::{Notices, Topic};
use crate::api::ReportReason;
use crate::limits::{OVERTAKEN_REPORTED_AT, PEER_AVOID_TTL, SOURCE_STALL_TIMEOUT, TROUBLES_REMEMBERED_MAX};
use crate::oci::{ContentPath, Digest};

/// Key of the notice that no peer answers.
const ANSWERS: &str = "answers";
/// Key of the notice that no data of peers arrives.
const DATA: &str = "data";

/// What is known of the health of all peers of this node.
pub(crate) struct PeerHealth {
    reporter: Reporter,
    /// Peers that sent something wrong: not asked for that digest any more.
    wrong: ExpiringSet<(SocketAddr, Digest)>,
    /// Peers whose stream broke off, or of which it cannot be told whether their bytes were wrong: asked last
    /// for that digest.
    suspects: ExpiringSet<(SocketAddr, Digest)>,
    /// Digests of which several peers together sent wrong bytes.
    doubted: ExpiringSet<Digest>,
    /// Peers that did not answer: asked after all others, for any digest.
    silences: Silences,
    /// Peers that cannot be reached, and that requests do not wait for.
    reachability: Mutex<Reachability>,
    /// One more peer cannot be reached.
    lost_one: Notify,
    notices: Notices,
}

impl PeerHealth {
    /// Nothing is known of any peer yet.
    pub(crate) fn new(reporter: Reporter, notices: Notices) -> Self {
        Self {
            reporter,
            reachability: Mutex::new(Reachability::new()),
            lost_one: Notify::new(),
            notices,
            wrong: ExpiringSet::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            suspects: ExpiringSet::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            doubted: ExpiringSet::new(PEER_AVOID_TTL, TROUBLES_REMEMBERED_MAX),
            silences: Silences::default(),
        }
    }

    /// Those of `holders` that are asked for `digest`, in order. Equals keep their order: the nearest one first.
    pub(crate) fn order(&self, holders: Vec<SocketAddr>, digest: &Digest) -> Vec<SocketAddr> {
        let pair = |holder: &SocketAddr| (*holder, digest.clone());
        let mut order: Vec<SocketAddr> =
            holders.into_iter().filter(|holder| !self.wrong.contains(&pair(holder))).collect();
        let reachability = self.reachability();
        order.retain(|holder| reachability.admits(*holder));
        order.sort_by_cached_key(|holder| {
            (
                self.silences.is_silent(holder),
                self.suspects.contains(&pair(holder)),
                reachability.is_doubtful(*holder),
            )
        });
        order
    }

    /// Those of `nodes` that requests wait for, and that have not sent wrong bytes of `digest`, in their order.
    pub(crate) fn trusted(&self, nodes: Vec<SocketAddr>, digest: &Digest) -> Vec<SocketAddr> {
        let mut trusted = nodes;
        trusted.retain(|node| {
            let pair = (*node, digest.clone());
            self.admits(*node) && !self.wrong.contains(&pair) && !self.suspects.contains(&pair)
        });
        trusted
    }

    /// Whether requests wait for `holder`.
    pub(crate) fn admits(&self, holder: SocketAddr) -> bool {
        self.reachability().admits(holder)
    }

    /// Whether a transfer that has begun may go on with `holder`.
    pub(crate) fn may_go_on_with(&self, holder: SocketAddr) -> bool {
        self.reachability().may_go_on_with(holder)
    }

    /// Notes that `holders` hold what is asked for, whether or not each of them is asked.
    pub(crate) fn asked(&self, holders: &[SocketAddr], path: &ContentPath) {
        self.reachability().asked(holders, &Arc::new(path.clone()), Instant::now());
    }

    /// How long a request with `left` until its deadline waits for peers of which none has answered it.
    pub(crate) fn patience(&self, left: Duration) -> Duration {
        self.reachability().patience(left)
    }

    /// Notes that a request waited, and that no peer has answered it.
    pub(crate) fn waited(&self, from: Instant, to: Instant) {
        self.reachability().waited(from, to);
    }

    /// Whether a request may wait until `to` for a busy peer.
    pub(crate) fn waits_for_busy(&self, from: Instant, to: Instant) -> bool {
        self.reachability().waits_for_busy(from, to)
    }

    /// Notes that none of `holders` may be asked for what a request wants.
    pub(crate) fn request_was_skipped(&self, holders: &[SocketAddr]) {
        self.reachability().request_was_skipped(holders);
        self.update_notices();
    }

    /// Notes that no peer has answered a request.
    pub(crate) fn request_was_unanswered(&self) {
        self.reachability().request_was_unanswered();
        self.update_notices();
    }

    /// Whether there are peers that only a probe may ask.
    pub(crate) fn needs_probes(&self) -> bool {
        !self.reachability().probes_due(Instant::now()).is_empty()
    }

    /// The peers that are probed now, and what each of them is asked for.
    pub(crate) fn probes(&self) -> Vec<(SocketAddr, Arc<ContentPath>)> {
        let (now, mut reachability) = (Instant::now(), self.reachability());
        let due = reachability.probes_due(now);
        reachability.probing(due.iter().map(|(holder, _)| *holder), now);
        due
    }

    /// Waits until there is one more peer that requests do not ask.
    pub(crate) async fn lost_one(&self) {
        self.lost_one.notified().await;
    }

    /// Notes that a probe with `path` failed. Requests do not ask such a holder any more, so its reports would
    /// lapse at the servers if probes did not repeat them. While no peer answers, this node itself may be cut
    /// off: then it reports nobody.
    pub(crate) fn probe_failed(&self, holder: SocketAddr, path: &ContentPath, error: &PeerError) {
        tracing::debug!(%holder, %error, "a probe failed");
        self.learn(holder, path.digest(), error);
        if let (Some(reason), Some(digest)) = (reason(error), path.digest())
            && !self.reachability().is_cut_off()
        {
            self.reporter.report(holder, digest.as_str(), reason);
        }
    }

    /// Notes that so many bytes of `holder` have come that its large packets arrive.
    pub(crate) fn delivered(&self, holder: SocketAddr) {
        self.reachability().delivered(holder, Instant::now());
        self.update_notices();
    }

    /// Notes that a probe has ended: with all of `path`, or because `holder` does not have it.
    pub(crate) fn probed(&self, holder: SocketAddr, path: &ContentPath, has_it: bool) {
        self.reachability().probed(holder, path, has_it, Instant::now());
        self.update_notices();
    }

    /// Whether `holder` has answered anything since `since`.
    pub(crate) fn has_answered_since(&self, holder: SocketAddr, since: Instant) -> bool {
        self.reachability().has_answered_since(holder, since)
    }

    fn learn(&self, holder: SocketAddr, digest: Option<&Digest>, error: &PeerError) {
        let now = Instant::now();
        let is_news = match error {
            // Costs no time, so it may be asked again.
            PeerError::Connect(_) => self.reachability().unanswered(holder, now, false),
            PeerError::ConnectTimeout | PeerError::HeaderTimeout => {
                self.reachability().unanswered(holder, now, true)
            }
            PeerError::Stalled => self.reachability().stalled(holder, digest, now, SOURCE_STALL_TIMEOUT),
            PeerError::Spool(_) => false,
            _ => {
                self.reachability().answered(holder, now);
                false
            }
        };
        if is_news {
            self.lost_one.notify_one();
        }
        self.update_notices();
    }

    /// Updates what the operator sees.
    fn update_notices(&self) {
        // The lock is held until the end: two updates at once must keep their order.
        let mut reachability = self.reachability();
        let Some(Condition { unanswered, undelivered }) = reachability.news() else { return };
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

    fn reachability(&self) -> MutexGuard<'_, Reachability> {
        self.reachability.lock().expect("nothing panics with it in hand")
    }

    /// Notes that the bytes of `senders` together do not have the digest. Of several senders it cannot be told
    /// whose bytes were wrong.
    pub(crate) fn blame(&self, senders: &[SocketAddr], digest: &Digest) {
        match senders {
            [one] => self.failed(*one, digest, &PeerError::WrongBytes),
            several => self.doubt(several, digest),
        }
    }

    fn doubt(&self, senders: &[SocketAddr], digest: &Digest) {
        tracing::warn!(%digest, ?senders, "the bytes of these peers together are wrong");
        self.doubted.insert(digest.clone());
        senders.iter().for_each(|sender| self.suspect(*sender, digest));
    }

    /// Whether several peers together sent wrong bytes of `digest` lately.
    pub(crate) fn is_doubted(&self, digest: &Digest) -> bool {
        self.doubted.contains(digest)
    }

    /// Notes that a request to `holder` for `digest` failed.
    pub(crate) fn failed(&self, holder: SocketAddr, digest: &Digest, error: &PeerError) {
        count_attempt(error.label());
        tracing::info!(%holder, %digest, %error, "peer did not deliver");
        self.learn(holder, Some(digest), error);
        if error.is_silent() {
            self.silences.stayed_silent(holder);
        }
        if let Some(reason) = reason(error) {
            self.reporter.report(holder, digest.as_str(), reason);
        }
        let pair = (holder, digest.clone());
        if error.is_wrong() || (error.is_broken() && self.suspects.contains(&pair)) {
            self.wrong.insert(pair);
        } else if error.is_broken() || matches!(error, PeerError::OtherLength { .. }) {
            self.suspect(holder, digest);
        }
    }

    /// Notes that a peer which was asked later was faster: `holder` may be frozen. Once can be chance, and is not
    /// worth a report.
    pub(crate) fn overtaken(&self, holder: SocketAddr, digest: &Digest) {
        count_attempt("overtaken");
        tracing::debug!(%holder, "overtaken by another peer");
        if self.silences.stayed_silent(holder) >= OVERTAKEN_REPORTED_AT {
            self.reporter.report(holder, digest.as_str(), ReportReason::Silent);
        }
    }

    /// Notes that `holder` gave an answer, whatever it was.
    pub(crate) fn answered(&self, holder: SocketAddr) {
        self.silences.answered(holder);
        self.reachability().answered(holder, Instant::now());
        self.update_notices();
    }

    /// Notes that `holder` has what was asked for.
    pub(crate) fn won(&self, holder: SocketAddr) {
        self.answered(holder);
        self.reachability().won();
    }

    /// Notes that bytes of `digest` were wrong or missing, and that `holder` had sent some of them.
    pub(crate) fn suspect(&self, holder: SocketAddr, digest: &Digest) {
        self.suspects.insert((holder, digest.clone()));
    }
}

/// What is reported to the servers. A peer that does not have the content, or is busy, is not reported.
fn reason(error: &PeerError) -> Option<ReportReason> {
    Some(match error {
        PeerError::Connect(_) | PeerError::ConnectTimeout => ReportReason::Unreachable,
        PeerError::HeaderTimeout | PeerError::Stalled | PeerError::Slow => ReportReason::Silent,
        PeerError::Exchange(_) | PeerError::Broken(_) | PeerError::Short | PeerError::Length => {
            ReportReason::Broken
        }
        PeerError::WrongBytes | PeerError::NotManifest => ReportReason::Wrong,
        PeerError::Status(_) | PeerError::Unsatisfiable { .. } | PeerError::Spool(_) => return None,
        // It is not known yet who is wrong; and a slow peer does as well as it can.
        PeerError::OtherLength { .. } | PeerError::SlowerThanRegistry => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::unheard_reporter;
    use crate::limits::PEER_UNREACHABLE_TTL;

    fn peer(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_lied_or_kept_silent_is_not_asked_and_one_that_broke_off_is_asked_last() {
        let (health, digest) = (PeerHealth::new(unheard_reporter(), Notices::default()), Digest::of(b"x"));
        health.failed(peer(1), &digest, &PeerError::WrongBytes);
        health.failed(peer(2), &digest, &PeerError::ConnectTimeout);
        health.failed(peer(3), &digest, &PeerError::Short);
        let all = vec![peer(1), peer(2), peer(3), peer(4)];
        assert_eq!(health.order(all.clone(), &digest), [peer(4), peer(3)]);
        let other = Digest::of(b"y");
        assert_eq!(health.order(all.clone(), &other), [peer(1), peer(3), peer(4)]);
        health.answered(peer(2));
        assert_eq!(health.order(all.clone(), &other), all);
        health.overtaken(peer(1), &other);
        assert_eq!(health.order(all, &other), [peer(2), peer(3), peer(4), peer(1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_keeps_failing_is_avoided_for_longer_and_longer() {
        let (health, digest) = (PeerHealth::new(unheard_reporter(), Notices::default()), Digest::of(b"x"));
        let mut expected = PEER_UNREACHABLE_TTL;
        for _ in 0..3 {
            for _ in 0..5 {
                health.failed(peer(1), &digest, &PeerError::HeaderTimeout);
            }
            let start = Instant::now();
            while health.silences.is_silent(&peer(1)) {
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            assert_eq!(start.elapsed(), expected);
            expected *= 2;
        }
    }
}
