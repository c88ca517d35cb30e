//! The request to one node for the rest of a blob.

use std::net::SocketAddr;

use axum::http::{Method, StatusCode};
use tokio::time::{Instant, timeout};

use super::FlightTransfer;
use crate::agent::fetch::blob::opening::part;
use crate::agent::fetch::peers::client::{PeerAnswer, PeerBody};
use crate::agent::fetch::peers::error::{PeerError, count_attempt};
use crate::agent::flight::follow::SourceAnswer;
use crate::agent::flight::header::{Asked, FLIGHT, Told};
use crate::agent::flight::running::Role;
use crate::limits::{FLIGHT_BUSY_TRIES_MAX, FLIGHT_FAILED_FOR, FLIGHT_HEADERS_TIMEOUT, WITHOUT_BYTES_MAX};
use crate::oci::RangeHeader;

/// The node that sends.
pub(super) struct Attached {
    pub(super) node: SocketAddr,
    pub(super) body: PeerBody,
    pub(super) is_holder: bool,
    pub(super) since: Instant,
    /// The first byte that it was asked for.
    pub(super) start: u64,
}

impl FlightTransfer {
    /// Asks `node` for the blob.
    pub(super) async fn attach(&mut self, node: SocketAddr) {
        let has_just_failed =
            self.failed.get(&node).is_some_and(|failed| failed.elapsed() < FLIGHT_FAILED_FOR);
        let is_holder = self.holders.contains(&node);
        let is_reachable = is_holder || self.sources.health.admits(node);
        let is_trusted =
            is_holder || !self.sources.health.trusted(vec![node], &self.wanted.digest).is_empty();
        let fails =
            if self.fetcher == Some(node) { SourceAnswer::FetcherFails } else { SourceAnswer::Nothing };
        if has_just_failed || !is_reachable {
            self.follow.source_answered(node, fails, self.now());
            return;
        }
        // One that is not trusted may fetch for others all the same.
        if !is_trusted || self.avoided.contains(&node) {
            self.follow.source_answered(node, SourceAnswer::Nothing, self.now());
            return;
        }
        self.reception.flight().becomes(Role::Seeks { asks: Some(node) }, 0);
        let answer = match self.open(node).await {
            // One that knows no attempts does not see that its bytes are of one that has ended.
            Ok(Ok((_, told))) if !told.is_holder && told.attempt < self.reception.flight().attempt() => {
                self.failed.insert(node, Instant::now());
                SourceAnswer::Nothing
            }
            Ok(Ok((attached, told))) => {
                self.reception.flight().enter(told.attempt, self.left.start);
                let depth = told.depth.saturating_add(1);
                self.reception.flight().have_come(told.came);
                self.reception.flight().becomes(Role::Receives { source: node }, depth);
                let (digest, have_bytes) = (&self.wanted.digest, self.left.start);
                tracing::info!(%digest, source = %node, have_bytes, depth, "receives a blob while it arrives");
                ::metrics::counter!("piccolo_flight_events_total", "event" => "joined").increment(1);
                self.source = Some(attached);
                SourceAnswer::Sends
            }
            Ok(Err(told)) if !self.reception.flight().enter(told.attempt, self.left.start) => {
                self.is_ended = true;
                SourceAnswer::Nothing
            }
            Ok(Err(told)) => match (told.children, told.waits_for) {
                (children, _) if !children.is_empty() => SourceAnswer::Full(children),
                (_, Some(other)) => SourceAnswer::Waits(other),
                (_, None) => {
                    // It may have a slot for an upload, or a source, soon. One that never has is no holder for this node.
                    self.busy.push(node);
                    if self.busy.iter().filter(|busy| **busy == node).count() >= FLIGHT_BUSY_TRIES_MAX {
                        self.failed.insert(node, Instant::now());
                    }
                    SourceAnswer::Nothing
                }
            },
            Err(error) => {
                tracing::debug!(%node, digest = %self.wanted.digest, %error, "could not join a flight");
                self.sources.health.failed(node, &self.wanted.digest, &error);
                self.failed.insert(node, Instant::now());
                fails
            }
        };
        self.follow.source_answered(node, answer, self.now());
    }

    /// The bytes of `node` from here on, or where it sends this node to.
    async fn open(&self, node: SocketAddr) -> Result<Result<(Attached, Told), Told>, PeerError> {
        let Some(applicant) = self.reception.applicant(self.left.start, self.follow.has_left_slow()) else {
            return Ok(Err(Told::default()));
        };
        let asked = Asked::Receive(applicant, self.reception.known());
        let range = (self.left.start > 0).then_some(RangeHeader::From(self.left.start));
        let answer = self.ask(node, &Method::GET, range, &asked);
        let answer =
            timeout(FLIGHT_HEADERS_TIMEOUT, answer).await.unwrap_or(Err(PeerError::HeaderTimeout))?;
        let told = answer.header(FLIGHT).map(Told::parse);
        match (answer.status, &told) {
            (StatusCode::SERVICE_UNAVAILABLE, _) => return Ok(Err(told.unwrap_or_default())),
            // A node that has only a part of it may have lost that: it is no stale entry of the index.
            (StatusCode::NOT_FOUND, _) if !self.holders.contains(&node) => return Ok(Err(Told::default())),
            _ => {}
        }
        let sent = part(&answer, range)?;
        if sent.total != self.left.total {
            return Err(PeerError::OtherLength { total: sent.total });
        }
        if sent.start != self.left.start {
            return Err(PeerError::Length);
        }
        count_attempt("ok");
        self.sources.health.won(node);
        // An agent that knows no flights serves only what it holds.
        let told = told.unwrap_or(Told { is_holder: true, ..Told::default() });
        let PeerAnswer { mut body, .. } = answer;
        body.stall_after(WITHOUT_BYTES_MAX);
        if !told.is_holder {
            body.may_be_slow();
        }
        let (since, start) = (Instant::now(), self.left.start);
        Ok(Ok((Attached { node, body, is_holder: told.is_holder, since, start }, told)))
    }

    async fn ask(
        &self,
        node: SocketAddr,
        method: &Method,
        range: Option<RangeHeader>,
        asked: &Asked,
    ) -> Result<PeerAnswer, PeerError> {
        self.sources.client.ask_in_flight(node, &self.wanted.path, method, range, asked).await
    }
}
