//! Whether a blob is received by a flight: in place of the plain lookup of holders, the node asks who has a part of the
//! blob, and so registers as one that will have it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::Fetcher;
use super::blob::in_flight::FlightTransfer;
use super::fetched::{Fetched, Missed};
use super::wanted::{Kind, Wanted};
use crate::agent::content::head::Head;
use crate::agent::discovery::{FlightFound, FlightQuestion};
use crate::agent::flight::table::Reception;
use crate::limits::HOLDERS_ARE_MANY;
use crate::oci::{ByteRange, RangeHeader};

/// How a blob is received.
pub(crate) enum Joined {
    /// By a flight, with these headers.
    Flight(Head, Box<FlightTransfer>),
    /// From these peers, which hold all of it. Its length is known.
    Holders(Vec<SocketAddr>, u64),
    /// From the peers that a plain lookup finds.
    NotAsked,
}

impl Fetcher {
    /// Asks who has what is `wanted` or a part of it, if it may be shared while it arrives: a whole blob, or the rest of
    /// one, that containerd writes where its bytes can be seen.
    pub(crate) async fn join(&self, wanted: &Arc<Wanted>) -> Result<Joined, Missed> {
        let Some((head, reception)) = self.reception(wanted).await else { return Ok(Joined::NotAsked) };
        let Some(own) = self.flights.own() else { return Ok(Joined::NotAsked) };
        // A small blob is verified whole, so all of it is received.
        let is_gathered = self.blobs.is_verified_whole(wanted, head.total);
        let start = if is_gathered { 0 } else { head.part().start };
        let question = FlightQuestion {
            have_bytes: start,
            transfer: reception.flight().transfer(),
            begins: true,
            owes: reception.owes(),
            attempt: reception.attempt(start),
            ..FlightQuestion::default()
        };
        let within = wanted.peers_deadline().saturating_duration_since(Instant::now());
        let found = self.sources.find_for_flight(&wanted.digest, question, within).await?;
        if found.flight.is_some() {
            reception.register();
        }
        if are_enough(&found) {
            return Ok(Joined::Holders(found.holders, head.total));
        }
        self.sources.health.asked(&found.holders, &wanted.path);
        wanted.joins_flight();
        let range = ByteRange { start, end: head.total, total: head.total };
        let parts = (Arc::clone(&self.sources), Arc::clone(wanted));
        Ok(Joined::Flight(
            head,
            Box::new(FlightTransfer::new(parts, reception, own, (range, is_gathered), found)),
        ))
    }

    /// Brings what is `wanted` by a flight.
    pub(crate) async fn fly(
        &self,
        wanted: &Arc<Wanted>,
        head: Head,
        transfer: Box<FlightTransfer>,
    ) -> Result<Fetched, Missed> {
        self.blobs.fly(wanted, head, *transfer).await
    }

    /// The part of this node in the flight of what is `wanted`, and the headers of the response.
    async fn reception(&self, wanted: &Wanted) -> Option<(Head, Reception)> {
        if wanted.kind() != Kind::Blob || !matches!(wanted.range, None | Some(RangeHeader::From(_))) {
            return None;
        }
        if !self.policies.may_be_in_flight(wanted.registry(), &wanted.digest, u64::MAX) {
            return None;
        }
        let ingests = self.ingests.of(&wanted.digest).await;
        let ingest = ingests.into_iter().find(|ingest| ingest.is_shareable)?;
        let (total, data) = (ingest.total_bytes?, ingest.data?);
        if !self.policies.may_be_in_flight(wanted.registry(), &wanted.digest, total) {
            return None;
        }
        let range = match wanted.range {
            // It is answered like a request without a range, so that a client that fetches in parallel ranges goes on
            // in order.
            None | Some(RangeHeader::From(0)) => None,
            Some(range) => Some(range.within(total)?),
        };
        let reception = self.flights.receive(&wanted.digest, total, data)?;
        Some((Head { total, range }, reception))
    }
}

/// Whether the blob is received from its complete holders as if there were no flights: so many hold it that no more
/// nodes want it, or the server knows no flights.
fn are_enough(found: &FlightFound) -> bool {
    let Some(flight) = &found.flight else { return true };
    let holders = found.holders.len();
    holders >= HOLDERS_ARE_MANY && flight.came <= holders as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::discovery::FlightOffer;

    #[test]
    fn a_flight_is_joined_unless_as_many_hold_the_blob_as_want_it() {
        let found = |holders: usize, came| FlightFound {
            holders: vec![SocketAddr::from(([10, 0, 0, 1], 1)); holders],
            flight: Some(FlightOffer { came, ..FlightOffer::default() }),
        };
        for (holders, came, expected) in
            [(0, 1, false), (1, 1, false), (3, 1, false), (4, 1, true), (4, 4, true), (4, 5, false)]
        {
            assert_eq!(are_enough(&found(holders, came)), expected, "{holders} {came}");
        }
        assert!(are_enough(&FlightFound { holders: Vec::new(), flight: None }));
    }
}
