//! Content from peers. Nothing goes to containerd before one has answered properly.
//!
//! [`hedging`] asks the [`candidates`] of a fetch until one answers; [`transfer`] brings bytes in order and
//! replaces a source that fails on the way, or takes several at once ([`striping`]). Manifests, and blobs up
//! to [`VERIFIED_WHOLE_BYTES_MAX`], are received and verified whole ([`spool`]); larger blobs are passed
//! on as they come and verified before their last byte ([`cut_through`]) (I5). [`peer_health`] and [`resume`]
//! remember how it went with whom, and with which digest; [`reachability`] whether peers are to be had at all,
//! and [`registry_speed`] how fast the registry is that containerd would ask instead (I4).

mod candidates;
mod cut_through;
mod early_head;
mod header_delay;
mod hedging;
mod ingest_hash;
mod ingests;
mod manifests;
mod miss;
pub(crate) mod peer;
mod peer_health;
mod probe;
mod reachability;
mod registry_speed;
mod resume;
mod spool;
mod spool_space;
mod store_and_forward;
mod striping;
mod tag;
mod transfer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use self::peer::{Answer, Ask, PeerError, Peers};
use super::content::buffer_pool::BufferPool;
use super::content::byte_stream::ByteStream;
use super::content::head::Head;
use super::content::ingest_scrub::IngestScrubber;
use super::content::store::Store;
use super::discovery::HolderLookup;
use super::discovery::holder_reports::Reporter;
use super::notices::Notices;
use super::state_dir::StateDir;
use crate::limits::{
    FAILOVER_TIMEOUT, FAN_MEMORY_BYTES_MAX, FANS_MAX, FILE_CHUNK_BYTES, OPEN_RANGE_WINDOW_BYTES,
    TRANSFERS_MAX, VERIFIED_WHOLE_BYTES_MAX,
};
use crate::oci::{ContentPath, Digest, RangeHeader, media_type};
use crate::task::Stop;

pub(crate) use early_head::Offer;
pub(crate) use miss::Missed;
pub(crate) use resume::RunningRange;
pub(crate) use spool::Whole;
pub(crate) use tag::{TagManifest, claims_of_holders};

use candidates::Roster;
use cut_through::Relay;
use header_delay::Delay;
use hedging::{Ended, NoSource};
use miss::{Failed, contradicted};
use peer_health::Troubles;
use registry_speed::Registries;
use resume::{Lately, SharedWhole};
use spool_space::Rooms;
use transfer::{Item, Opened, Terms, Transfer};

/// Between two lookups of one transfer.
const LOOKUP_PAUSE: Duration = Duration::from_millis(500);
/// Before the deadline of a request: who has not answered by then is silent, whoever has to say so.
const DEADLINE_MARGIN: Duration = Duration::from_millis(20);

/// Fetches from peers, and remembers for a while which of them failed.
pub(crate) struct Fetcher {
    discovery: Arc<HolderLookup>,
    store: Arc<dyn Store>,
    pool: BufferPool,
    healer: IngestScrubber,
    peers: Arc<Peers>,
    troubles: Troubles,
    delay: Delay,
    registries: Registries,
    /// True while a task probes peers that requests do not wait for.
    probes: AtomicBool,
    lately: Arc<Lately>,
    /// For blobs that are received and verified whole.
    rooms: Rooms,
    /// For windows of large blobs that are here before their turn.
    fan_memory: Arc<Semaphore>,
    /// For transfers that take several sources at once.
    fan_slots: Arc<Semaphore>,
    /// A task does.
    forgets_wholes: AtomicBool,
    /// For transfers, whose buffers are most of an agent's memory.
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: Stop,
}

/// What containerd asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) path: ContentPath,
    pub(crate) digest: Digest,
    pub(crate) range: Option<RangeHeader>,
    pub(crate) head_only: bool,
    /// If it is a range; see [`Fetcher::range`].
    pub(crate) running: Option<Arc<RunningRange>>,
}

