//! One answer out of several peers: the next one is asked when one fails, or stays silent for longer
//! than headers usually take (hedging). The first proper answer wins, the others are dropped, which
//! ends their connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::candidates::Candidates;
use super::error::{PeerError, count_attempt};
use super::header_delay::HeaderDelay;
use super::health::PeerHealth;
use crate::limits::{BUSY_RETRY_AFTER, BUSY_TRIES_MAX, PEER_CONCLUSIVE_MIN};
use crate::oci::Digest;

/// Asks several peers for one answer.
pub(crate) struct Hedging {
    health: Arc<PeerHealth>,
    delay: HeaderDelay,
}

/// No candidate gave a proper answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NoSource {
    /// A holder that said that the range is outside of content of this length. It may lie.
    pub(crate) unsatisfiable: Option<(SocketAddr, u64)>,
    /// Holders that have content of another length than was expected. They may be right.
    pub(crate) other_lengths: Vec<(SocketAddr, u64)>,
}

impl Hedging {
    /// Nothing is known yet of how long headers take.
    pub(crate) fn new(health: Arc<PeerHealth>) -> Self {
        Self { health, delay: HeaderDelay::default() }
    }

    /// The first proper answer of `attempt` at one of `candidates`, before `deadline`.
    pub(crate) async fn first_answer<T, A: Future<Output = Result<T, PeerError>>>(
        &self,
        candidates: &mut Candidates,
        digest: &Digest,
        deadline: Instant,
        attempt: impl Fn(SocketAddr) -> A,
    ) -> Result<(SocketAddr, T), NoSource> {
        let mut race = Race::new(self, digest, deadline);
        let mut running = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            race.count_wait(now, !running.is_empty());
            if now >= race.deadline {
                race.none_won();
                return Err(race.end());
            }
            if race.ask_at <= now {
                if let Some(holder) = candidates.next(now) {
                    race.asked(holder, now, candidates.waiting());
                    let one = attempt(holder);
                    running.push(async move { (holder, now, one.await) });
                } else if let Some(later) = candidates.next_at()
                    && (!running.is_empty() || self.health.waits_for_busy(now, later))
                {
                    race.ask_at = later;
                } else if running.is_empty() {
                    return Err(race.end());
                } else {
                    race.ask_at = race.deadline;
                }
                continue;
            }
            let ended = tokio::select! {
                Some(ended) = running.next(), if !running.is_empty() => ended,
                () = sleep_until(race.ask_at.min(race.deadline)) => continue,
            };
            match ended {
                (holder, since, Ok(won)) => {
                    race.won(holder, since);
                    // The losers may be needed later on.
                    for (loser, _) in race.asked.iter().filter(|(asked, _)| *asked != holder) {
                        candidates.back(*loser);
                    }
                    return Ok((holder, won));
                }
                (holder, _, Err(error)) => {
                    race.failed(holder, &error);
                    if error.is_worth_a_second_try() {
                        let times = if error.is_busy() { BUSY_TRIES_MAX } else { 1 };
                        candidates.again(holder, Instant::now() + BUSY_RETRY_AFTER, times);
                    }
                }
            }
        }
    }
}

/// The bookkeeping of one race.
struct Race<'a> {
    hedging: &'a Hedging,
    digest: &'a Digest,
    deadline: Instant,
    /// When the next holder is asked as well.
    ask_at: Instant,
    /// Until when the time that was waited is counted.
    counted_until: Instant,
    /// Holders that were asked and have not answered, and when.
    asked: Vec<(SocketAddr, Instant)>,
    has_asked: bool,
    is_answered: bool,
    no_source: NoSource,
}

impl<'a> Race<'a> {
    fn new(hedging: &'a Hedging, digest: &'a Digest, deadline: Instant) -> Self {
        let now = Instant::now();
        Self {
            hedging,
            digest,
            deadline: now + hedging.health.patience(deadline.saturating_duration_since(now)),
            ask_at: now,
            counted_until: now,
            asked: Vec::new(),
            has_asked: false,
            is_answered: false,
            no_source: NoSource::default(),
        }
    }

    /// Counts the time until `now` as waited, if requests run that no peer has answered.
    fn count_wait(&mut self, now: Instant, is_running: bool) {
        if !self.is_answered && is_running {
            self.hedging.health.waited(self.counted_until, now);
        }
        self.counted_until = now;
    }

    /// Notes that `holder` is asked. The next one is asked as well after the usual delay, or earlier if
    /// otherwise not all of those that wait would be asked in time.
    fn asked(&mut self, holder: SocketAddr, now: Instant, waiting: usize) {
        self.asked.push((holder, now));
        self.has_asked = true;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let share = left / (u32::try_from(waiting).unwrap_or(u32::MAX - 1) + 1);
        let patience: Duration = self.hedging.delay.now().min(share);
        self.ask_at = now + patience;
    }

    fn won(&self, winner: SocketAddr, since: Instant) {
        let health = &self.hedging.health;
        count_attempt("ok");
        self.hedging.delay.learn(since.elapsed());
        health.won(winner);
        for (loser, _) in self.asked.iter().filter(|(holder, asked)| *holder != winner && *asked < since) {
            health.overtaken(*loser, self.digest);
        }
        // The winner has the length that was expected.
        for (liar, _) in &self.no_source.other_lengths {
            health.failed(*liar, self.digest, &PeerError::Length);
        }
    }

    fn failed(&mut self, holder: SocketAddr, error: &PeerError) {
        self.asked.retain(|(asked, _)| *asked != holder);
        self.ask_at = Instant::now();
        self.is_answered |= !error.is_silent();
        match error {
            PeerError::Unsatisfiable { total } => {
                self.no_source.unsatisfiable.get_or_insert((holder, *total));
            }
            PeerError::OtherLength { total } => self.no_source.other_lengths.push((holder, *total)),
            _ => {}
        }
        self.hedging.health.failed(holder, self.digest, error);
    }

    /// Notes that the time is over and no holder has given a proper answer.
    fn none_won(&self) {
        // A holder that was asked a moment ago has not had the time that another one would have.
        let asked_by = Instant::now().checked_sub(PEER_CONCLUSIVE_MIN);
        for (holder, asked) in self.asked.iter().filter(|(_, asked)| asked_by.is_some_and(|by| *asked <= by))
        {
            let health = &self.hedging.health;
            // A peer that answers others, or whose manifest is on its way, can be reached.
            if health.has_answered_since(*holder, *asked) {
                health.overtaken(*holder, self.digest);
            } else {
                health.failed(*holder, self.digest, &PeerError::HeaderTimeout);
            }
        }
    }

    /// Ends the race without a winner.
    fn end(self) -> NoSource {
        if !self.is_answered && self.has_asked {
            self.hedging.health.request_was_unanswered();
        }
        self.no_source
    }
}
