//! The question to a server where the bytes come from, and whose turn it is to fetch.

use std::net::SocketAddr;

use super::FlightTransfer;
use crate::agent::discovery::{FlightFound, FlightQuestion};
use crate::agent::flight::follow::{Need, ServerAnswer};
use crate::api::flight::FlightClaim;
use crate::limits::FLIGHT_LOOKUP_TIMEOUT;

impl FlightTransfer {
    pub(super) async fn ask_server(&mut self, need: Need) {
        let question = FlightQuestion {
            transfer: self.reception.flight().transfer(),
            attempt: self.reception.attempt(self.left.start),
            ..question(need, self.left.start, self.reception.owes())
        };
        match self.sources.find_for_flight(&self.wanted.digest, question, FLIGHT_LOOKUP_TIMEOUT).await {
            Ok(found) => self.learn(found, question.lost),
            Err(_) => self.follow.server_answered(ServerAnswer::Nobody),
        }
    }

    /// Learns what a server has found. `lost` is the source that this node has lost.
    pub(super) fn learn(&mut self, found: FlightFound, lost: Option<SocketAddr>) {
        let FlightFound { holders, flight } = found;
        self.holders.clone_from(&holders);
        let mut sources = self.sources.health.order(holders, &self.wanted.digest);
        // Its connection may only have broken.
        sources.sort_by_key(|holder| Some(*holder) == lost);
        let offer = flight.unwrap_or_default();
        self.fetcher = offer.fetcher;
        self.reception.flight().have_come(offer.came);
        self.is_ended = !self.reception.flight().enter(offer.attempt, self.left.start);
        let has_failed =
            |holder: &SocketAddr| self.failed.contains_key(holder) || self.avoided.contains(holder);
        // What another node has need not come from the registry, whoever is to fetch it. One that has failed here does
        // not count: it may have the blob in the index only.
        let is_held = !sources.iter().all(has_failed);
        let answer = match offer.claim {
            Some(FlightClaim::Yours) if !is_held => ServerAnswer::Yours,
            Some(FlightClaim::Open) if !is_held => ServerAnswer::Open,
            _ => {
                sources.extend(self.sources.health.trusted(offer.partial, &self.wanted.digest));
                ServerAnswer::Sources(sources)
            }
        };
        self.follow.server_answered(answer);
    }
}

/// What a server is asked.
fn question(need: Need, have_bytes: u64, owes: u32) -> FlightQuestion {
    let lost = match need {
        Need::Lost(source) => Some(source),
        _ => None,
    };
    FlightQuestion { have_bytes, is_starved: need.needs_ruling(), lost, owes, ..FlightQuestion::default() }
}
