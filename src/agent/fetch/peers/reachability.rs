//! Whether peers can be reached at all, learned over all digests: a firewall between the nodes, or a path
//! that swallows large packets, would otherwise cost every request its whole time (I4).
//!
//! Two ledgers follow the same rules ([`ledger`]). One counts holders that did not answer, the other one
//! holders that answered and whose bytes did not come. Holders that requests do not wait for are probed in the
//! background ([`super::probe`]), and a success ends that.
//!
//! All of this is a pure function of events and times; [`super::health`] feeds it.

mod ledger;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::ledger::{Ledger, WaitedTime};
use crate::limits::{
    BUSY_WAIT_MAX, PEER_FORGOTTEN_AFTER, PROBES_AT_ONCE_MAX, STALL_BUDGET, TROUBLES_REMEMBERED_MAX,
    UNANSWERED_HOLDERS_MAX, UNANSWERED_REQUESTS_MAX, UNANSWERED_WAIT_MAX, UNANSWERED_WAIT_MIN,
};
use crate::oci::{ContentPath, Digest, Item};

/// Which peers of this node can be reached, as far as is known.
#[derive(Debug)]
pub(super) struct Reachability {
    /// Holders that did not answer.
    answers: Ledger,
    /// Holders that answered, but whose bytes did not come.
    bodies: Ledger,
    /// Holders that refused a connection since any answered.
    refusing: HashSet<SocketAddr>,
    /// Time spent on waiting for busy holders since the last success.
    busy: WaitedTime,
    /// What each holder was last asked for, which is what a probe asks for.
    last_asked: HashMap<SocketAddr, LastAsked>,
    /// Number of requests since the last answer that no holder answered.
    unanswered_requests: usize,
    /// What [`Reachability::news`] returned last.
    reported: Condition,
}

/// What a holder was last asked for.
#[derive(Clone, Debug)]
struct LastAsked {
    path: Arc<ContentPath>,
    at: Instant,
    /// The content whose bytes did not come last.
    missing: Option<Arc<ContentPath>>,
    /// When the holder was probed last.
    probed: Option<Instant>,
}

impl LastAsked {
    /// What a probe asks for. Content that did not come is best: once all of it comes, nothing is missing any
    /// more, however small it is.
    fn to_probe(&self) -> Arc<ContentPath> {
        Arc::clone(self.missing.as_ref().unwrap_or(&self.path))
    }
}

/// What an operator should know of the reachability of peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// How many holders were asked since the last answer, none of which answered, and the port of one of them.
    pub(super) unanswered: Option<(usize, u16)>,
    /// How many holders answered since bytes came last, and sent none.
    pub(super) undelivered: Option<usize>,
}

impl Reachability {
    /// No peer has been asked yet.
    pub(super) fn new() -> Self {
        Self {
            answers: Ledger::new(UNANSWERED_HOLDERS_MAX, UNANSWERED_WAIT_MAX),
            // Several may freeze at once beside others in good health: only the time of waiting counts.
            bodies: Ledger::new(usize::MAX, STALL_BUDGET),
            refusing: HashSet::new(),
            busy: WaitedTime::default(),
            last_asked: HashMap::new(),
            unanswered_requests: 0,
            reported: Condition::default(),
        }
    }

    /// Whether a request waits for `holder`.
    pub(super) fn admits(&self, holder: SocketAddr) -> bool {
        self.answers.admits(holder) && self.bodies.admits(holder)
    }

    /// Whether a transfer that has begun may go on with `holder`.
    pub(super) fn may_go_on_with(&self, holder: SocketAddr) -> bool {
        !self.answers.is_marked(holder) && !self.bodies.is_marked(holder) && !self.bodies.is_spent()
    }

    /// Whether `holder` goes behind others: it has never answered, and others of its network failed since
    /// one there did.
    pub(super) fn is_doubtful(&self, holder: SocketAddr) -> bool {
        self.answers.has_failures_near(holder) && !self.answers.is_good(holder)
    }

    /// Notes that `holders` are asked for `path`, or would be if they were admitted.
    pub(super) fn asked(&mut self, holders: &[SocketAddr], path: &Arc<ContentPath>, now: Instant) {
        for holder in holders {
            if let Some(known) = self.last_asked.get_mut(holder) {
                known.at = now;
                // A blob shows more than a manifest: it has more bytes.
                if !path.is_manifest() {
                    known.path = Arc::clone(path);
                }
                continue;
            }
            if self.last_asked.len() >= TROUBLES_REMEMBERED_MAX {
                self.last_asked
                    .retain(|_, asked| now.saturating_duration_since(asked.at) < PEER_FORGOTTEN_AFTER);
            }
            if self.last_asked.len() < TROUBLES_REMEMBERED_MAX {
                let asked = LastAsked { path: Arc::clone(path), at: now, missing: None, probed: None };
                self.last_asked.insert(*holder, asked);
            }
        }
    }

    /// Notes that `holder` did not answer. If that `took_time`, no request that waits tries it again. Returns
    /// whether `holder` was admitted before.
    pub(super) fn unanswered(&mut self, holder: SocketAddr, now: Instant, took_time: bool) -> bool {
        if took_time {
            return self.answers.failed(holder, now, true);
        }
        // A refused connection costs no time, so no other holder is left out for it; but the operator should know.
        self.answers.is_not_good(holder);
        if self.refusing.len() < TROUBLES_REMEMBERED_MAX {
            self.refusing.insert(holder);
        }
        false
    }

    /// Notes that `holder` gave an answer, whatever it was.
    pub(super) fn answered(&mut self, holder: SocketAddr, now: Instant) {
        self.answers.succeeded(holder, now);
        self.refusing.clear();
        self.unanswered_requests = 0;
    }

