//! One blob from peers. A small one is received and verified whole ([`store_and_forward`]), a large one is
//! passed on as it comes ([`cut_through`]); [`transfer`] brings the bytes for both.

pub(super) mod cut_through;
pub(crate) mod in_flight;
mod opening;
mod single_source;
mod stall_budget;
pub(super) mod store_and_forward;
mod striping;
mod supply;
mod transfer;

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::time::Instant;

use self::cut_through::{CutThroughContext, pass_on};
use self::in_flight::FlightTransfer;
use self::opening::{Opened, PartRequest};
use self::store_and_forward::{WholeBlobs, WholeFailed};
use self::supply::Supply;
use self::transfer::{GaveUp, Terms, Transfer};
use super::fetched::{Fetched, Missed};
use super::peers::candidates::Candidates;
use super::peers::error::PeerError;
use super::peers::hedging::NoSource;
use super::resume::{ResumeMemory, SharedWhole};
use super::sources::Sources;
use super::spool::space::SpoolRoom;
use super::wanted::Wanted;
use crate::agent::content::head::Head;
use crate::limits::{FAILOVER_TIMEOUT, FLIGHT_TRIES_MAX, OPEN_RANGE_WINDOW_BYTES, VERIFIED_WHOLE_BYTES_MAX};
use crate::oci::{ByteRange, RangeHeader};

/// Fetches blobs.
pub(super) struct BlobFetcher {
    pub(super) sources: Arc<Sources>,
    pub(super) resume: Arc<ResumeMemory>,
    pub(super) wholes: Arc<WholeBlobs>,
    pub(super) context: Arc<CutThroughContext>,
}

/// The fetch of one blob.
struct BlobFetch<'a> {
    fetcher: &'a BlobFetcher,
    wanted: &'a Arc<Wanted>,
    /// What peers are asked for: the range that is wanted, or all of a small blob.
    asked: Option<RangeHeader>,
    /// The length that containerd expects, if it is known.
    expected_total: Option<u64>,
    candidates: Candidates,
    /// When the search for a source ends.
    deadline: Instant,
    /// Whether one attempt may take bytes of several peers.
    mixes_sources: bool,
    /// A peer that has content of another length, outside of which the range is.
    unsatisfiable: Option<(SocketAddr, u64)>,
    /// Whether the last attempt ended because its source stalled.
    has_stalled: bool,
}

/// Why one attempt did not bring the blob.
enum AttemptFailed {
    /// Another attempt may bring it.
    Source { has_stalled: bool },
    /// The bytes of several sources together are wrong.
    WrongTogether,
    /// Sources stalled for too long: no other attempt is made.
    Stalled,
    /// The registry is faster by far: no other attempt is made.
    Slower,
    /// This node has no room for the blob: no other source would help.
    NoRoom,
}

impl AttemptFailed {
    /// Why `transfer` ended.
    fn of(transfer: &Transfer) -> Self {
        match transfer.gave_up() {
            Some(GaveUp::Stalled) => Self::Stalled,
            Some(GaveUp::Slower) => Self::Slower,
            Some(GaveUp::NoSource) | None => Self::Source { has_stalled: transfer.has_just_stalled() },
        }
    }
}

impl BlobFetcher {
    /// Fetches what is `wanted` from `candidates`.
    pub(super) async fn fetch(
        &self,
        wanted: &Arc<Wanted>,
        candidates: Candidates,
        expected_total: Option<u64>,
    ) -> Result<Fetched, Missed> {
        let deadline = wanted.peers_deadline();
        let fetch = BlobFetch {
            fetcher: self,
            wanted,
            asked: wanted.range,
            expected_total,
            candidates,
            deadline,
            mixes_sources: true,
            unsatisfiable: None,
            has_stalled: false,
        };
        // What a peer has said lately is a hint; only what containerd says tells which peer lies.
        let ranged = self.resume.ranged(&wanted.digest);
        let total = expected_total.or(ranged);
        let small = total.filter(|total| self.wholes.is_verified_whole(&wanted.digest, *total));
        match wanted.range.and_then(|range| Some((range.within(small?)?, small?))) {
            Some((range, total)) => {
                self.part_of_small(fetch, Head { total, range: Some(range) }, ranged).await
            }
            None => fetch.run().await,
        }
    }

