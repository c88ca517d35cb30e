//! One answer out of several peers: the next one is asked when one fails, or stays silent for longer
//! than headers usually take (hedging). The first proper answer wins, the others are dropped, which
//! ends their connections.

use std::net::SocketAddr;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::Fetcher;
use super::candidates::Roster;
use super::peer::PeerError;
use crate::limits::{BUSY_RETRY_AFTER, PEER_CONCLUSIVE_MIN};
use crate::oci::Digest;

/// How often one that was busy is asked again.
const BUSY_TRIES_MAX: usize = 4;

/// Nobody on the roster could answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NoSource {
    /// One said that the range is outside of content of this length. It may lie.
    pub(super) unsatisfiable: Option<(SocketAddr, u64)>,
    /// Those that have content of another length than was expected. They may be right.
    pub(super) other_lengths: Vec<(SocketAddr, u64)>,
    /// What ended it, if that is not the lack of a proper answer.
    pub(super) ended: Option<Ended>,
}

/// Why no source goes on with a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The bytes of sources stopped coming for too long.
    Stalled,
    /// The registry is faster by far.
    Slower,
}

impl Fetcher {
    /// The first proper answer of `attempt` at someone on `roster`, before `deadline`.
    pub(super) async fn race<T, A: Future<Output = Result<T, PeerError>>>(
        &self,
        roster: &mut Roster,
        digest: &Digest,
        deadline: Instant,
        attempt: impl Fn(SocketAddr) -> A,
    ) -> Result<(SocketAddr, T), NoSource> {
        let mut race = Race { fetcher: self, digest, started: Vec::new(), has_asked: false };
        let mut running = FuturesUnordered::new();
        let mut no_source = NoSource::default();
        let mut start_at = Instant::now();
        let deadline = start_at + self.troubles.patience(deadline.saturating_duration_since(start_at));
        let (mut seen, mut is_answered) = (start_at, false);
        loop {
            let now = Instant::now();
            if !is_answered && !running.is_empty() {
                self.troubles.waited(seen, now);
            }
            seen = now;
            if now >= deadline {
                race.none_won();
                race.ends_without(is_answered);
                return Err(no_source);
            }
            if start_at <= now {
                if let Some(holder) = roster.next(now) {
                    race.started.push((holder, now));
                    race.has_asked = true;
                    let one = attempt(holder);
                    running.push(async move { (holder, now, one.await) });
                    start_at = now + race.patience(roster.waiting(), deadline);
                } else if let Some(later) = roster.next_at()
                    && (!running.is_empty() || self.troubles.waits_for_busy(now, later))
                {
                    start_at = later;
                } else if running.is_empty() {
                    race.ends_without(is_answered);
                    return Err(no_source);
                } else {
                    start_at = deadline;
                }
                continue;
            }
            let ended = tokio::select! {
                Some(ended) = running.next(), if !running.is_empty() => ended,
                () = sleep_until(start_at.min(deadline)) => continue,
            };
            match ended {
                (holder, since, Ok(won)) => {
                    race.won(holder, since);
                    // The winner has the length that was expected.
                    for (liar, _) in &no_source.other_lengths {
                        self.troubles.failed(*liar, digest, &PeerError::Length);
                    }
                    // They may be needed later on.
                    for (loser, _) in race.started.iter().filter(|(started, _)| *started != holder) {
                        roster.back(*loser);
                    }
                    return Ok((holder, won));
                }
                (holder, _, Err(error)) => {
                    race.started.retain(|(started, _)| *started != holder);
                    start_at = Instant::now();
                    is_answered |= !error.is_silent();
                    match error {
                        PeerError::Unsatisfiable { total } => {
                            no_source.unsatisfiable.get_or_insert((holder, total));
                        }
                        PeerError::OtherLength { total } => no_source.other_lengths.push((holder, total)),
                        _ => {}
                    }
                    self.troubles.failed(holder, digest, &error);
                    if error.is_worth_a_second_try() {
                        let times = if error.is_busy() { BUSY_TRIES_MAX } else { 1 };
                        roster.again(holder, Instant::now() + BUSY_RETRY_AFTER, times);
                    }
                }
            }
        }
    }
}

/// The bookkeeping of one race.
struct Race<'a> {
    fetcher: &'a Fetcher,
    digest: &'a Digest,
    /// Who was asked and has not answered, since when.
    started: Vec<(SocketAddr, Instant)>,
    has_asked: bool,
}

impl Race<'_> {
    /// How long to wait before the next one is asked as well: shorter, if otherwise not all would have
    /// their turn.
    fn patience(&self, waiting: usize, deadline: Instant) -> std::time::Duration {
        let left = deadline.saturating_duration_since(Instant::now());
        self.fetcher.delay.now().min(left / (u32::try_from(waiting).unwrap_or(u32::MAX - 1) + 1))
    }

    fn won(&self, winner: SocketAddr, since: Instant) {
        super::count("ok");
        self.fetcher.delay.learn(since.elapsed());
        self.fetcher.troubles.won(winner);
        for (loser, _) in self.started.iter().filter(|(holder, asked)| *holder != winner && *asked < since) {
            self.fetcher.troubles.overtaken(*loser, self.digest);
        }
    }

    fn none_won(&self) {
        // Who was asked a moment ago has not had the time that another one would have.
        let asked_by = Instant::now().checked_sub(PEER_CONCLUSIVE_MIN);
        for (holder, asked) in
            self.started.iter().filter(|(_, asked)| asked_by.is_some_and(|by| *asked <= by))
        {
            let troubles = &self.fetcher.troubles;
            // A peer that answers others, or whose manifest is on its way, can be reached.
            if troubles.has_answered_since(*holder, *asked) {
                troubles.overtaken(*holder, self.digest);
            } else {
                troubles.failed(*holder, self.digest, &PeerError::HeaderTimeout);
            }
        }
    }

    fn ends_without(&self, is_answered: bool) {
        if !is_answered && self.has_asked {
            self.fetcher.troubles.request_was_unanswered();
        }
    }
}