    /// Whether `holder` has answered since `since`.
    pub(super) fn has_answered_since(&self, holder: SocketAddr, since: Instant) -> bool {
        self.answers.has_succeeded_since(holder, since)
    }

    /// Notes that the answer of a holder is what was asked for.
    pub(super) fn won(&mut self) {
        self.busy.total = Duration::ZERO;
    }

    /// Notes that `holder` sent nothing more of `digest` for `silence`. Returns whether `holder` was admitted before.
    pub(super) fn stalled(
        &mut self,
        holder: SocketAddr,
        digest: Option<&Digest>,
        now: Instant,
        silence: Duration,
    ) -> bool {
        if let (Some(asked), Some(digest)) = (self.last_asked.get_mut(&holder), digest) {
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

    /// Notes that `holder` has sent so many bytes that its large packets arrive.
    pub(super) fn delivered(&mut self, holder: SocketAddr, now: Instant) {
        if let Some(asked) = self.last_asked.get_mut(&holder) {
            asked.missing = None;
        }
        self.bodies.succeeded(holder, now);
    }

    /// Notes that a probe has ended: with all of `path`, or because `holder` does not have it.
    pub(super) fn probed(&mut self, holder: SocketAddr, path: &ContentPath, has_it: bool, now: Instant) {
        let Some(asked) = self.last_asked.get_mut(&holder) else { return };
        if asked.missing.as_deref() != Some(path) {
            return;
        }
        asked.missing = None;
        if has_it {
            self.bodies.succeeded(holder, now);
        }
    }

    /// Notes that a request waited while no holder had answered it.
    pub(super) fn waited(&mut self, from: Instant, to: Instant) {
        self.answers.waited(from, to);
    }

    /// How long a request with `left` until its deadline may wait. All requests together wait once that long
    /// since the last answer.
    pub(super) fn patience(&self, left: Duration) -> Duration {
        let budget = left.max(UNANSWERED_WAIT_MAX);
        left.min(budget.saturating_sub(self.answers.waited_total()).max(UNANSWERED_WAIT_MIN))
    }

    /// Whether a request may wait until `to` for a holder that is busy. If so, its wait counts.
    pub(super) fn waits_for_busy(&mut self, from: Instant, to: Instant) -> bool {
        let may_wait = self.busy.total < BUSY_WAIT_MAX;
        if may_wait {
            self.busy.add(from, to);
        }
        may_wait
    }

    /// Notes that no holder answered a request.
    pub(super) fn request_was_unanswered(&mut self) {
        self.unanswered_requests = self.unanswered_requests.saturating_add(1);
    }

    /// Notes that none of `holders` was admitted for a request.
    pub(super) fn request_was_skipped(&mut self, holders: &[SocketAddr]) {
        if !holders.iter().any(|holder| self.answers.admits(*holder)) {
            self.request_was_unanswered();
        }
    }

    /// The condition, if it began, ended, or concerns twice as many holders as when this returned it last.
    pub(super) fn news(&mut self) -> Option<Condition> {
        let (now, reported) = (self.condition(), self.reported);
        let differs = |now: Option<usize>, reported: Option<usize>| match (now, reported) {
            (Some(now), Some(reported)) => now >= reported * 2,
            (now, reported) => now.is_some() != reported.is_some(),
        };
        let unanswered = |condition: Condition| condition.unanswered.map(|(count, _)| count);
        let is_news =
            differs(unanswered(now), unanswered(reported)) || differs(now.undelivered, reported.undelivered);
        self.reported = if is_news { now } else { reported };
        is_news.then_some(now)
    }

    /// Whether no peer has answered lately, as far as requests and probes know.
    pub(super) fn is_cut_off(&self) -> bool {
        self.condition().unanswered.is_some()
    }

    fn condition(&self) -> Condition {
        let all: HashSet<_> = self.answers.failed_holders().union(&self.refusing).collect();
        let is_unanswered =
            self.answers.is_shut() || self.unanswered_requests >= UNANSWERED_REQUESTS_MAX && !all.is_empty();
        let port = all.iter().map(|holder| holder.port()).min().unwrap_or_default();
        Condition {
            unanswered: is_unanswered.then_some((all.len(), port)),
            undelivered: self.bodies.is_shut().then_some(self.bodies.failed_holders().len()),
        }
    }

    /// The holders that are probed now, and what each is asked for: one half are those asked last, the others
    /// take turns, so that holders which are asked often and never answer keep no other one from its probe. If
    /// there are none, no probe is needed before another request fails.
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
        let is_wanted = |asked: &LastAsked| lasts || before.is_none_or(|before| asked.at >= before);
        let open = self.last_asked.iter().filter(|(holder, _)| lasts || is_open(**holder));
        let mut due: Vec<_> = open.filter(|(_, asked)| is_wanted(asked)).collect();
        due.sort_by_key(|(_, asked)| std::cmp::Reverse(asked.at));
        let in_turn = due.get_mut(PROBES_AT_ONCE_MAX / 2..).unwrap_or_default();
        in_turn.sort_by_key(|(_, asked)| asked.probed);
        due.truncate(PROBES_AT_ONCE_MAX);
        due.into_iter().map(|(holder, asked)| (*holder, asked.to_probe())).collect()
    }

    /// Notes that `holders` are probed now.
    pub(super) fn probing(&mut self, holders: impl Iterator<Item = SocketAddr>, now: Instant) {
        for holder in holders {
            if let Some(asked) = self.last_asked.get_mut(&holder) {
                asked.probed = Some(now);
            }
        }
    }
}