    /// Whether nothing of what is `wanted`, a blob of `total` bytes, is passed on before all of it is known to be right.
    pub(super) fn is_verified_whole(&self, wanted: &Wanted, total: u64) -> bool {
        self.wholes.is_verified_whole(&wanted.digest, total)
    }

    /// Brings what is `wanted` by a flight. The headers of the response are `head`.
    pub(super) async fn fly(
        &self,
        wanted: &Arc<Wanted>,
        head: Head,
        transfer: FlightTransfer,
    ) -> Result<Fetched, Missed> {
        let mut supply = Supply::Flight(Box::new(transfer));
        if !self.is_verified_whole(wanted, head.total) {
            wanted.offer.make(head);
            return self.fly_through(head, supply).await;
        }
        for _ in 0..FLIGHT_TRIES_MAX {
            // Without room, containerd goes on to the registry.
            let deadline = wanted.peers_deadline().max(Instant::now() + FAILOVER_TIMEOUT);
            let room = self.wholes.room(head.total, deadline).await.ok_or(Missed::NoRoom)?;
            wanted.offer.make(head);
            match self.wholes.receive(&mut supply, room).await {
                Ok(whole) => {
                    let Some(source) = supply.senders().last().copied() else { break };
                    if head.range.is_some() {
                        self.resume.answered_range(&wanted.digest, head.total);
                    }
                    return Ok(Fetched::Whole { whole, head, source });
                }
                Err(WholeFailed::Wrong | WholeFailed::WrongTogether) => supply.begin_again(),
                Err(WholeFailed::GaveUp) if supply.has_ended() => supply.begin_again(),
                Err(WholeFailed::GaveUp) => break,
                Err(WholeFailed::NoRoom) => return Err(Missed::NoRoom),
            }
        }
        Err(left_to_registry(&supply))
    }

    /// The bytes of a large blob as they come.
    async fn fly_through(&self, head: Head, mut supply: Supply) -> Result<Fetched, Missed> {
        let first = supply.next().await;
        let (Some(first), Some(source)) = (first, supply.senders().last().copied()) else {
            return Err(left_to_registry(&supply));
        };
        let stream = pass_on(Arc::clone(&self.context), supply, first, head.part()).await;
        Ok(Fetched::Stream { head, stream, source })
    }

    /// A part of a small blob. A part cannot be verified, so all of the blob is fetched, once for all parts.
    async fn part_of_small(
        &self,
        mut fetch: BlobFetch<'_>,
        head: Head,
        ranged: Option<u64>,
    ) -> Result<Fetched, Missed> {
        let (wanted, total) = (fetch.wanted, head.total);
        // The first part was promised with this length, so the others may be, too.
        if ranged == Some(total) {
            wanted.offer.make(head);
        }
        let shared = self.resume.whole(&wanted.digest);
        let mut shared = shared.lock().await;
        if let Some(SharedWhole { source, total: known, whole }) = &*shared
            && *known == total
        {
            return Ok(Fetched::Whole { whole: whole.clone(), head, source: *source });
        }
        // The request that had the lock may have taken all of the time.
        fetch.deadline = fetch.deadline.max(Instant::now() + FAILOVER_TIMEOUT);
        fetch.asked = None;
        let fetched = fetch.run().await;
        if let Ok(Fetched::Whole { whole, source, head }) = &fetched {
            *shared = Some(SharedWhole { source: *source, total: head.total, whole: whole.clone() });
            self.wholes.forget_later();
        }
        fetched
    }
}