/// What a peer had.
pub(crate) enum Fetched {
    /// All of it, verified.
    Whole { whole: Whole, head: Head, source: SocketAddr },
    /// A manifest, verified.
    Manifest { bytes: Bytes, media_type: &'static str, source: SocketAddr },
    /// The part of a large blob that was asked for, on its way.
    Stream { head: Head, stream: ByteStream, source: SocketAddr },
    /// Only its size was asked for.
    Size { total: u64, source: SocketAddr },
    /// The range is outside of it.
    Unsatisfiable { total: u64, source: SocketAddr },
}

impl Fetched {
    pub(crate) fn source(&self) -> SocketAddr {
        match self {
            Fetched::Whole { source, .. } | Fetched::Manifest { source, .. } => *source,
            Fetched::Stream { source, .. } | Fetched::Size { source, .. } => *source,
            Fetched::Unsatisfiable { source, .. } => *source,
        }
    }
}

impl Fetcher {
    pub(crate) fn new(
        discovery: Arc<HolderLookup>,
        store: Arc<dyn Store>,
        pool: BufferPool,
        (reporter, healer, state, notices): (Reporter, IngestScrubber, StateDir, Notices),
        stop: Stop,
    ) -> Self {
        Self {
            discovery,
            store,
            pool,
            healer,
            peers: Arc::default(),
            troubles: Troubles::new(reporter, notices),
            delay: Delay::default(),
            registries: Registries::new(),
            probes: AtomicBool::new(false),
            lately: Arc::default(),
            rooms: Rooms::new(state),
            fan_memory: Arc::new(Semaphore::new(FAN_MEMORY_BYTES_MAX)),
            fan_slots: Arc::new(Semaphore::new(FANS_MAX)),
            forgets_wholes: AtomicBool::new(false),
            slots: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// Waits for what outlives its request: aborts of ingests.
    pub(crate) async fn finish(&self) {
        self.peers.clear();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Gets `wanted` from a peer. `offer` says what the headers may promise while the bytes are
    /// still being received; dropping the future ends the transfer.
    pub(crate) async fn fetch(
        self: Arc<Self>,
        wanted: Wanted,
        offer: Arc<Offer>,
        deadline: Instant,
    ) -> Result<Fetched, Missed> {
        let fetched = self.fetch_now(&wanted, &offer, deadline - DEADLINE_MARGIN).await;
        self.probe_later();
        if fetched.is_err() {
            self.measure_registry(&wanted);
        }
        fetched
    }

    async fn fetch_now(
        self: &Arc<Self>,
        wanted: &Wanted,
        offer: &Offer,
        deadline: Instant,
    ) -> Result<Fetched, Missed> {
        if !wanted.path.is_manifest() && !wanted.head_only {
            self.begins(wanted)?;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let find = self.discovery.find(wanted.digest.as_str(), left);
        let (holders, total) = tokio::join!(find, self.expected_total(wanted));
        let mut roster = Roster::new(self.to_ask(wanted, holders?)?);
        let (digest, path) = (&wanted.digest, &wanted.path);
        let raced = if wanted.path.is_manifest() {
            let attempt = |holder| self.manifest(holder, path, digest);
            let raced = self.race(&mut roster, digest, deadline, attempt).await;
            raced.map(|(source, (bytes, media_type))| Fetched::Manifest { bytes, media_type, source })
        } else if wanted.head_only {
            let raced = self.race(&mut roster, digest, deadline, |holder| self.size(holder, path)).await;
            raced.map(|(source, total)| Fetched::Size { total, source })
        } else {
            return self.blob(wanted, roster, total, offer, deadline).await;
        };
        raced.map_err(|_| Missed::NoSource { attempts: roster.attempts() })
    }

    /// Those of `holders` that are asked for `wanted`, in order.
    fn to_ask(&self, wanted: &Wanted, holders: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Missed> {
        if holders.is_empty() {
            return Err(Missed::NoHolder);
        }
        let count = holders.len();
        self.troubles.asked(&holders, &wanted.path);
        if !holders.iter().any(|holder| self.troubles.admits(*holder)) {
            self.troubles.request_was_skipped(&holders);
            return Err(Missed::OutOfReach { holders: count });
        }
        let mut order = self.troubles.order(holders, &wanted.digest);
        let registry = wanted.path.registry.as_deref();
        let is_outpaced = |holder: &SocketAddr| self.registries.is_outpaced(registry, *holder);
        if !order.is_empty() && order.iter().all(is_outpaced) && self.registries.takes(wanted) {
            return Err(Missed::Slower);
        }
        order.retain(|holder| !self.registries.is_outpaced(registry, *holder));
        Ok(order)
    }

    /// How many share the link of this node.
    fn running_transfers(&self) -> usize {
        TRANSFERS_MAX - self.slots.available_permits()
    }

    /// The answer to `digest` was cut at `offset`.
    pub(crate) fn was_cut(&self, digest: &Digest, offset: u64) {
        self.lately.cut(digest, offset);
    }

    /// A range was promised, of content of so many bytes.
    pub(crate) fn answered_range(&self, digest: &Digest, total: u64) {
        self.lately.answered_range(digest, total);
    }

    /// A range of `digest` is asked for. It has ended when the last copy of this is dropped.
    pub(crate) fn range(&self, digest: &Digest, range: RangeHeader) -> Option<Arc<RunningRange>> {
        let (RangeHeader::From(start) | RangeHeader::Between(start, _)) = range else { return None };
        Some(Arc::new(self.lately.range(digest, start)))
    }

    /// What a range may be promised although no source has it: once the first range of a blob was
    /// answered 206, containerd in its parallel mode has no other host for the others.
    pub(crate) fn promised(&self, wanted: &Wanted) -> Option<(Head, Arc<RunningRange>)> {
        let total = self.lately.ranged(&wanted.digest)?;
        let range = wanted.range?.within(total).filter(|range| range.start > 0)?;
        Some((Head { total, range: Some(range) }, wanted.running.clone()?))
    }

    /// Somebody asks for bytes: where we cut before, or anew because those that he had were of no use.
    fn begins(&self, wanted: &Wanted) -> Result<(), Missed> {
        let start = match wanted.range {
            None => 0,
            Some(RangeHeader::From(start) | RangeHeader::Between(start, _)) => start,
            Some(RangeHeader::Last(_)) => return Ok(()),
        };
        if self.lately.take_cut(&wanted.digest, start) {
            return Err(Missed::JustCut);
        }
        if start == 0 {
            for holder in self.lately.begins_anew(&wanted.digest) {
                self.troubles.suspect(holder, &wanted.digest);
            }
        }
        Ok(())
    }

    async fn blob(
        self: &Arc<Self>,
        wanted: &Wanted,
        roster: Roster,
        total: Option<u64>,
        offer: &Offer,
        deadline: Instant,
    ) -> Result<Fetched, Missed> {
        // What a peer has said lately is a hint; only what containerd says tells who lies.
        let ranged = self.lately.ranged(&wanted.digest);
        let small = total.or(ranged).filter(|total| self.is_verified_whole(&wanted.digest, *total));
        let Some((range, small)) = wanted.range.and_then(|range| Some((range.within(small?)?, small?)))
        else {
            return self.in_a_slot(wanted, wanted.range, roster, total, offer, deadline).await;
        };
        // A part cannot be verified: all of it, once for all parts. The others have been promised theirs.
        if ranged == Some(small) {
            offer.make(Head { total: small, range: Some(range) });
        }
        let shared = self.lately.whole(&wanted.digest);
        let mut shared = shared.lock().await;
        if let Some(SharedWhole { source, total, whole }) = &*shared
            && *total == small
        {
            let head = Head { total: small, range: Some(range) };
            return Ok(Fetched::Whole { whole: whole.clone(), head, source: *source });
        }
        // Who had the lock may have had all the time.
        let deadline = deadline.max(Instant::now() + FAILOVER_TIMEOUT);
        let fetched = self.in_a_slot(wanted, None, roster, total, offer, deadline).await;
        if let Ok(Fetched::Whole { whole, source, head }) = &fetched {
            *shared = Some(SharedWhole { source: *source, total: head.total, whole: whole.clone() });
            self.forget_wholes_later();
        }
        fetched
    }

    /// [`Self::from_peers`], once there is a slot for it. Who waits for a whole that another request is
    /// receiving needs none.
    async fn in_a_slot(
        self: &Arc<Self>,
        wanted: &Wanted,
        asked: Option<RangeHeader>,
        roster: Roster,
        total: Option<u64>,
        offer: &Offer,
        deadline: Instant,
    ) -> Result<Fetched, Missed> {
        let slot = timeout_at(deadline, Arc::clone(&self.slots).acquire_owned()).await;
        let Ok(slot) = slot else { return Err(Missed::Busy) };
        let slot = slot.expect("the semaphore is never closed");
        Ok(match self.from_peers(wanted, asked, roster, total, offer, deadline).await? {
            // The others have all their bytes.
            Fetched::Stream { head, stream, source } => {
                let stream = stream.map(move |piece| {
                    let _held_as_long_as_the_stream = &slot;
                    piece
                });
                Fetched::Stream { head, stream: stream.boxed(), source }
            }
            whole => whole,
        })
    }

    /// What is `wanted`. `asked` is what is asked of peers: the same, or all of it.
    async fn from_peers(
        self: &Arc<Self>,
        wanted: &Wanted,
        asked: Option<RangeHeader>,
        mut roster: Roster,
        total: Option<u64>,
        offer: &Offer,
        mut deadline: Instant,
    ) -> Result<Fetched, Missed> {
        let item = Item { path: wanted.path.clone(), digest: wanted.digest.clone() };
        let mut mixes_sources = true;
        let mut unsatisfiable = None;
        let mut has_stalled = false;
        loop {
            let asked = asked.map(|range| window(range, total));
            let opened = match self.open(&mut roster, &item, asked, total, deadline).await {
                Ok(opened) => opened,
                Err(NoSource { unsatisfiable: said, other_lengths, .. }) => {
                    let attempts = roster.attempts();
                    return match (unsatisfiable.or(said), total) {
                        (Some((source, total)), _) => Ok(Fetched::Unsatisfiable { total, source }),
                        (None, Some(expected)) if !other_lengths.is_empty() => {
                            Err(contradicted(&item, expected, &other_lengths))
                        }
                        (None, _) if has_stalled => Err(Missed::Stalled { attempts }),
                        (None, _) => Err(Missed::NoSource { attempts }),
                    };
                }
            };
            let (holder, total) = (opened.holder, opened.part.total);
            let range = match wanted.range.map(|range| range.within(total)) {
                Some(None) => {
                    unsatisfiable.get_or_insert((holder, total));
                    continue;
                }
                Some(range) => range,
                None => None,
            };
            // Before the headers are promised: who finds no room goes on to the registry.
            let room = if self.is_verified_whole(&item.digest, total) {
                Some(self.room(total, deadline).await.ok_or(Missed::NoRoom)?)
            } else {
                None
            };
            let head = Head { total, range };
            if !offer.make(head) {
                // The one who made the offer may be the liar.
                tracing::info!(%holder, digest = %item.digest, total, "peer has another length than was promised");
                continue;
            }
            let fetched = match room {
                Some(room) => self.whole(&item, (head, room), &mut roster, opened, mixes_sources).await,
                None => self.stream(wanted, &item, head, &mut roster, opened).await,
            };
            match fetched {
                Ok(fetched) => return Ok(fetched),
                Err(Failed::Mixture) => mixes_sources = false,
                Err(Failed::Source { has_stalled: stalled }) => has_stalled = stalled,
                Err(Failed::Ended(Ended::Stalled)) => {
                    return Err(Missed::Stalled { attempts: roster.attempts() });
                }
                Err(Failed::Ended(Ended::Slower)) => return Err(Missed::Slower),
                Err(Failed::NoRoom) => return Err(Missed::NoRoom),
            }
            offer.withdraw();
            // Whoever comes next has the time of a failover, whenever that is.
            deadline = deadline.max(Instant::now() + FAILOVER_TIMEOUT);
        }
    }

    /// The part of a large blob that was asked for, on its way.
    async fn stream(
        self: &Arc<Self>,
        wanted: &Wanted,
        item: &Item,
        head: Head,
        roster: &mut Roster,
        opened: Opened,
    ) -> Result<Fetched, Failed> {
        let (source, part) = (opened.holder, head.part());
        if opened.part.start != part.start {
            self.troubles.failed(source, &item.digest, &PeerError::Length);
            return Err(Failed::Source { has_stalled: false });
        }
        let window_bytes = head.range.map(|_| OPEN_RANGE_WINDOW_BYTES);
        // Who sent bytes that were wrong together is found out alone.
        let fans_out = head.range.is_none() && !self.troubles.is_doubted(&item.digest);
        let terms = Terms { window_bytes, mixes_sources: true, fans_out };
        let taken = std::mem::take(roster);
        let mut transfer = Transfer::new(Arc::clone(self), item.clone(), taken, part, Some(opened), terms);
        let Ok(Some(first)) = transfer.next().await else {
            let failed = Failed::of(&transfer);
            *roster = transfer.into_roster();
            return Err(failed);
        };
        let (fetcher, digest) = (Arc::clone(self), item.digest.clone());
        let stream = Relay::stream(fetcher, digest, transfer, first, part, wanted.running.clone()).await;
        Ok(Fetched::Stream { head, stream, source })
    }
}

/// What is asked of a peer at first for `range`: not more than a window of one without an end.
fn window(range: RangeHeader, total: Option<u64>) -> RangeHeader {
    match range {
        RangeHeader::From(start) if total.is_none_or(|total| total > VERIFIED_WHOLE_BYTES_MAX) => {
            RangeHeader::Between(start, start.saturating_add(OPEN_RANGE_WINDOW_BYTES - 1))
        }
        range => range,
    }
}

/// A piece to be kept: a small one would keep all of the buffer that it was read into.
fn compact(piece: Bytes) -> Bytes {
    if is_small(&piece) { Bytes::copy_from_slice(&piece) } else { piece }
}

/// Memory that a piece keeps once it went through [`compact`], bytes.
fn kept_bytes(piece: &Bytes) -> usize {
    if is_small(piece) { piece.len() } else { piece.len().max(FILE_CHUNK_BYTES) }
}

fn is_small(piece: &Bytes) -> bool {
    piece.len() < FILE_CHUNK_BYTES / 4
}

fn count(result: &'static str) {
    ::metrics::counter!("piccolo_peer_attempts_total", "result" => result).increment(1);
}

async fn ask(
    peers: &Arc<Peers>,
    holder: SocketAddr,
    path: &ContentPath,
    method: &Method,
    range: Option<RangeHeader>,
) -> Result<Answer, PeerError> {
    let accept = if path.is_manifest() { media_type::ACCEPT_MANIFESTS } else { "*/*" };
    peer::ask(peers, holder, Ask { method, target: &path.request_target(), range, accept }).await
}
