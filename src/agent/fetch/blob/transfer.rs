//! The bytes of a part of a blob, in order, from whoever has them: a source that breaks off, stalls or
//! lies about its length is replaced by another one at the same offset, and the reader does not notice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::opening::{Opened, PartRequest};
use super::single_source::SingleSource;
use super::stall_budget::StallBudget;
use super::striping::Striping;
use super::striping::bottleneck::Bottleneck;
use crate::agent::fetch::peers::candidates::Candidates;
use crate::agent::fetch::peers::error::PeerError;
use crate::agent::fetch::peers::throughput::Pace;
use crate::agent::fetch::sources::Sources;
use crate::agent::fetch::wanted::Wanted;
use crate::limits::{
    BUSY_RETRY_AFTER, FAILOVER_TIMEOUT, SOURCE_RATE_WINDOW_SECONDS, SOURCE_STALL_TIMEOUT,
    STRIPE_COMEBACKS_MAX, TRANSFER_LOOKUP_PAUSE,
};
use crate::oci::{ByteRange, RangeHeader};

/// What the reader of a transfer wants, and what it allows.
pub(super) struct Terms {
    /// The part of the blob that is read.
    pub(super) range: ByteRange,
    /// At most this many bytes are asked for at a time, where the reader may leave early.
    pub(super) window_bytes: Option<u64>,
    /// Whether another source may go on where one broke off.
    pub(super) mixes_sources: bool,
    /// Whether the rest may come from several peers at once.
    pub(super) may_stripe: bool,
}

/// Why a transfer ended before its part did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GaveUp {
    /// No source is left.
    NoSource,
    /// The bytes of sources stopped coming for too long.
    Stalled,
    /// The registry is faster by far.
    Slower,
}

/// A transfer of a part of a blob.
pub(super) struct Transfer {
    sources: Arc<Sources>,
    wanted: Arc<Wanted>,
    candidates: Candidates,
    terms: Terms,
    /// What is left of the part.
    left: ByteRange,
    /// The source, while there is one at a time.
    single: Option<SingleSource>,
    /// The sources, while there are several at once.
    striping: Option<Striping>,
    bottleneck: Bottleneck,
    /// Peers whose bytes have come.
    senders: Vec<SocketAddr>,
    looked_up: Instant,
    /// How fast all sources together are.
    pace: Pace,
    stalls: StallBudget,
    gave_up: Option<GaveUp>,
}

impl Transfer {
    /// The bytes that `terms` name, of which none has come.
    pub(super) fn new(
        sources: Arc<Sources>,
        wanted: Arc<Wanted>,
        candidates: Candidates,
        terms: Terms,
    ) -> Self {
        Self {
            sources,
            wanted,
            candidates,
            left: terms.range,
            terms,
            single: None,
            striping: None,
            bottleneck: Bottleneck::default(),
            senders: Vec::new(),
            looked_up: Instant::now(),
            pace: Pace::default(),
            stalls: StallBudget::default(),
            gave_up: None,
        }
    }