impl BlobFetch<'_> {
    /// Fetches the blob once there is a permit for it. A request that waits for a blob which another request is
    /// receiving needs no permit.
    async fn run(mut self) -> Result<Fetched, Missed> {
        let permit = self.fetcher.sources.permits.transfer(self.deadline).await.ok_or(Missed::Busy)?;
        Ok(match self.attempts().await? {
            // All bytes of the others have come.
            Fetched::Stream { head, stream, source } => {
                let stream = stream.map(move |piece| {
                    let _held_as_long_as_the_stream = &permit;
                    piece
                });
                Fetched::Stream { head, stream: stream.boxed(), source }
            }
            whole => whole,
        })
    }

    /// Tries one source after the other.
    async fn attempts(&mut self) -> Result<Fetched, Missed> {
        let wanted = self.wanted;
        loop {
            let range = self.asked.map(|range| first_window(range, self.expected_total));
            let request = PartRequest { wanted, range, total: self.expected_total };
            let sources = &self.fetcher.sources;
            let opened = match request.open(sources, &mut self.candidates, self.deadline).await {
                Ok(opened) => opened,
                Err(no_source) => return self.without_source(no_source),
            };
            let (holder, total) = (opened.holder, opened.part.total);
            let Ok(range) = wanted.range.map(|range| range.within(total).ok_or(())).transpose() else {
                self.unsatisfiable.get_or_insert((holder, total));
                continue;
            };
            // Before the headers are promised: without room, containerd goes on to the registry.
            let room = if self.fetcher.wholes.is_verified_whole(&wanted.digest, total) {
                let room = self.fetcher.wholes.room(total, self.deadline).await;
                Some(room.ok_or(Missed::NoRoom)?)
            } else {
                None
            };
            let head = Head { total, range };
            if !wanted.offer.make(head) {
                // The peer that made the offer may be the liar.
                tracing::info!(%holder, digest = %wanted.digest, total, "peer has another length than was promised");
                continue;
            }
            let fetched = match room {
                Some(room) => self.whole(head, room, opened).await,
                None => self.stream(head, opened).await,
            };
            match fetched {
                Ok(fetched) => return Ok(fetched),
                Err(AttemptFailed::WrongTogether) => self.mixes_sources = false,
                Err(AttemptFailed::Source { has_stalled }) => self.has_stalled = has_stalled,
                Err(AttemptFailed::Stalled) => {
                    return Err(Missed::Stalled { attempts: self.candidates.attempts() });
                }
                Err(AttemptFailed::Slower) => return Err(Missed::Slower),
                Err(AttemptFailed::NoRoom) => return Err(Missed::NoRoom),
            }
            wanted.offer.withdraw();
            // The next source has the time of a failover, whenever that is.
            self.deadline = self.deadline.max(Instant::now() + FAILOVER_TIMEOUT);
        }
    }

    /// All of a small blob, also if only a part of it was asked for.
    async fn whole(&mut self, head: Head, room: SpoolRoom, opened: Opened) -> Result<Fetched, AttemptFailed> {
        let source = opened.holder;
        if !opened.part.is_whole() {
            self.candidates.first(source);
        }
        let terms = Terms {
            range: ByteRange::whole(head.total),
            window_bytes: None,
            mixes_sources: self.mixes_sources,
            may_stripe: false,
        };
        let mut transfer = self.transfer(terms);
        if opened.part.is_whole() {
            transfer.begin(opened);
        }
        let mut supply = Supply::Peers(Box::new(transfer));
        let received = self.fetcher.wholes.receive(&mut supply, room).await;
        let Supply::Peers(transfer) = supply else { unreachable!("it was made of a transfer") };
        let failed = match received {
            Ok(whole) => {
                if head.range.is_some() {
                    let digest = &self.wanted.digest;
                    self.fetcher.resume.answered_range(digest, head.total);
                    let shared = SharedWhole { source, total: head.total, whole: whole.clone() };
                    self.fetcher.wholes.share(digest, shared);
                }
                return Ok(Fetched::Whole { whole, head, source });
            }
            Err(WholeFailed::GaveUp) => AttemptFailed::of(&transfer),
            Err(WholeFailed::Wrong) => AttemptFailed::Source { has_stalled: false },
            Err(WholeFailed::WrongTogether) => AttemptFailed::WrongTogether,
            Err(WholeFailed::NoRoom) => AttemptFailed::NoRoom,
        };
        self.candidates = transfer.into_candidates();
        Err(failed)
    }

    /// The part of a large blob that was asked for, on its way.
    async fn stream(&mut self, head: Head, opened: Opened) -> Result<Fetched, AttemptFailed> {
        let (wanted, source, part) = (self.wanted, opened.holder, head.part());
        let health = &self.fetcher.sources.health;
        if opened.part.start != part.start {
            health.failed(source, &wanted.digest, &PeerError::Length);
            return Err(AttemptFailed::Source { has_stalled: false });
        }
        let window_bytes = head.range.map(|_| OPEN_RANGE_WINDOW_BYTES);
        // Peers that together sent wrong bytes are asked one at a time.
        let may_stripe = head.range.is_none() && !health.is_doubted(&wanted.digest);
        let mut transfer =
            self.transfer(Terms { range: part, window_bytes, mixes_sources: true, may_stripe });
        transfer.begin(opened);
        let Some(first) = transfer.next().await else {
            let failed = AttemptFailed::of(&transfer);
            self.candidates = transfer.into_candidates();
            return Err(failed);
        };
        let context = Arc::clone(&self.fetcher.context);
        let stream = pass_on(context, Supply::Peers(Box::new(transfer)), first, part).await;
        Ok(Fetched::Stream { head, stream, source })
    }

    fn transfer(&mut self, terms: Terms) -> Transfer {
        let (sources, wanted) = (Arc::clone(&self.fetcher.sources), Arc::clone(self.wanted));
        Transfer::new(sources, wanted, std::mem::take(&mut self.candidates), terms)
    }

    /// What the fetch ends with when no candidate is left that opens a transfer.
    fn without_source(&self, no_source: NoSource) -> Result<Fetched, Missed> {
        let NoSource { unsatisfiable, other_lengths } = no_source;
        let attempts = self.candidates.attempts();
        match (self.unsatisfiable.or(unsatisfiable), self.expected_total) {
            (Some((source, total)), _) => Ok(Fetched::Unsatisfiable { total, source }),
            (None, Some(expected)) if !other_lengths.is_empty() => {
                Err(contradicted(self.wanted, expected, &other_lengths))
            }
            (None, _) if self.has_stalled => Err(Missed::Stalled { attempts }),
            (None, _) => Err(Missed::NoSource { attempts }),
        }
    }
}

