//! The bytes of a part of a blob, in order, from whoever has them: a source that breaks off, stalls or
//! lies about its length is replaced by another one at the same offset, and who reads does not notice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::CONTENT_RANGE;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use tokio::time::Instant;

use super::candidates::Roster;
use super::hedging::{Ended, NoSource};
use super::peer::throughput::Pace;
use super::peer::{Answer, PeerError, Source};
use super::registry_speed::Running;
use super::striping::{Bottleneck, Fan};
use super::{Fetcher, ask};
use crate::limits::{
    BUSY_RETRY_AFTER, DELIVERED_BYTES_MIN, FAILOVER_TIMEOUT, SOURCE_RATE_WINDOW_SECONDS,
    SOURCE_STALL_TIMEOUT, STALL_BUDGET, STALL_FORGIVEN_BYTES,
};
use crate::oci::{ByteRange, ContentPath, Digest, RangeHeader};

/// How often a peer that was too busy among several is asked again later.
const FAN_COMEBACKS_MAX: usize = 4;

/// After so many bytes a source is known to deliver once more.
const DELIVERED_EVERY_BYTES: u64 = 1024 * 1024;

/// What is transferred.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) path: ContentPath,
    pub(super) digest: Digest,
}

/// A peer has answered properly; its bytes come next.
pub(super) struct Opened {
    pub(super) holder: SocketAddr,
    /// What it sends.
    pub(super) part: ByteRange,
    pub(super) source: Source,
}

/// Who asks for bytes.
pub(super) struct Terms {
    /// At most so much is asked for at a time, where the reader may leave early.
    pub(super) window_bytes: Option<u64>,
    /// Another source may go on where one broke off.
    pub(super) mixes_sources: bool,
    /// The rest may come from several peers at once.
    pub(super) fans_out: bool,
}

/// See the module.
pub(super) struct Transfer {
    fetcher: Arc<Fetcher>,
    item: Item,
    roster: Roster,
    terms: Terms,
    /// What is left of the part.
    left: ByteRange,
    current: Option<Current>,
    fan: Option<Fan>,
    bottleneck: Bottleneck,
    senders: Vec<SocketAddr>,
    looked_up: Instant,
    /// How fast all sources together are.
    pace: Pace,
    /// Time lost with sources that stalled or crawled.
    stalled: Duration,
    /// Bytes that came since.
    since_stall_bytes: u64,
    /// Why it ended, if it is not the lack of a source.
    ended: Option<Ended>,
}

struct Current {
    holder: SocketAddr,
    source: Source,
    left_bytes: u64,
    received_bytes: u64,
}

impl Fetcher {
    /// Asks someone on `roster` for `range` of `item`. `total` is the length of the whole, if that is
    /// known: who says otherwise is not believed.
    pub(super) async fn open(
        self: &Arc<Self>,
        roster: &mut Roster,
        item: &Item,
        range: Option<RangeHeader>,
        total: Option<u64>,
        deadline: Instant,
    ) -> Result<Opened, NoSource> {
        let attempt = |holder| self.open_at(holder, item, range, total);
        let (holder, (part, source)) = self.race(roster, &item.digest, deadline, attempt).await?;
        Ok(Opened { holder, part, source })
    }

    async fn open_at(
        &self,
        holder: SocketAddr,
        item: &Item,
        range: Option<RangeHeader>,
        total: Option<u64>,
    ) -> Result<(ByteRange, Source), PeerError> {
        let answer = ask(&self.peers, holder, &item.path, &Method::GET, range).await?;
        let part = match part(&answer, range) {
            // It may lie, or have something else, or what was expected is wrong.
            Err(PeerError::Unsatisfiable { total: said }) if total.is_some_and(|total| total != said) => {
                return Err(PeerError::OtherLength { total: said });
            }
            part => part?,
        };
        if total.is_some_and(|total| part.total != total) {
            return Err(PeerError::OtherLength { total: part.total });
        }
        Ok((part, answer.body))
    }
}

/// Checks status, length and range of an answer against each other and against what was asked.
pub(super) fn part(answer: &Answer, asked: Option<RangeHeader>) -> Result<ByteRange, PeerError> {
    let content_range = || answer.header(CONTENT_RANGE.as_str());
    match (answer.status, asked) {
        (StatusCode::OK, _) => answer.length().map(ByteRange::whole),
        (StatusCode::PARTIAL_CONTENT, Some(asked)) => {
            content_range().and_then(ByteRange::parse_content_range).filter(|range| {
                asked.within(range.total) == Some(*range) && answer.length() == Some(range.len())
            })
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(asked)) => {
            let total = content_range().and_then(|range| range.strip_prefix("bytes */")?.parse().ok());
            return Err(match total.filter(|total| asked.within(*total).is_none()) {
                Some(total) => PeerError::Unsatisfiable { total },
                None => PeerError::Length,
            });
        }
        (status, _) => return Err(PeerError::Status(status)),
    }
    .ok_or(PeerError::Length)
}

