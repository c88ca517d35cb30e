//! Lookups. A pull waits for them: the next server is asked as well while one is slow, and the connection to
//! a far server is kept between them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::answer::Answer;
use super::ask::Question;
use super::endpoint::Endpoint;
use super::failures::Failures;
use super::servers::{Next, Round};
use super::trip::{self, Timeouts};
use super::{Client, ClientError, path};
use crate::limits::{
    API_ATTEMPT_TIMEOUT_MIN, API_PULSE_AFTER, LOOKUP_CONNECTION_KEPT, LOOKUP_TIMEOUT_FAR_MAX,
};

impl Client {
    /// Timeouts that follow from the measured round trips. The farthest server counts, because any server may
    /// have to answer.
    pub(crate) fn timeouts(&self) -> Timeouts {
        let servers = self.shared.servers.order();
        Timeouts::of(servers.iter().filter_map(|endpoint| endpoint.trip().measured()).max())
    }

    /// Asks the server that answered last, and the next one whenever the earlier ones have used up their
    /// share of the deadline or one of them failed. No request is cancelled before the deadline: the answer
    /// of a far server takes longer than its share. Only for requests that are answered from memory and may
    /// be repeated.
    ///
    /// When a server that may be behind does not find the key, all others are asked at once. They get half of
    /// the remaining time, and for [`ENDPOINT_REST`] no lookup waits again for one that stayed silent. If
    /// none of them finds the key, the first answer stands.
    ///
    /// [`ENDPOINT_REST`]: crate::limits::ENDPOINT_REST
    pub(super) async fn lookup(&self, target: &str, deadline: Duration) -> Result<Answer, ClientError> {
        let mut end = tokio::time::Instant::now() + deadline;
        let servers = &self.shared.servers;
        let question = Question::get(target);
        let mut resolved = servers.follow();
        let mut round = Round::new(servers);
        let mut running = FuturesUnordered::new();
        let mut waiting: Vec<Arc<Endpoint>> = Vec::new();
        let mut failures = Failures::default();
        let mut behind = None;
        let mut next_at = tokio::time::Instant::now();
        loop {
            let now = tokio::time::Instant::now();
            let left = round.left();
            if now >= end || (running.is_empty() && left == 0 && !servers.is_waiting()) {
                break;
            }
            if left > 0
                && (running.is_empty() || now >= next_at || behind.is_some())
                && let Some(Next { endpoint, fresh }) = round.next()
            {
                if behind.is_some() && (endpoint.is_resting() || fresh) {
                    continue;
                }
                next_at = now + (end - now) / left as u32;
                waiting.push(Arc::clone(&endpoint));
                let asked = self.ask_for(endpoint, &question, fresh);
                running.push(asked);
                continue;
            }
            let wake = if left > 0 { next_at } else { end };
            let (endpoint, result) = tokio::select! {
                Some(ended) = running.next() => ended,
                _ = resolved.changed() => continue,
                () = tokio::time::sleep_until(wake) => continue,
            };
            waiting.retain(|waits| !Arc::ptr_eq(waits, &endpoint));
            match failures.unless_failed(&endpoint.label, result) {
                Some(answer) if answer.behind && behind.is_some() => {}
                Some(answer) if answer.behind => {
                    behind = Some((endpoint, answer));
                    let now = tokio::time::Instant::now();
                    end = end.min(now + self.usual_wait().max((end - now) / 2));
                }
                Some(answer) => {
                    self.looked_up(&endpoint);
                    return Ok(answer);
                }
                None => {}
            }
        }
        for endpoint in &waiting {
            endpoint.note_failure();
        }
        if let Some((endpoint, answer)) = behind {
            self.looked_up(&endpoint);
            return Ok(answer);
        }
        let is_conclusive = deadline >= self.timeouts().conclusive;
        for endpoint in waiting {
            if is_conclusive {
                endpoint.trip().missed();
            }
            failures.silent(&endpoint.label, deadline);
        }
        Err(self.nobody(failures, deadline))
    }

    async fn ask_for(
        &self,
        endpoint: Arc<Endpoint>,
        question: &Question<'_>,
        fresh: bool,
    ) -> (Arc<Endpoint>, Result<Answer, String>) {
        let answer = self.ask(&endpoint, question, fresh).await;
        (endpoint, answer)
    }

    fn looked_up(&self, endpoint: &Arc<Endpoint>) {
        self.shared.servers.answered(endpoint);
        self.shared.looked_up.send_replace(Some(Instant::now()));
    }

    /// Time that an answer of a working server may take on a new connection, at the distance of the farthest.
    fn usual_wait(&self) -> Duration {
        let servers = self.shared.servers.order();
        let waits = servers.iter().map(|endpoint| trip::attempt_min(endpoint.trip().measured()));
        waits.max().unwrap_or(API_ATTEMPT_TIMEOUT_MIN)
    }

    /// Measures the round trips before a pull needs them. Then keeps the connection to a far server open
    /// until [`LOOKUP_CONNECTION_KEPT`] after the last lookup, with a request every [`API_PULSE_AFTER`],
    /// before the server closes an idle connection. Never ends.
    pub async fn keep_connection(&self) -> Infallible {
        let mut looked_up = self.shared.looked_up.subscribe();
        self.pulse().await;
        loop {
            // `shared` owns the sender, so that this cannot fail.
            _ = looked_up.changed().await;
            let mut used = Instant::now();
            loop {
                used = looked_up.borrow_and_update().map_or(used, |at| used.max(at));
                tokio::time::sleep_until((used + API_PULSE_AFTER).into()).await;
                let lookup = *looked_up.borrow_and_update();
                if lookup.is_none_or(|at| at.elapsed() >= LOOKUP_CONNECTION_KEPT) || !self.timeouts().far {
                    break;
                }
                if lookup.is_some_and(|at| at > used) {
                    continue;
                }
                self.pulse().await;
                used = Instant::now();
            }
        }
    }

    async fn pulse(&self) {
        let pulse = async {
            let servers = &self.shared.servers;
            let mut resolved = servers.follow();
            let mut round = Round::new(servers);
            loop {
                if let Some(Next { endpoint, .. }) = round.next() {
                    return self.ask(&endpoint, &Question::get(path::LIVEZ), false).await.map(|_| ());
                }
                _ = resolved.changed().await;
            }
        };
        match tokio::time::timeout(LOOKUP_TIMEOUT_FAR_MAX, pulse).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error, "could not measure the way to a discovery server"),
            Err(_) => tracing::debug!("a discovery server is silent"),
        }
    }
}