/// Why a flight did not bring a blob.
fn left_to_registry(supply: &Supply) -> Missed {
    match supply {
        Supply::Flight(transfer) => match transfer.gave_up() {
            Some(in_flight::GaveUp::Registry(why)) => Missed::LeftToRegistry(why),
            Some(in_flight::GaveUp::Yields) => Missed::Yields,
            Some(in_flight::GaveUp::Ended) | None => Missed::NoSource { attempts: 0 },
        },
        Supply::Peers(transfer) => Missed::NoSource { attempts: transfer.senders().len() },
    }
}

/// What is asked of a peer at first for `range`: of a range without an end not more than a window.
fn first_window(range: RangeHeader, total: Option<u64>) -> RangeHeader {
    match range {
        RangeHeader::From(start) if total.is_none_or(|total| total > VERIFIED_WHOLE_BYTES_MAX) => {
            RangeHeader::Between(start, start.saturating_add(OPEN_RANGE_WINDOW_BYTES - 1))
        }
        range => range,
    }
}

/// No holder has content of the length that containerd expects. Only they say so, and the size in the manifest
/// may be wrong, so that the registry decides.
fn contradicted(wanted: &Wanted, expected: u64, other_lengths: &[(SocketAddr, u64)]) -> Missed {
    let (holder, said) = other_lengths[0];
    let agree = other_lengths.iter().filter(|(_, length)| *length == said).count();
    tracing::warn!(
        digest = %wanted.digest,
        registry = wanted.registry().unwrap_or_default(),
        repository = wanted.path.repository,
        expected,
        said,
        %holder,
        "containerd expects another length than {agree} of {} holders have: the size in a manifest of this \
         repository is wrong, unless these holders are; the registry is left to decide",
        other_lengths.len(),
    );
    Missed::OtherLength { expected, said }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_range_is_asked_for_in_windows_unless_the_blob_is_small() {
        let window = RangeHeader::Between(5, 4 + OPEN_RANGE_WINDOW_BYTES);
        let large = VERIFIED_WHOLE_BYTES_MAX + 1;
        assert_eq!(first_window(RangeHeader::From(5), None), window);
        assert_eq!(first_window(RangeHeader::From(5), Some(large)), window);
        assert_eq!(first_window(RangeHeader::From(5), Some(large - 1)), RangeHeader::From(5));
        let closed = RangeHeader::Between(5, 6);
        assert_eq!(first_window(closed, None), closed);
    }
}