    /// The next bytes; `None` at the end of the part, or if the transfer gave up: then there is something left.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        match self.go_on().await {
            Ok(bytes) => bytes,
            Err(gave_up) => {
                self.gave_up = Some(gave_up);
                None
            }
        }
    }

    /// What is transferred.
    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Peers whose bytes have come.
    pub(super) fn senders(&self) -> &[SocketAddr] {
        &self.senders
    }

    /// Has each sender asked once more, alone, which tells whose bytes were wrong. The last one comes first: those
    /// before it broke off.
    pub(super) fn ask_each_sender_again(&mut self) {
        for sender in self.senders.iter().rev() {
            self.candidates.again(*sender, Instant::now(), 1);
        }
    }

    /// The peers that may be asked after this transfer.
    pub(super) fn into_candidates(self) -> Candidates {
        self.candidates
    }

    /// What has not come yet.
    pub(super) fn left(&self) -> ByteRange {
        self.left
    }

    /// Why the transfer ended, if it ended before its part.
    pub(super) fn gave_up(&self) -> Option<GaveUp> {
        self.gave_up
    }

    /// Whether the last thing that happened was a source that stalled or crawled.
    pub(super) fn has_just_stalled(&self) -> bool {
        self.stalls.has_just_lost()
    }

    async fn go_on(&mut self) -> Result<Option<Bytes>, GaveUp> {
        while self.left.start < self.left.end {
            self.give_way_to_registry()?;
            let asked = Instant::now();
            let next = if self.striping.is_some() {
                self.next_of_several().await
            } else if self.single.is_some() {
                self.next_of_one().await?
            } else {
                self.open_next().await?;
                continue;
            };
            let Some(bytes) = next else { continue };
            let length = bytes.len() as u64;
            self.left.start += length;
            self.pace.add(asked.elapsed(), length);
            self.stalls.received(length);
            if self.single.as_ref().is_some_and(SingleSource::is_at_end) {
                self.end_of_window();
            }
            self.stripe_if_slow();
            return Ok(Some(bytes));
        }
        Ok(None)
    }

    /// The next bytes of several sources; `None` if these came to nothing: one source at a time may do.
    async fn next_of_several(&mut self) -> Option<Bytes> {
        let striping = self.striping.as_mut()?;
        let bytes = striping.next(&mut self.candidates).await;
        let (senders, busy) = (striping.take_senders(), striping.take_busy());
        senders.into_iter().for_each(|holder| self.has_sent(holder));
        let later = Instant::now() + BUSY_RETRY_AFTER;
        busy.into_iter().for_each(|holder| self.candidates.again(holder, later, STRIPE_COMEBACKS_MAX));
        if bytes.is_none() {
            self.striping = None;
            self.terms.may_stripe = false;
        }
        bytes
    }

    /// The next bytes of one source; `None` if it failed, and another one may go on.
    async fn next_of_one(&mut self) -> Result<Option<Bytes>, GaveUp> {
        let Some(single) = &mut self.single else { return Ok(None) };
        let holder = single.holder();
        self.bottleneck.asks_source();
        match single.next().await {
            Ok((bytes, shows_delivery)) => {
                if shows_delivery {
                    self.sources.health.delivered(holder);
                }
                self.bottleneck.source_sent();
                Ok(Some(bytes))
            }
            Err(error) => {
                self.single = None;
                self.failed(holder, &error)?;
                Ok(None)
            }
        }
    }

    /// Ends the source, or all of this if there is no other one, where the registry is faster by far.
    fn give_way_to_registry(&mut self) -> Result<(), GaveUp> {
        let Some(bytes_per_second) = self.pace.bytes_per_second() else { return Ok(()) };
        if !self.sources.are_outpaced(&self.wanted, bytes_per_second, self.left.len()) {
            return Ok(());
        }
        for holder in &self.senders {
            self.sources.speeds.was_slow(self.wanted.registry(), *holder);
        }
        self.pace = Pace::default();
        if let Some(single) = self.single.take_if(|_| self.candidates.waiting() > 0) {
            return self.failed(single.holder(), &PeerError::SlowerThanRegistry);
        }
        let digest = &self.wanted.digest;
        tracing::info!(%digest, bytes_per_second, "peers are slower by far than the registry");
        Err(GaveUp::Slower)
    }

    /// Notes that a source failed. An error: no other one may go on.
    fn failed(&mut self, holder: SocketAddr, error: &PeerError) -> Result<(), GaveUp> {
        self.sources.health.failed(holder, &self.wanted.digest, error);
        if error.is_slow() {
            self.sources.speeds.was_slow(self.wanted.registry(), holder);
        }
        if error.is_slow() || matches!(error, PeerError::Stalled) {
            self.stalls.lost(if error.is_slow() {
                Duration::from_secs(SOURCE_RATE_WINDOW_SECONDS as u64)
            } else {
                SOURCE_STALL_TIMEOUT
            });
            let waiting = self.candidates.waiting();
            let health = &self.sources.health;
            self.candidates.retain(|holder| health.may_go_on_with(holder));
            let has_lost_all = waiting > 0 && self.candidates.waiting() == 0;
            if self.stalls.is_spent() || has_lost_all {
                return Err(GaveUp::Stalled);
            }
        }
        if error.is_worth_a_second_try() {
            self.candidates.again(holder, Instant::now(), 1);
        }
        if self.terms.mixes_sources || self.senders.is_empty() { Ok(()) } else { Err(GaveUp::NoSource) }
    }

    async fn open_next(&mut self) -> Result<(), GaveUp> {
        let deadline = Instant::now() + FAILOVER_TIMEOUT;
        let ByteRange { start, end, total } = self.left;
        let end = self.terms.window_bytes.map_or(end, |window| end.min(start + window));
        let range = match (start, end == total) {
            (0, true) => None,
            (_, true) => Some(RangeHeader::From(start)),
            (_, false) => Some(RangeHeader::Between(start, end - 1)),
        };
        loop {
            let request = PartRequest { wanted: &self.wanted, range, total: Some(total) };
            match request.open(&self.sources, &mut self.candidates, deadline).await {
                // A whole in place of a part is of no use.
                Ok(opened) if opened.part.start != start => {
                    self.sources.health.failed(opened.holder, &self.wanted.digest, &PeerError::Length);
                }
                Ok(opened) => {
                    self.begin(opened);
                    return Ok(());
                }
                Err(_) if Instant::now() >= deadline => return Err(GaveUp::NoSource),
                Err(_) => self.look_up(deadline).await?,
            }
        }
    }

    /// Looks for holders that have got the blob meanwhile. An error: there are none.
    async fn look_up(&mut self, deadline: Instant) -> Result<(), GaveUp> {
        let pause = (self.looked_up + TRANSFER_LOOKUP_PAUSE).saturating_duration_since(Instant::now());
        if Instant::now() + pause >= deadline {
            return Err(GaveUp::NoSource);
        }
        tokio::time::sleep(pause).await;
        self.looked_up = Instant::now();
        let digest = &self.wanted.digest;
        let found = self.sources.holders(digest, deadline).await.unwrap_or_default();
        let before = self.candidates.waiting();
        self.candidates.extend(self.sources.health.order(found, digest));
        if self.candidates.waiting() > before { Ok(()) } else { Err(GaveUp::NoSource) }
    }

    /// Takes the next bytes from `opened`, which must start with them.
    pub(super) fn begin(&mut self, opened: Opened) {
        let Opened { holder, part, body } = opened;
        self.has_sent(holder);
        let left_bytes = part.end.min(self.left.end) - part.start;
        self.single = Some(SingleSource::new(holder, body, left_bytes));
    }

    /// Frees the connection for the next request. The source has just answered, so it is asked first.
    fn end_of_window(&mut self) {
        let Some(single) = self.single.take() else { return };
        let holder = single.release();
        if self.left.start < self.left.end {
            self.candidates.first(holder);
        }
    }

    fn has_sent(&mut self, holder: SocketAddr) {
        if !self.senders.contains(&holder) {
            self.senders.push(holder);
        }
    }

    /// Asks several peers for the rest, if the one source is what is waited for.
    fn stripe_if_slow(&mut self) {
        let (Some(single), true) = (&self.single, self.terms.may_stripe) else { return };
        if self.bottleneck.is_the_source(self.left.len()) && self.candidates.waiting() > 0 {
            let (sources, wanted) = (Arc::clone(&self.sources), Arc::clone(&self.wanted));
            let Some(striping) = Striping::new(sources, wanted, self.left, single.holder()) else { return };
            self.single = None;
            self.striping = Some(striping);
        }
    }
}