impl Transfer {
    /// The bytes of `range`, to begin with `opened`, if that begins where `range` does.
    pub(super) fn new(
        fetcher: Arc<Fetcher>,
        item: Item,
        roster: Roster,
        range: ByteRange,
        opened: Option<Opened>,
        terms: Terms,
    ) -> Self {
        let mut transfer = Self {
            fetcher,
            item,
            roster,
            terms,
            left: range,
            current: None,
            fan: None,
            bottleneck: Bottleneck::default(),
            senders: Vec::new(),
            looked_up: Instant::now(),
            pace: Pace::default(),
            stalled: Duration::ZERO,
            since_stall_bytes: 0,
            ended: None,
        };
        if let Some(opened) = opened {
            transfer.begin(opened);
        }
        transfer
    }

    /// The next bytes; `None` at the end of the part.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, NoSource> {
        let next = self.go_on().await;
        self.ended = next.as_ref().err().and_then(|no_source| no_source.ended);
        next
    }

    async fn go_on(&mut self) -> Result<Option<Bytes>, NoSource> {
        while self.left.start < self.left.end {
            self.give_way_to_registry()?;
            let asked = Instant::now();
            if let Some(fan) = &mut self.fan {
                let piece = fan.next(&mut self.roster).await;
                let (senders, busy) = (fan.new_senders(), fan.busy());
                senders.into_iter().for_each(|holder| self.sent(holder));
                let later = Instant::now() + BUSY_RETRY_AFTER;
                busy.into_iter().for_each(|holder| self.roster.again(holder, later, FAN_COMEBACKS_MAX));
                match piece {
                    Some(bytes) => {
                        self.has_come(asked, &bytes);
                        return Ok(Some(bytes));
                    }
                    // What it had came to nothing; one source at a time may do.
                    None => {
                        self.fan = None;
                        self.terms.fans_out = false;
                    }
                }
                continue;
            }
            let Some(current) = &mut self.current else {
                self.open_next().await?;
                continue;
            };
            self.bottleneck.ask_source();
            match current.next().await {
                Ok(bytes) => {
                    let (holder, left_bytes) = (current.holder, current.left_bytes);
                    if current.delivers(bytes.len() as u64) {
                        self.fetcher.troubles.delivered(holder);
                    }
                    self.has_come(asked, &bytes);
                    self.bottleneck.has();
                    if left_bytes == 0 {
                        self.end_of_window();
                    }
                    self.fan_out();
                    return Ok(Some(bytes));
                }
                Err(error) => {
                    let holder = current.holder;
                    self.current = None;
                    self.failed(holder, &error)?;
                }
            }
        }
        Ok(None)
    }

    /// Whose bytes have come.
    pub(super) fn senders(&self) -> &[SocketAddr] {
        &self.senders
    }

    /// Who else may be asked.
    pub(super) fn into_roster(self) -> Roster {
        self.roster
    }

    /// What has not come yet.
    pub(super) fn left(&self) -> ByteRange {
        self.left
    }

    /// Why no source went on, if it is not the lack of one.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Whether the last thing that happened was a source that stalled or crawled.
    pub(super) fn has_stalled(&self) -> bool {
        self.stalled > Duration::ZERO && self.since_stall_bytes == 0
    }

    fn has_come(&mut self, asked: Instant, bytes: &Bytes) {
        let length = bytes.len() as u64;
        self.left.start += length;
        self.pace.add(asked.elapsed(), length);
        self.since_stall_bytes += length;
        if self.since_stall_bytes >= STALL_FORGIVEN_BYTES {
            self.stalled = Duration::ZERO;
        }
    }

    /// Ends the source, or all of this if there is no other one, where the registry is faster by far.
    fn give_way_to_registry(&mut self) -> Result<(), NoSource> {
        let Some(bytes_per_second) = self.pace.bytes_per_second() else { return Ok(()) };
        let left_bytes = self.left.len();
        let running = Running { bytes_per_second, left_bytes, transfers: self.fetcher.running_transfers() };
        let registry = self.item.path.registry.as_deref();
        if !self.fetcher.registries.outpaces(registry, running) {
            return Ok(());
        }
        for holder in &self.senders {
            self.fetcher.registries.was_slow(registry, *holder);
        }
        self.pace = Pace::default();
        if let Some(current) = self.current.take_if(|_| self.roster.waiting() > 0) {
            return self.failed(current.holder, &PeerError::SlowerThanRegistry);
        }
        tracing::info!(digest = %self.item.digest, bytes_per_second, "peers are slower by far than the registry");
        Err(NoSource { ended: Some(Ended::Slower), ..NoSource::default() })
    }

    fn failed(&mut self, holder: SocketAddr, error: &PeerError) -> Result<(), NoSource> {
        self.fetcher.troubles.failed(holder, &self.item.digest, error);
        if error.is_slow() {
            self.fetcher.registries.was_slow(self.item.path.registry.as_deref(), holder);
        }
        if error.is_slow() || matches!(error, PeerError::Stalled) {
            self.since_stall_bytes = 0;
            self.stalled += if error.is_slow() {
                Duration::from_secs(SOURCE_RATE_WINDOW_SECONDS as u64)
            } else {
                SOURCE_STALL_TIMEOUT
            };
            let waiting = self.roster.waiting();
            let troubles = &self.fetcher.troubles;
            self.roster.retain(|holder| troubles.may_go_on_with(holder));
            let has_lost_all = waiting > 0 && self.roster.waiting() == 0;
            if self.stalled >= STALL_BUDGET || has_lost_all {
                return Err(NoSource { ended: Some(Ended::Stalled), ..NoSource::default() });
            }
        }
        if error.is_worth_a_second_try() {
            self.roster.again(holder, Instant::now(), 1);
        }
        if self.terms.mixes_sources || self.senders.is_empty() { Ok(()) } else { Err(NoSource::default()) }
    }

    async fn open_next(&mut self) -> Result<(), NoSource> {
        let deadline = Instant::now() + FAILOVER_TIMEOUT;
        let ByteRange { start, end, total } = self.left;
        let end = self.terms.window_bytes.map_or(end, |window| end.min(start + window));
        let range = match (start, end == total) {
            (0, true) => None,
            (_, true) => Some(RangeHeader::From(start)),
            (_, false) => Some(RangeHeader::Between(start, end - 1)),
        };
        loop {
            let roster = &mut self.roster;
            match self.fetcher.open(roster, &self.item, range, Some(total), deadline).await {
                // A whole in place of a part is of no use.
                Ok(opened) if opened.part.start != start => {
                    self.fetcher.troubles.failed(opened.holder, &self.item.digest, &PeerError::Length);
                }
                Ok(opened) => {
                    self.begin(opened);
                    return Ok(());
                }
                Err(no_source) if Instant::now() >= deadline => return Err(no_source),
                Err(no_source) => self.look_up(no_source, deadline).await?,
            }
        }
    }

    /// Others may have got it meanwhile.
    async fn look_up(&mut self, no_source: NoSource, deadline: Instant) -> Result<(), NoSource> {
        let pause = (self.looked_up + super::LOOKUP_PAUSE).saturating_duration_since(Instant::now());
        if Instant::now() + pause >= deadline {
            return Err(no_source);
        }
        tokio::time::sleep(pause).await;
        self.looked_up = Instant::now();
        let left = deadline.saturating_duration_since(self.looked_up);
        let found = self.fetcher.discovery.find(self.item.digest.as_str(), left).await;
        let before = self.roster.waiting();
        self.roster.extend(self.fetcher.troubles.order(found.unwrap_or_default(), &self.item.digest));
        if self.roster.waiting() > before { Ok(()) } else { Err(no_source) }
    }

    fn begin(&mut self, opened: Opened) {
        let Opened { holder, part, source } = opened;
        self.sent(holder);
        let left_bytes = part.end.min(self.left.end) - part.start;
        self.current = Some(Current { holder, source, left_bytes, received_bytes: 0 });
    }

    /// The connection is free for the next request, and who has just answered is asked first.
    fn end_of_window(&mut self) {
        let Some(mut current) = self.current.take() else { return };
        current.source.keep_connection();
        if self.left.start < self.left.end {
            self.roster.first(current.holder);
        }
    }

    fn sent(&mut self, holder: SocketAddr) {
        if !self.senders.contains(&holder) {
            self.senders.push(holder);
        }
    }

    /// Asks several peers for the rest, if it is this source that is waited for.
    fn fan_out(&mut self) {
        let (Some(current), true) = (&self.current, self.terms.fans_out) else { return };
        if self.bottleneck.is_the_source(self.left.len()) && self.roster.waiting() > 0 {
            let holders = vec![current.holder];
            let (fetcher, item) = (Arc::clone(&self.fetcher), self.item.clone());
            let Some(fan) = Fan::new(fetcher, item, self.left, holders) else { return };
            self.current = None;
            self.fan = Some(fan);
        }
    }
}

impl Current {
    /// Whether these bytes show anew that large packets arrive: the first ones, and some now and then.
    fn delivers(&mut self, bytes: u64) -> bool {
        let before = self.received_bytes;
        self.received_bytes += bytes;
        let is_first = (before..self.received_bytes).contains(&(DELIVERED_BYTES_MIN - 1));
        is_first || before / DELIVERED_EVERY_BYTES < self.received_bytes / DELIVERED_EVERY_BYTES
    }

    async fn next(&mut self) -> Result<Bytes, PeerError> {
        let mut bytes = self.source.next().await?.ok_or(PeerError::Short)?;
        // Who does not know ranges sends more than was asked for.
        bytes.truncate(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        self.left_bytes -= bytes.len() as u64;
        Ok(bytes)
    }
}
