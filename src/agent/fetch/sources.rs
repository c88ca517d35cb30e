//! The peers that content is fetched from: who holds it, and who of them is asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::fetched::Missed;
use super::peers::candidates::Candidates;
use super::peers::client::PeerClient;
use super::peers::health::PeerHealth;
use super::peers::hedging::Hedging;
use super::permits::Permits;
use super::registry_speed::{RegistrySpeeds, RunningTransfer};
use super::wanted::Wanted;
use crate::agent::discovery::{FlightFound, FlightQuestion, HolderLookup, LookupError};
use crate::oci::{ContentPath, Digest};

/// What transfers need to find peers and to ask them.
pub(crate) struct Sources {
    pub(crate) client: PeerClient,
    pub(crate) health: Arc<PeerHealth>,
    pub(crate) hedging: Hedging,
    pub(crate) speeds: Arc<RegistrySpeeds>,
    pub(crate) permits: Permits,
    discovery: Arc<HolderLookup>,
}

impl Sources {
    /// No peer has been asked yet, and all permits are free.
    pub(crate) fn new(discovery: Arc<HolderLookup>, health: PeerHealth) -> Self {
        let health = Arc::new(health);
        Self {
            client: PeerClient::default(),
            hedging: Hedging::new(Arc::clone(&health)),
            health,
            speeds: Arc::new(RegistrySpeeds::new()),
            permits: Permits::new(),
            discovery,
        }
    }

    /// The holders of `digest`, the nearest first.
    pub(crate) async fn holders(
        &self,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, LookupError> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.discovery.find(digest.as_str(), left).await
    }

    /// Finds who has `digest` or a part of it, and registers this node as one that receives it.
    pub(crate) async fn find_for_flight(
        &self,
        digest: &Digest,
        question: FlightQuestion,
        within: Duration,
    ) -> Result<FlightFound, LookupError> {
        self.discovery.find_for_flight(digest.as_str(), question, within).await
    }

    /// Those of `holders` that are asked for `wanted`.
    pub(crate) fn candidates(&self, wanted: &Wanted, holders: Vec<SocketAddr>) -> Result<Candidates, Missed> {
        if holders.is_empty() {
            return Err(Missed::NoHolder);
        }
        let count = holders.len();
        if !self.note_asked(&holders, &wanted.path) {
            return Err(Missed::OutOfReach { holders: count });
        }
        let mut order = self.health.order(holders, &wanted.digest);
        let is_outpaced = |holder: &SocketAddr| self.speeds.is_outpaced(wanted.registry(), *holder);
        if !order.is_empty() && order.iter().all(is_outpaced) && self.speeds.leave(wanted) {
            return Err(Missed::Slower);
        }
        order.retain(|holder| !is_outpaced(holder));
        Ok(Candidates::new(order))
    }

    /// Those of `holders` that are asked for a tag. A pull begins with its tag: where no holder is asked for
    /// that, nothing else is wanted of them, so that a tag is as good a reason for probes as content.
    pub(crate) fn tag_candidates(
        &self,
        path: &ContentPath,
        holders: Vec<SocketAddr>,
        digest: &Digest,
    ) -> Candidates {
        if !holders.is_empty() {
            self.note_asked(&holders, path);
        }
        Candidates::new(self.health.order(holders, digest))
    }

    /// Whether the registry of `wanted` would send what is left much sooner than peers that sent
    /// `bytes_per_second` so far.
    pub(crate) fn are_outpaced(&self, wanted: &Wanted, bytes_per_second: u64, left_bytes: u64) -> bool {
        let transfers = self.permits.running_transfers();
        self.speeds.outpaces(wanted.registry(), RunningTransfer { bytes_per_second, left_bytes, transfers })
    }

    /// Notes that `holders` hold what is asked for. Returns whether requests wait for any of them.
    fn note_asked(&self, holders: &[SocketAddr], path: &ContentPath) -> bool {
        self.health.asked(holders, path);
        let is_any_admitted = holders.iter().any(|holder| self.health.admits(*holder));
        if !is_any_admitted {
            self.health.request_was_skipped(holders);
        }
        is_any_admitted
    }
}
