//! Whether peers can be had at all, learned over all digests: a firewall between the nodes, or a path
//! that swallows large packets, would otherwise cost every request its whole time (I4).
//!
//! Two ledgers follow the same rules. One counts holders that did not answer, the other one holders that
//! answered and whose bytes did not come. A holder in a ledger is not waited for; nor is a holder of its
//! network, or any one, that is not known to be good, when enough distinct holders there failed since the
//! last success; nor anybody, when requests have waited for long enough without a success.
//! Such holders are probed in the background ([`super::probe`]), and a success ends the state.
//!
//! All of this is a pure function of events and times; [`super::peer_health`] feeds it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{
    BUSY_WAIT_MAX, PEER_FORGOTTEN_AFTER, PEER_NETWORKS_REMEMBERED_MAX, PROBES_AT_ONCE_MAX, STALL_BUDGET,
    TROUBLES_REMEMBERED_MAX, UNANSWERED_HOLDERS_MAX, UNANSWERED_REQUESTS_MAX, UNANSWERED_WAIT_MAX,
    UNANSWERED_WAIT_MIN,
};
use crate::oci::{ContentPath, Digest, Item};

/// What is known of all peers of this node.
#[derive(Debug)]
pub(super) struct Reach {
    /// Holders that did not answer.
    answers: Ledger,
    /// Holders that answered, but whose bytes did not come.
    bodies: Ledger,
    /// Holders that refused a connection since any answered.
    refusing: HashSet<SocketAddr>,
    /// Time spent on waiting for busy holders since the last success.
    busy: Waited,
    /// What each holder was last asked for, which is what a probe asks for.
    asked: HashMap<SocketAddr, Asked>,
    /// Requests since the last answer that no holder answered.
    unanswered_requests: usize,
    /// What [`Reach::news`] gave last.
    told: Condition,
}

/// What a probe asks of a holder.
#[derive(Clone, Debug)]
struct Asked {
    path: Arc<ContentPath>,
    at: Instant,
    /// The content whose bytes did not come last.
    missing: Option<Arc<ContentPath>>,
    probed: Option<Instant>,
}

impl Asked {
    /// What did not come is the best thing to ask for: once all of it comes, nothing is missing any more,
    /// however small it is.
    fn wanted(&self) -> Arc<ContentPath> {
        Arc::clone(self.missing.as_ref().unwrap_or(&self.path))
    }
}

/// What an operator should know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// So many holders were asked since the last answer, and none answered; and the port of one.
    pub(super) unanswered: Option<(usize, u16)>,
    /// So many holders answered since bytes came last, and sent none.
    pub(super) undelivered: Option<usize>,
}

/// One kind of failure.
#[derive(Debug)]
struct Ledger {
    /// So many distinct holders of a network, or of all, without a success: the others are not tried.
    holders_max: usize,
    /// The same for all after so much waiting, if there are at least two.
    wait_max: Duration,
    /// Holders that are not waited for, with the time of the last failure.
    marked: HashMap<SocketAddr, Instant>,
    /// Holders that have not failed since their last success, with the time of that.
    good: HashMap<SocketAddr, Instant>,
    /// Failures of each network since a success there.
    networks: HashMap<IpAddr, Failures>,
    /// Failures since a success anywhere.
    all: Failures,
    failed_at: Option<Instant>,
}

/// Failures in a network, or anywhere.
#[derive(Debug, Default)]
struct Failures {
    /// Distinct ones.
    holders: HashSet<SocketAddr>,
    waited: Waited,
}

impl Failures {
    /// Whether requests have waited for so long, for at least two, that no holder there is tried any more.
    fn is_spent(&self, wait_max: Duration) -> bool {
        self.holders.len() > 1 && self.waited.total >= wait_max
    }
}

/// Time during which at least one request waited.
#[derive(Clone, Copy, Debug, Default)]
struct Waited {
    total: Duration,
    counted_until: Option<Instant>,
}

