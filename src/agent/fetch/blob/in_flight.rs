//! The bytes of a blob from one node after another while they are still arriving there. What is done next is decided
//! by [`Follow`]; here are the requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};

use super::opening::part;
use crate::agent::discovery::{FlightFound, FlightQuestion};
use crate::agent::fetch::peers::client::{PeerAnswer, PeerBody};
use crate::agent::fetch::peers::error::{PeerError, count_attempt};
use crate::agent::fetch::sources::Sources;
use crate::agent::fetch::wanted::Wanted;
use crate::agent::flight::follow::{Follow, Need, Probed, ServerAnswer, SourceAnswer, Step, Why};
use crate::agent::flight::header::{Asked, FLIGHT, Told};
use crate::agent::flight::running::Role;
use crate::agent::flight::table::Reception;
use crate::api::flight::FlightClaim;
use crate::limits::{
    FLIGHT_BUSY_TRIES_MAX, FLIGHT_FAILED_FOR, FLIGHT_HEADERS_TIMEOUT, FLIGHT_LOOKUP_TIMEOUT,
    FLIGHT_PROBE_TIMEOUT, REGISTRY_SPREAD, WITHOUT_BYTES_MAX, YIELD_AFTER,
};
use crate::oci::{ByteRange, RangeHeader};

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
}

/// Why the bytes end before the blob does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GaveUp {
    /// The registry sends the rest.
    Registry(Why),
    /// containerd asks again: its turn is needed for a blob that this node fetches for others.
    Yields,
}

/// A question to a source that has not been answered.
struct Probe {
    node: SocketAddr,
    /// In a mutex, although nobody shares it, so that a transfer may be looked at between its awaits.
    answer: Mutex<BoxFuture<'static, Option<Told>>>,
}

impl Probe {
    /// What the source says of itself; `None`: nothing in time.
    async fn answer(&mut self) -> Option<Told> {
        self.answer.get_mut().expect("nothing panics while it is locked").await
    }
}

/// The node that sends.
struct Attached {
    node: SocketAddr,
    body: PeerBody,
    is_holder: bool,
    since: Instant,
    /// The first byte that it was asked for.
    start: u64,
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
        };
        // The question to which `found` is the answer.
        transfer.follow.next(Duration::ZERO);
        transfer.learn(found, None);
        transfer
    }

    /// Begins again, without the nodes that have sent: their bytes are wrong.
    pub(super) fn begin_again(&mut self) {
        self.avoided.extend(self.senders.drain(..).map(|(node, _)| node));
        self.source = None;
        self.left.start = 0;
        self.begun = Instant::now();
        self.follow = Follow::new(self.own, 0, Duration::ZERO);
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

    async fn ask_server(&mut self, need: Need) {
        let transfer = self.reception.flight().transfer();
        let question = question(need, (self.left.start, transfer), self.reception.owes());
        match self.sources.find_for_flight(&self.wanted.digest, question, FLIGHT_LOOKUP_TIMEOUT).await {
            Ok(found) => self.learn(found, question.lost),
            Err(_) => self.follow.server_answered(ServerAnswer::Nobody),
        }
    }

    /// Learns what a server has found. `lost` is the source that this node has lost.
    fn learn(&mut self, found: FlightFound, lost: Option<SocketAddr>) {
        let FlightFound { holders, flight } = found;
        self.holders.clone_from(&holders);
        let mut sources = self.sources.health.order(holders, &self.wanted.digest);
        // Its connection may only have broken.
        sources.sort_by_key(|holder| Some(*holder) == lost);
        let offer = flight.unwrap_or_default();
        self.fetcher = offer.fetcher;
        self.reception.flight().have_come(offer.came);
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

    /// Asks `node` for the blob.
    async fn attach(&mut self, node: SocketAddr) {
        let has_just_failed =
            self.failed.get(&node).is_some_and(|failed| failed.elapsed() < FLIGHT_FAILED_FOR);
        let is_suspect = !self.holders.contains(&node)
            && self.sources.health.trusted(vec![node], &self.wanted.digest).is_empty();
        let fails =
            if self.fetcher == Some(node) { SourceAnswer::FetcherFails } else { SourceAnswer::Nothing };
        if has_just_failed || is_suspect || self.avoided.contains(&node) {
            self.follow.source_answered(node, fails, self.now());
            return;
        }
        self.reception.flight().becomes(Role::Seeks { asks: Some(node) }, 0);
        let answer = match self.open(node).await {
            Ok(Ok((attached, told))) => {
                let depth = told.depth.saturating_add(1);
                self.reception.flight().have_come(told.came);
                self.reception.flight().becomes(Role::Receives { source: node }, depth);
                let (digest, have_bytes) = (&self.wanted.digest, self.left.start);
                tracing::info!(%digest, source = %node, have_bytes, depth, "receives a blob while it arrives");
                ::metrics::counter!("piccolo_flight_events_total", "event" => "joined").increment(1);
                self.source = Some(attached);
                SourceAnswer::Sends
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
        let asked = Asked::Receive(applicant, self.reception.flight().came());
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

    /// Begins to ask the source how far it is. Its bytes are taken meanwhile.
    fn begin_probe(&mut self, node: SocketAddr) {
        let (sources, wanted, own) = (Arc::clone(&self.sources), Arc::clone(&self.wanted), self.own);
        let probe = async move {
            let asked = Asked::Probe(own);
            let answer = sources.client.ask_in_flight(node, &wanted.path, &Method::HEAD, None, &asked);
            let answer = timeout(FLIGHT_PROBE_TIMEOUT, answer).await.ok()?.ok()?;
            let told = answer.header(FLIGHT).map(Told::parse);
            told.filter(|_| answer.status == StatusCode::OK)
        };
        self.probe = Some(Probe { node, answer: Mutex::new(probe.boxed()) });
    }

    /// Learns what `node` has answered to a probe, unless it is the source no more.
    fn probed(&mut self, node: SocketAddr, told: Option<Told>) {
        if self.follow.source() != Some(node) {
            return;
        }
        let probed = told.map(|told| Probed {
            have_bytes: told.have_bytes,
            has_source: told.source.is_some() || told.waits_for.is_some(),
            should_be_left: told.advice.should_be_left,
            should_leave: told.advice.should_leave,
            instead: told.advice.instead.filter(|better| *better != self.own),
        });
        self.follow.probe_answered(probed, self.now());
        self.reception.flight().should_be_left_for(self.follow.instead());
        if self.follow.source().is_none()
            && let Some(attached) = self.source.take()
        {
            self.has_left(
                &attached,
                "it does not send what it has, does not answer, or another one is better",
            );
        }
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
        if let Some(attached) = self.source.take() {
            self.has_left(&attached, &why);
        }
        self.follow.lost();
        None
    }

    /// Notes that `attached` is the source no more. A holder that has sent nothing counts as having failed: it has all of
    /// the blob, and another request would end in the same way.
    fn has_left(&mut self, attached: &Attached, why: &str) {
        if attached.is_holder && attached.start == self.left.start {
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

/// What a server is asked.
fn question(need: Need, (have_bytes, transfer): (u64, u64), owes: u32) -> FlightQuestion {
    let lost = match need {
        Need::Lost(source) => Some(source),
        _ => None,
    };
    FlightQuestion { have_bytes, transfer, begins: false, is_starved: need.needs_ruling(), lost, owes }
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
