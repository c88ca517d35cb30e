//! The bytes of a blob from one node after another while they are still arriving there. What is done next is decided
//! by [`Follow`]. The steps are in [`lookups`], which asks servers, [`attaching`], which asks a node for the blob, and
//! [`probing`], which asks it how far it is; here they are put together, and bytes are taken.

mod attaching;
mod lookups;
mod probing;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use self::attaching::Attached;
use self::probing::Probe;
use crate::agent::discovery::FlightFound;
use crate::agent::fetch::peers::error::PeerError;
use crate::agent::fetch::sources::Sources;
use crate::agent::fetch::wanted::Wanted;
use crate::agent::flight::follow::{Follow, Step, Why};
use crate::agent::flight::running::Role;
use crate::agent::flight::table::Reception;
use crate::limits::{HOLDER_GOES_ON_BYTES_MIN, REGISTRY_SPREAD, YIELD_AFTER};
use crate::oci::ByteRange;

/// A transfer of the bytes of a blob from some offset to its end.
pub(crate) struct FlightTransfer {
    sources: Arc<Sources>,
    wanted: Arc<Wanted>,
    reception: Reception,
    own: SocketAddr,
    follow: Follow,
    begun: Instant,
    /// When bytes came last, or the request began.
    received: Instant,
    left: ByteRange,
    /// Whether containerd gets nothing before all of it is here.
    is_gathered: bool,
    source: Option<Attached>,
    probe: Option<Probe>,
    /// Nodes that hold all of the blob, as a server said last.
    holders: Vec<SocketAddr>,
    /// The node that fetches it from the registry, as a server said last.
    fetcher: Option<SocketAddr>,
    /// Nodes whose bytes have come, and whether each of them held all of the blob.
    senders: Vec<(SocketAddr, bool)>,
    /// Nodes that have sent wrong bytes.
    avoided: Vec<SocketAddr>,
    /// Nodes that were asked for the blob and did not answer, or do not have it, and when that was last.
    failed: HashMap<SocketAddr, Instant>,
    /// Nodes that could not send it, and named no other, once for each time.
    busy: Vec<SocketAddr>,
    gave_up: Option<GaveUp>,
    /// Whether what has come is of an attempt that has ended with wrong bytes.
    is_ended: bool,
}

/// Why the bytes end before the blob does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GaveUp {
    /// The registry sends the rest.
    Registry(Why),
    /// containerd asks again: its turn is needed for a blob that this node fetches for others.
    Yields,
    /// What has come is of an attempt that has ended with wrong bytes.
    Ended,
}

impl FlightTransfer {
    /// A transfer of `range`, which ends where the blob does, and of which containerd gets nothing before all of it is
    /// here if it `is_gathered`. `found` is what a server has answered to the beginning of the pull, and `own` is the
    /// address of this node.
    pub(crate) fn new(
        (sources, wanted): (Arc<Sources>, Arc<Wanted>),
        reception: Reception,
        own: SocketAddr,
        (range, is_gathered): (ByteRange, bool),
        found: FlightFound,
    ) -> Self {
        let follow = Follow::new(own, range.start, Duration::ZERO);
        let mut transfer = Self {
            sources,
            wanted,
            reception,
            own,
            follow,
            begun: Instant::now(),
            received: Instant::now(),
            left: range,
            is_gathered,
            source: None,
            probe: None,
            holders: Vec::new(),
            fetcher: None,
            senders: Vec::new(),
            avoided: Vec::new(),
            failed: HashMap::new(),
            busy: Vec::new(),
            gave_up: None,
            is_ended: false,
        };
        // The question to which `found` is the answer.
        transfer.follow.next(Duration::ZERO);
        transfer.learn(found, None);
        transfer
    }

    /// Begins again: the bytes were wrong. Those who sent them are left out, unless their attempt has ended: then they have
    /// learned it, too, and begin again themselves.
    pub(super) fn begin_again(&mut self) {
        if std::mem::take(&mut self.is_ended) {
            self.senders.clear();
            self.reception.leaves_attempt();
        } else {
            self.avoided.extend(self.senders.drain(..).map(|(node, _)| node));
        }
        (self.source, self.probe, self.gave_up) = (None, None, None);
        self.left.start = 0;
        self.received = Instant::now();
        self.follow.begin_again(self.now());
    }