impl Waited {
    /// Requests that wait at the same time count once.
    fn add(&mut self, from: Instant, to: Instant) {
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
    fn new(holders_max: usize, wait_max: Duration) -> Self {
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

    fn admits(&self, holder: SocketAddr) -> bool {
        if self.marked.contains_key(&holder) || self.is_spent() {
            return false;
        }
        let network = self.networks.get(&network(holder));
        let is_walled = network.is_some_and(|failures| {
            failures.holders.len() >= self.holders_max || failures.is_spent(self.wait_max)
        });
        self.good.contains_key(&holder) || !(is_walled || self.is_shut())
    }

    fn is_spent(&self) -> bool {
        self.all.is_spent(self.wait_max)
    }

    /// Whether no holder is tried but those that are known to be good.
    fn is_shut(&self) -> bool {
        self.all.holders.len() >= self.holders_max || self.is_spent()
    }

    /// Requests have waited for `holder`, which failed.
    fn waited_for(&mut self, holder: SocketAddr, from: Instant, to: Instant) {
        self.all.waited.add(from, to);
        if let Some(failures) = self.networks.get_mut(&network(holder)) {
            failures.waited.add(from, to);
        }
    }

    /// Whether `holder` is marked now and was not before.
    fn failed(&mut self, holder: SocketAddr, now: Instant, is_marked: bool) -> bool {
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

    fn succeeded(&mut self, holder: SocketAddr, now: Instant) {
        remember(&mut self.good, holder, now);
        // A mark that falls is a holder that came back, perhaps with all of a network that was given up.
        let failures = self.networks.remove(&network(holder)).unwrap_or_default();
        let was_walled = failures.holders.len() >= self.holders_max || failures.is_spent(self.wait_max);
        if self.marked.remove(&holder).is_some() && was_walled {
            self.marked.retain(|other, _| network(*other) != network(holder));
        }
        self.all.holders.clear();
        self.all.waited.total = Duration::ZERO;
    }

    fn forget(&mut self, before: Instant) {
        self.marked.retain(|_, at| *at >= before);
    }

    /// Forgets everything if nothing has failed since `before`.
    fn forget_all(&mut self, before: Instant) {
        if self.failed_at.is_some_and(|at| at < before) {
            self.failed_at = None;
            self.all = Failures::default();
            self.networks.clear();
        }
    }
}

impl Reach {
    pub(super) fn new() -> Self {
        Self {
            answers: Ledger::new(UNANSWERED_HOLDERS_MAX, UNANSWERED_WAIT_MAX),
            // Several may freeze at once, with those beside them in good health: only the time tells.
            bodies: Ledger::new(usize::MAX, STALL_BUDGET),
            refusing: HashSet::new(),
            busy: Waited::default(),
            asked: HashMap::new(),
            unanswered_requests: 0,
            told: Condition::default(),
        }
    }

    /// Whether a request waits for `holder`.
    pub(super) fn admits(&self, holder: SocketAddr) -> bool {
        self.answers.admits(holder) && self.bodies.admits(holder)
    }

    /// Whether a transfer that has begun may go on with `holder`.
    pub(super) fn may_go_on_with(&self, holder: SocketAddr) -> bool {
        let is_marked = |ledger: &Ledger| ledger.marked.contains_key(&holder);
        !is_marked(&self.answers) && !is_marked(&self.bodies) && !self.bodies.is_spent()
    }

    /// Whether `holder` goes behind others: it has never answered, and others of its network failed since
    /// one there did.
    pub(super) fn is_doubtful(&self, holder: SocketAddr) -> bool {
        self.answers.networks.contains_key(&network(holder)) && !self.answers.good.contains_key(&holder)
    }

    /// `holders` are about to be asked for `path`, or would be, were they admitted.
    pub(super) fn asked(&mut self, holders: &[SocketAddr], path: &Arc<ContentPath>, now: Instant) {
        for holder in holders {
            if let Some(known) = self.asked.get_mut(holder) {
                known.at = now;
                // A blob shows more than a manifest: it has more bytes.
                if !path.is_manifest() {
                    known.path = Arc::clone(path);
                }
                continue;
            }
            if self.asked.len() >= TROUBLES_REMEMBERED_MAX {
                self.asked.retain(|_, asked| now.saturating_duration_since(asked.at) < PEER_FORGOTTEN_AFTER);
            }
            if self.asked.len() < TROUBLES_REMEMBERED_MAX {
                let asked = Asked { path: Arc::clone(path), at: now, missing: None, probed: None };
                self.asked.insert(*holder, asked);
            }
        }
    }

    /// `holder` did not answer. `took_time`: it is not tried again by a request that waits.
    /// True: that is news.
    pub(super) fn unanswered(&mut self, holder: SocketAddr, now: Instant, took_time: bool) -> bool {
        if took_time {
            return self.answers.failed(holder, now, true);
        }
        // Costs no time, so nobody else is left out for it; but the operator should know.
        self.answers.good.remove(&holder);
        if self.refusing.len() < TROUBLES_REMEMBERED_MAX {
            self.refusing.insert(holder);
        }
        false
    }

    /// `holder` gave an answer, whatever it was.
    pub(super) fn answered(&mut self, holder: SocketAddr, now: Instant) {
        self.answers.succeeded(holder, now);
        self.refusing.clear();
        self.unanswered_requests = 0;
    }

    /// Whether `holder` has answered since.
    pub(super) fn has_answered_since(&self, holder: SocketAddr, since: Instant) -> bool {
        self.answers.good.get(&holder).is_some_and(|heard| *heard >= since)
    }

    /// A holder is of use: its answer is what was asked for.
    pub(super) fn won(&mut self) {
        self.busy.total = Duration::ZERO;
    }

    /// `holder` sent nothing more of `digest` for `silence`. True: that is news.
    pub(super) fn stalled(
        &mut self,
        holder: SocketAddr,
        digest: Option<&Digest>,
        now: Instant,
        silence: Duration,
    ) -> bool {
        if let (Some(asked), Some(digest)) = (self.asked.get_mut(&holder), digest) {
            let item = Item::Blob(digest.clone());
            asked.missing = Some(match asked.path.digest() {
                Some(of_path) if of_path == digest => Arc::clone(&asked.path),
                _ => Arc::new(ContentPath { item, ..(*asked.path).clone() }),
            });
        }
        let is_news = self.bodies.failed(holder, now, true);
        self.bodies.waited_for(holder, now.checked_sub(silence).unwrap_or(now), now);
        is_news
    }

    /// `holder` has sent so many bytes that large packets arrive.
    pub(super) fn delivered(&mut self, holder: SocketAddr, now: Instant) {
        if let Some(asked) = self.asked.get_mut(&holder) {
            asked.missing = None;
        }
        self.bodies.succeeded(holder, now);
    }

    /// A probe has ended with all of `path`, or with the news that `holder` does not have it.
    pub(super) fn probed(&mut self, holder: SocketAddr, path: &ContentPath, has_it: bool, now: Instant) {
        let Some(asked) = self.asked.get_mut(&holder) else { return };
        if asked.missing.as_deref() != Some(path) {
            return;
        }
        asked.missing = None;
        if has_it {
            self.bodies.succeeded(holder, now);
        }
    }

    /// A request waited while no holder had answered it.
    pub(super) fn waited(&mut self, from: Instant, to: Instant) {
        self.answers.all.waited.add(from, to);
    }

    /// How long a request that has `left` may wait: all of them together once that long since the last
    /// answer.
    pub(super) fn patience(&self, left: Duration) -> Duration {
        let budget = left.max(UNANSWERED_WAIT_MAX);
        left.min(budget.saturating_sub(self.answers.all.waited.total).max(UNANSWERED_WAIT_MIN))
    }

    /// Whether a request may wait until `to` for a holder that is busy; it does so then.
    pub(super) fn waits_for_busy(&mut self, from: Instant, to: Instant) -> bool {
        let may_wait = self.busy.total < BUSY_WAIT_MAX;
        if may_wait {
            self.busy.add(from, to);
        }
        may_wait
    }

    /// No holder answered a request.
    pub(super) fn request_was_unanswered(&mut self) {
        self.unanswered_requests = self.unanswered_requests.saturating_add(1);
    }

    /// None of these was admitted for a request.
    pub(super) fn request_was_skipped(&mut self, holders: &[SocketAddr]) {
        if !holders.iter().any(|holder| self.answers.admits(*holder)) {
            self.request_was_unanswered();
        }
    }

    /// The condition, if it began, ended, or concerns twice as many holders as when it was told last.
    pub(super) fn news(&mut self) -> Option<Condition> {
        let (now, told) = (self.condition(), self.told);
        let differs = |now: Option<usize>, told: Option<usize>| match (now, told) {
            (Some(now), Some(told)) => now >= told * 2,
            (now, told) => now.is_some() != told.is_some(),
        };
        let unanswered = |condition: Condition| condition.unanswered.map(|(count, _)| count);
        let is_news =
            differs(unanswered(now), unanswered(told)) || differs(now.undelivered, told.undelivered);
        self.told = if is_news { now } else { told };
        is_news.then_some(now)
    }

    /// Whether no peer has answered lately, as far as requests and probes know.
    pub(super) fn is_cut_off(&self) -> bool {
        self.condition().unanswered.is_some()
    }

    fn condition(&self) -> Condition {
        let all: HashSet<_> = self.answers.all.holders.union(&self.refusing).collect();
        let is_unanswered =
            self.answers.is_shut() || self.unanswered_requests >= UNANSWERED_REQUESTS_MAX && !all.is_empty();
        let port = all.iter().map(|holder| holder.port()).min().unwrap_or_default();
        Condition {
            unanswered: is_unanswered.then_some((all.len(), port)),
            undelivered: self.bodies.is_shut().then_some(self.bodies.all.holders.len()),
        }
    }

    /// Which holders to probe now and with what: half of them those asked last, and the others in turn, so
    /// that some which are asked often and never answer keep no other one from its probe. None: no probe is
    /// needed before another request fails.
    pub(super) fn probes_due(&mut self, now: Instant) -> Vec<(SocketAddr, Arc<ContentPath>)> {
        let before = now.checked_sub(PEER_FORGOTTEN_AFTER);
        if let Some(before) = before {
            self.answers.forget(before);
            self.bodies.forget(before);
            self.bodies.forget_all(before);
        }
        let lasts = self.condition() != Condition::default();
        // Doubtful ones go behind others, so that requests may never find out whether they answer.
        let is_open = |holder: SocketAddr| !self.admits(holder) || self.is_doubtful(holder);
        let is_wanted = |asked: &Asked| lasts || before.is_none_or(|before| asked.at >= before);
        let open = self.asked.iter().filter(|(holder, _)| lasts || is_open(**holder));
        let mut due: Vec<_> = open.filter(|(_, asked)| is_wanted(asked)).collect();
        due.sort_by_key(|(_, asked)| std::cmp::Reverse(asked.at));
        let in_turn = due.get_mut(PROBES_AT_ONCE_MAX / 2..).unwrap_or_default();
        in_turn.sort_by_key(|(_, asked)| asked.probed);
        due.truncate(PROBES_AT_ONCE_MAX);
        due.into_iter().map(|(holder, asked)| (*holder, asked.wanted())).collect()
    }

    /// These are probed now.
    pub(super) fn probing(&mut self, holders: impl Iterator<Item = SocketAddr>, now: Instant) {
        for holder in holders {
            if let Some(asked) = self.asked.get_mut(&holder) {
                asked.probed = Some(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(network: u8, number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, network, number], 7_781))
    }

    fn blob() -> Arc<ContentPath> {
        let item = Item::Blob(Digest::of(b"x"));
        Arc::new(ContentPath { registry: None, repository: "a".to_owned(), item })
    }

    fn walled_off(network: u8, count: usize, now: Instant) -> Reach {
        let mut reach = Reach::new();
        for number in 0..count {
            reach.unanswered(peer(network, number as u8), now, true);
        }
        reach
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_did_not_answer_is_not_waited_for_until_it_does() {
        let (now, mut reach) = (Instant::now(), Reach::new());
        assert!(reach.unanswered(peer(0, 1), now, true) && !reach.unanswered(peer(0, 1), now, true));
        assert!(!reach.admits(peer(0, 1)) && reach.admits(peer(0, 2)));
        reach.answered(peer(0, 2), now);
        assert!(!reach.admits(peer(0, 1)), "another one says nothing of it");
        reach.answered(peer(0, 1), now);
        assert!(reach.admits(peer(0, 1)));
        // A refused connection costs no time.
        assert!(!reach.unanswered(peer(0, 1), now, false));
        assert!(reach.admits(peer(0, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn enough_failures_speak_for_all_and_one_answer_against_it() {
        let now = Instant::now();
        let mut reach = walled_off(0, UNANSWERED_HOLDERS_MAX - 1, now);
        assert!(reach.admits(peer(1, 1)));
        reach.unanswered(peer(0, 200), now, true);
        assert!(!reach.admits(peer(1, 1)) && !reach.admits(peer(0, 201)));
        assert_eq!(reach.condition().unanswered, Some((UNANSWERED_HOLDERS_MAX, 7_781)));
        reach.answered(peer(2, 1), now);
        (0..UNANSWERED_HOLDERS_MAX as u8).for_each(|number| {
            reach.unanswered(peer(0, number), now, true);
        });
        assert!(reach.admits(peer(2, 1)) && !reach.admits(peer(2, 2)), "one that is known to be good");
        // Another network answers: that one is behind a wall of its own.
        reach.answered(peer(1, 1), now);
        assert!(reach.admits(peer(1, 2)) && !reach.admits(peer(0, 201)));
        assert_eq!(reach.condition(), Condition::default());
        // The wall falls, for all behind it.
        reach.answered(peer(0, 200), now);
        assert!(reach.admits(peer(0, 201)) && reach.admits(peer(0, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_a_neighbour_does_not_bring_back_a_node_that_is_dead() {
        let now = Instant::now();
        let mut reach = walled_off(0, 2, now);
        reach.answered(peer(0, 50), now);
        reach.unanswered(peer(0, 51), now, true);
        reach.answered(peer(0, 51), now);
        assert!(!reach.admits(peer(0, 0)) && !reach.admits(peer(0, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_wait_at_once_share_one_budget() {
        let (start, mut reach) = (Instant::now(), walled_off(0, 2, Instant::now()));
        let ms = Duration::from_millis;
        assert_eq!(reach.patience(ms(2_000)), ms(2_000));
        reach.waited(start, start + ms(1_000));
        reach.waited(start + ms(500), start + ms(1_000));
        assert_eq!(reach.patience(ms(2_000)), ms(1_000));
        assert!(reach.admits(peer(1, 1)));
        reach.waited(start + ms(500), start + UNANSWERED_WAIT_MAX);
        assert!(!reach.admits(peer(1, 1)), "the time is over, and it was not one holder alone");
        reach.waited(start, start + ms(9_000));
        assert_eq!(reach.patience(ms(2_000)), UNANSWERED_WAIT_MIN);
        reach.answered(peer(0, 1), start);
        assert_eq!(reach.patience(ms(2_000)), ms(2_000));
    }

    #[tokio::test(start_paused = true)]
    async fn one_holder_that_takes_all_the_time_says_nothing_of_others() {
        let (start, mut reach) = (Instant::now(), walled_off(0, 1, Instant::now()));
        reach.waited(start, start + Duration::from_secs(9));
        assert!(!reach.admits(peer(0, 0)) && reach.admits(peer(0, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_do_not_end_what_missing_bytes_began() {
        let (start, mut reach) = (Instant::now(), Reach::new());
        // Many that freeze at once say nothing of others.
        for number in 0..20 {
            reach.stalled(peer(0, number), None, start + STALL_BUDGET / 2, STALL_BUDGET / 2);
            reach.answered(peer(0, number), start);
            assert!(!reach.admits(peer(0, number)) && reach.admits(peer(7, 7)));
            assert!(reach.may_go_on_with(peer(7, 7)) && !reach.may_go_on_with(peer(0, number)));
        }
        reach.stalled(peer(0, 20), None, start + STALL_BUDGET, STALL_BUDGET / 2);
        assert!(!reach.admits(peer(7, 7)) && !reach.may_go_on_with(peer(7, 7)));
        assert_eq!(reach.condition(), Condition { unanswered: None, undelivered: Some(21) });
        reach.delivered(peer(7, 7), start);
        assert!(reach.admits(peer(7, 8)), "one delivers");
        assert!(!reach.admits(peer(0, 100)), "of its network none does");
        reach.delivered(peer(0, 1), start);
        assert!(reach.admits(peer(0, 100)) && reach.admits(peer(0, 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_busy_holders_for_so_long_in_all() {
        let (start, mut reach) = (Instant::now(), Reach::new());
        assert!(reach.waits_for_busy(start, start + BUSY_WAIT_MAX));
        assert!(!reach.waits_for_busy(start, start + BUSY_WAIT_MAX));
        reach.won();
        assert!(reach.waits_for_busy(start, start + BUSY_WAIT_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_refused_requests_are_told_and_the_text_changes_seldom() {
        let (now, mut reach) = (Instant::now(), Reach::new());
        for _ in 0..UNANSWERED_REQUESTS_MAX {
            assert_eq!(reach.news(), None);
            reach.unanswered(peer(0, 1), now, false);
            reach.request_was_unanswered();
        }
        let condition = reach.news().and_then(|condition| condition.unanswered);
        assert_eq!(condition, Some((1, 7_781)));
        assert_eq!(reach.news(), None, "told");
        reach.unanswered(peer(0, 2), now, false);
        assert!(reach.news().is_some(), "twice as many");
        reach.unanswered(peer(0, 3), now, false);
        assert_eq!(reach.news(), None);
        reach.answered(peer(0, 3), now);
        assert_eq!(reach.news(), Some(Condition::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn holders_that_are_not_waited_for_or_doubtful_are_probed_and_not_for_ever() {
        let (now, mut reach) = (Instant::now(), Reach::new());
        reach.asked(&[peer(0, 1), peer(0, 2), peer(1, 3)], &blob(), now);
        assert!(reach.probes_due(now).is_empty());
        reach.unanswered(peer(0, 1), now, true);
        let mut probed: Vec<_> = reach.probes_due(now).into_iter().map(|(holder, _)| holder).collect();
        probed.sort();
        assert_eq!(probed, [peer(0, 1), peer(0, 2)], "that of another network is not in doubt");
        assert!(reach.probes_due(now + PEER_FORGOTTEN_AFTER * 2).is_empty());
        // As long as no peer at all answers, somebody must find out when one does.
        let mut reach = walled_off(0, 100, now);
        let all: Vec<_> = (0..100).map(|number| peer(0, number)).collect();
        reach.asked(&all, &blob(), now);
        assert_eq!(reach.probes_due(now + PEER_FORGOTTEN_AFTER * 2).len(), PROBES_AT_ONCE_MAX);
    }

    /// A rack that is dead, and whose images are asked for again and again.
    #[tokio::test(start_paused = true)]
    async fn holders_that_are_asked_often_and_never_answer_keep_no_other_one_from_its_probe() {
        let (now, mut reach) = (Instant::now(), walled_off(0, 30, Instant::now()));
        let dead: Vec<_> = (0..30).map(|number| peer(0, number)).collect();
        reach.asked(&[peer(1, 1), peer(1, 2)], &blob(), now);
        let mut probed = HashSet::new();
        for second in 1..8 {
            let now = now + Duration::from_secs(second);
            reach.asked(&dead, &blob(), now);
            let due: Vec<_> = reach.probes_due(now).into_iter().map(|(holder, _)| holder).collect();
            assert_eq!(due.len(), PROBES_AT_ONCE_MAX);
            reach.probing(due.iter().copied(), now);
            probed.extend(due);
        }
        assert!(probed.contains(&peer(1, 1)) && probed.contains(&peer(1, 2)), "{probed:?}");
    }

    /// Manifests and configs are small, and a site without its registry has nothing else to ask for first.
    #[tokio::test(start_paused = true)]
    async fn what_did_not_come_is_probed_and_all_of_it_is_enough() {
        let (now, mut reach) = (Instant::now() + STALL_BUDGET, Reach::new());
        let (small, other) = (Digest::of(b"x"), Digest::of(b"y"));
        reach.asked(&[peer(0, 1)], &blob(), now);
        reach.stalled(peer(0, 1), Some(&other), now, STALL_BUDGET);
        reach.stalled(peer(0, 2), Some(&small), now, STALL_BUDGET);
        assert!(!reach.admits(peer(7, 7)));
        let probe = |reach: &mut Reach| reach.probes_due(now).into_iter().next().unwrap().1;
        let missing = probe(&mut reach);
        assert_eq!(missing.digest(), Some(&other), "not what was asked for last");
        reach.probed(peer(0, 1), &blob(), true, now);
        assert!(!reach.admits(peer(0, 1)), "something else has come");
        reach.probed(peer(0, 1), &missing, false, now);
        assert!(!reach.admits(peer(0, 1)), "it is not there any more");
        assert_eq!(probe(&mut reach), blob());
        reach.stalled(peer(0, 1), Some(&small), now, STALL_BUDGET);
        reach.probed(peer(0, 1), &blob(), true, now);
        assert!(reach.admits(peer(0, 1)) && reach.admits(peer(7, 7)));
        // Nobody is asked for enough to tell: that does not last for ever.
        let now = now + STALL_BUDGET;
        reach.stalled(peer(0, 1), None, now, STALL_BUDGET);
        reach.stalled(peer(0, 2), None, now, STALL_BUDGET);
        assert!(!reach.admits(peer(7, 7)));
        reach.probes_due(now + PEER_FORGOTTEN_AFTER + Duration::from_secs(1));
        assert!(reach.admits(peer(7, 7)) && reach.admits(peer(0, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded() {
        let (now, mut reach) = (Instant::now(), Reach::new());
        for number in 0..6_000_u32 {
            let holder = SocketAddr::from((Ipv4Addr::from_bits(number << 8), 1));
            reach.asked(&[holder], &blob(), now);
            reach.unanswered(holder, now, true);
            reach.stalled(holder, None, now, Duration::ZERO);
            if number % 2 == 0 {
                reach.answered(holder, now);
            }
        }
        let bounds = [
            reach.asked.len(),
            reach.answers.good.len(),
            reach.answers.marked.len(),
            reach.bodies.marked.len(),
            reach.bodies.all.holders.len(),
        ];
        assert!(bounds.iter().all(|length| *length <= TROUBLES_REMEMBERED_MAX), "{bounds:?}");
        assert!(reach.bodies.networks.len() <= PEER_NETWORKS_REMEMBERED_MAX);
    }
}