    /// The next bytes; `None` at the end of the blob, or if the registry sends the rest: then there is something left.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        match self.go_on().await {
            Ok(bytes) => bytes,
            Err(gave_up) => {
                self.source = None;
                match gave_up {
                    GaveUp::Registry(why) => self.leave_to_registry(why).await,
                    GaveUp::Yields => self.reception.pauses(),
                    GaveUp::Ended => {
                        let (digest, have_bytes) = (&self.wanted.digest, self.left.start);
                        tracing::info!(%digest, have_bytes, "the bytes of a blob were wrong where they came from");
                    }
                }
                self.gave_up = Some(gave_up);
                None
            }
        }
    }

    /// What is transferred.
    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The part of this node in the flight.
    pub(super) fn reception(&self) -> &Reception {
        &self.reception
    }

    /// Nodes whose bytes have come.
    pub(super) fn senders(&self) -> impl Iterator<Item = SocketAddr> {
        self.senders.iter().map(|(node, _)| *node)
    }

    /// Whether a node that has sent wrong bytes had to know it: all senders held the blob, verified.
    pub(super) fn may_blame(&self) -> bool {
        self.senders.iter().all(|(_, is_holder)| *is_holder)
    }

    /// What has not come yet.
    pub(super) fn left(&self) -> ByteRange {
        self.left
    }

    /// Why the bytes have ended, if they did before the blob.
    pub(super) fn gave_up(&self) -> Option<GaveUp> {
        self.gave_up
    }

    async fn go_on(&mut self) -> Result<Option<Bytes>, GaveUp> {
        while self.left.start < self.left.end {
            if self.is_ended {
                return Err(GaveUp::Ended);
            }
            let came = match self.follow.next(self.now()) {
                Step::AskServer(need) => {
                    self.ask_server(need).await;
                    None
                }
                Step::Attach(node) => {
                    self.attach(node).await;
                    None
                }
                Step::Probe(node) => {
                    self.begin_probe(node);
                    None
                }
                Step::WaitUntil(time) => self.wait_until(time).await?,
                Step::GoToRegistry(why) => return Err(GaveUp::Registry(why)),
            };
            let Some(mut bytes) = came else { continue };
            // A node that sends more than it was asked for is not believed, and the rest is enough.
            bytes.truncate(usize::try_from(self.left.len()).unwrap_or(usize::MAX));
            self.left.start += bytes.len() as u64;
            self.follow.received(self.left.start, self.now());
            self.received = Instant::now();
            return Ok(Some(bytes));
        }
        Ok(None)
    }

    /// Takes the bytes of the source until `time`. An error: the turn is given away meanwhile.
    async fn wait_until(&mut self, time: Duration) -> Result<Option<Bytes>, GaveUp> {
        let mut until = self.begun + time;
        if self.wanted.is_limited {
            let may_yield = self.received + YIELD_AFTER;
            if Instant::now() >= may_yield && self.reception.yields(self.passed_on()) {
                return Err(GaveUp::Yields);
            }
            until = until.min(may_yield.max(Instant::now() + YIELD_AFTER));
        }
        let Some(attached) = &mut self.source else {
            self.probe = None;
            tokio::time::sleep_until(until).await;
            return Ok(None);
        };
        let probe = async {
            match &mut self.probe {
                Some(probe) => (probe.node, probe.answer().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            (node, told) = probe => {
                self.probe = None;
                self.probed(node, told);
                Ok(None)
            }
            next = attached.body.next() => Ok(self.take(next)),
            () = tokio::time::sleep_until(until) => Ok(None),
        }
    }

    /// Takes what came from the source, which stays the source unless it has ended.
    fn take(&mut self, next: Result<Option<Bytes>, PeerError>) -> Option<Bytes> {
        let Attached { node, is_holder, .. } = *self.source.as_ref()?;
        let why = match next {
            Ok(Some(bytes)) => {
                if !self.senders().any(|sender| sender == node) {
                    self.senders.push((node, is_holder));
                }
                return Some(bytes);
            }
            Ok(None) => "it broke off".to_owned(),
            Err(error) => {
                if is_holder {
                    self.sources.health.failed(node, &self.wanted.digest, &error);
                }
                error.to_string()
            }
        };
        self.follow.lost();
        if let Some(attached) = self.source.take() {
            self.has_left(&attached, true, &why);
        }
        None
    }

    /// Notes that `attached` is the source no more. A holder that was lost counts as having failed, unless its connection
    /// broke (`is_broken`) that had brought something: it has all of the blob, and another request would end in the same
    /// way.
    fn has_left(&mut self, attached: &Attached, is_broken: bool, why: &str) {
        let brought_bytes = self.left.start.saturating_sub(attached.start);
        let may_go_on = is_broken && brought_bytes >= HOLDER_GOES_ON_BYTES_MIN;
        if attached.is_holder && !may_go_on && self.follow.has_lost(attached.node) {
            self.failed.insert(attached.node, Instant::now());
        }
        self.reception.flight().becomes(Role::Seeks { asks: None }, 0);
        let (digest, have_bytes, seconds) =
            (&self.wanted.digest, self.left.start, attached.since.elapsed().as_secs_f32());
        tracing::info!(%digest, source = %attached.node, have_bytes, seconds, why, "lost the source of a blob");
        ::metrics::counter!("piccolo_flight_events_total", "event" => "lost").increment(1);
    }

    async fn leave_to_registry(&mut self, why: Why) {
        let event = match why {
            Why::Claim => "claimed",
            Why::Open => "open",
            Why::Starved => "starved",
            Why::NoServer => "no_server",
        };
        ::metrics::counter!("piccolo_flight_events_total", "event" => event).increment(1);
        let (digest, have_bytes) = (&self.wanted.digest, self.left.start);
        tracing::info!(%digest, have_bytes, %why, "containerd fetches a blob from the registry");
        match why {
            Why::Open => self.reception.fetches_like_all(),
            Why::Claim | Why::Starved | Why::NoServer => self.reception.fetches(),
        }
        // Nobody has told the nodes of a fleet apart.
        if matches!(why, Why::Starved | Why::NoServer) {
            sleep(spread(self.own)).await;
        }
    }

    /// Where containerd goes on if this request is cut now.
    fn passed_on(&self) -> u64 {
        if self.is_gathered { self.wanted.start().unwrap_or(0) } else { self.left.start }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// When the node at `address` goes to the registry, of all that do so at the same time.
fn spread(address: SocketAddr) -> Duration {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    address.hash(&mut hasher);
    REGISTRY_SPREAD.mul_f64(hasher.finish() as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_goes_to_the_registry_over_the_whole_time() {
        let times: Vec<_> =
            (1..=200).map(|node| spread(SocketAddr::from(([10, 0, 0, node], 7781)))).collect();
        let in_third = |third: u32| {
            let (from, to) = (REGISTRY_SPREAD * third / 3, REGISTRY_SPREAD * (third + 1) / 3);
            times.iter().filter(|time| (from..to).contains(*time)).count()
        };
        assert!((0..3).all(|third| in_third(third) > 40), "{times:?}");
    }
}
