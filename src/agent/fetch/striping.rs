//! One large blob from several peers at once: windows of it, each from one peer, delivered in order.
//! What is received ahead of its turn counts against a memory shared by all transfers; the window
//! whose turn it is needs none of it, so that every transfer goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::candidates::Roster;
use super::peer::PeerError;
use super::transfer::{Item, part};
use super::{Fetcher, ask, compact};
use crate::limits::{
    BUSY_RETRY_AFTER, FAILOVER_TIMEOUT, FAN_AHEAD_BYTES_MAX, FAN_BLOB_BYTES_MIN, FAN_SOURCES_MAX,
    FAN_WINDOW_BYTES,
};
use crate::oci::{ByteRange, RangeHeader};

/// Time over which a source is compared with its reader.
const JUDGED_AFTER: Duration = Duration::from_millis(250);
/// How many times as long as for the reader must have been waited for the source.
const MUCH_LONGER: u32 = 3;
/// A window that takes so many times the usual time is asked of another peer as well.
const STRAGGLES_AFTER: u32 = 3;
/// And at least so long: below that it is noise.
const STRAGGLES_AFTER_MIN: Duration = Duration::from_millis(50);
/// How often in a row a peer may be busy, or break off.
const BUSY_TRIES_MAX: usize = 4;

/// Whether the source or the reader is waited for.
#[derive(Debug, Default)]
pub(super) struct Bottleneck {
    since: Option<Instant>,
    source: Duration,
    reader: Duration,
}

impl Bottleneck {
    /// The reader has dealt with what it had, and wants more.
    pub(super) fn ask_source(&mut self) {
        let now = Instant::now();
        self.reader += self.since.map_or(Duration::ZERO, |since| now - since);
        self.since = Some(now);
    }

    /// The source has sent something.
    pub(super) fn has(&mut self) {
        let now = Instant::now();
        self.source += self.since.map_or(Duration::ZERO, |since| now - since);
        self.since = Some(now);
    }

    /// Whether several sources would be faster for what is left. Every [`JUDGED_AFTER`] anew.
    pub(super) fn is_the_source(&mut self, left_bytes: u64) -> bool {
        if self.source + self.reader < JUDGED_AFTER {
            return false;
        }
        let is_the_source = self.source > self.reader * MUCH_LONGER;
        (self.source, self.reader) = (Duration::ZERO, Duration::ZERO);
        is_the_source && left_bytes >= FAN_BLOB_BYTES_MIN
    }
}

/// See the module.
pub(super) struct Fan {
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
    /// One for each peer. Dropping them ends their transfers.
    workers: JoinSet<()>,
    pieces: std::vec::IntoIter<Bytes>,
    /// To be asked first.
    holders: Vec<SocketAddr>,
}

struct Shared {
    fetcher: Arc<Fetcher>,
    item: Item,
    range: ByteRange,
    state: Mutex<State>,
    news: Notify,
}

struct State {
    /// Windows by their start: the next that nobody was asked for …
    next: u64,
    /// … those to be asked for again …
    returned: BTreeSet<u64>,
    /// … those that come, since when, and whether two peers were asked …
    coming: BTreeMap<u64, Coming>,
    /// … those that are here …
    here: BTreeMap<u64, Window>,
    /// … and the one whose turn it is.
    turn: u64,
    /// How long a window takes.
    usual: Option<Duration>,
    senders: Vec<SocketAddr>,
    /// Peers that were busy too often; they may do better later.
    busy: Vec<SocketAddr>,
    /// Peers that were much slower than another one; asked again when nobody else is left.
    left_out: Vec<SocketAddr>,
}

#[derive(Clone, Copy)]
struct Coming {
    since: Instant,
    is_doubled: bool,
}

struct Window {
    pieces: Vec<Bytes>,
    _memory: Option<OwnedSemaphorePermit>,
}

/// A window before this one has to be asked for again.
struct Earlier;

/// What a worker does next.
enum Next {
    Fetch(u64),
    /// Nothing before there is news, or this time has passed.
    Wait(Duration),
    Done,
}

impl Fan {
    /// The bytes of `range` from `holders` and from whoever is on the roster. `None`: as many transfers as
    /// may do so do it already.
    pub(super) fn new(
        fetcher: Arc<Fetcher>,
        item: Item,
        range: ByteRange,
        holders: Vec<SocketAddr>,
    ) -> Option<Self> {
        let slot = Arc::clone(&fetcher.fan_slots).try_acquire_owned().ok()?;
        let state = State {
            next: range.start,
            returned: BTreeSet::new(),
            coming: BTreeMap::new(),
            here: BTreeMap::new(),
            turn: range.start,
            usual: None,
            senders: Vec::new(),
            busy: Vec::new(),
            left_out: Vec::new(),
        };
        let shared = Shared { fetcher, item, range, state: Mutex::new(state), news: Notify::new() };
        let (workers, pieces) = (JoinSet::new(), Vec::new().into_iter());
        Some(Self { shared: Arc::new(shared), _slot: slot, workers, pieces, holders })
    }

    /// The next bytes; `None` if nobody is left who could send them.
    pub(super) async fn next(&mut self, roster: &mut Roster) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.pieces.next() {
                return Some(bytes);
            }
            let shared = Arc::clone(&self.shared);
            let news = shared.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            if let Some(window) = shared.take_turn() {
                self.pieces = window.pieces.into_iter();
                continue;
            }
            while self.workers.try_join_next().is_some() {}
            self.hire(roster);
            if self.workers.is_empty() {
                return None;
            }
            tokio::select! {
                () = news => {}
                Some(_) = self.workers.join_next() => {}
            }
        }
    }

    /// Who may be asked once more, one at a time, when this is over.
    pub(super) fn busy(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.shared.lock().busy)
    }

    /// Whose bytes have come since the last call.
    pub(super) fn new_senders(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.shared.lock().senders)
    }

    fn hire(&mut self, roster: &mut Roster) {
        while self.workers.len() < FAN_SOURCES_MAX {
            let next = self.holders.pop().or_else(|| roster.next(Instant::now()));
            let Some(holder) = next.or_else(|| self.last_resort()) else { return };
            // Since it was put on the roster others may have found out that it is not to be had.
            if !self.shared.fetcher.troubles.may_go_on_with(holder) {
                continue;
            }
            let shared = Arc::clone(&self.shared);
            self.workers.spawn(async move { shared.work(holder).await });
        }
    }

    /// One that was left out, if nobody is at work: a slow peer is better than none.
    fn last_resort(&self) -> Option<SocketAddr> {
        if self.workers.is_empty() { self.shared.lock().left_out.pop() } else { None }
    }
}

impl Shared {
    /// Fetches windows from one peer, until all are here or it fails.
    async fn work(&self, holder: SocketAddr) {
        let mut failures = 0;
        loop {
            let news = self.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            let next = self.lock().choose(self.range.end);
            let start = match next {
                Next::Fetch(start) => start,
                Next::Wait(at_most) => {
                    _ = timeout(at_most, news).await;
                    continue;
                }
                Next::Done => return,
            };
            let Ok(memory) = self.memory(start).await else {
                self.give_back(start);
                continue;
            };
            let since = self.lock().begins(start);
            match self.fetch(holder, start).await {
                Ok(pieces) => {
                    failures = 0;
                    if !self.arrived(holder, start, Window { pieces, _memory: memory }, since.elapsed()) {
                        tracing::debug!(%holder, "left out: another peer was faster by far");
                        self.lock().left_out.push(holder);
                        return;
                    }
                }
                Err(error) => {
                    self.fetcher.troubles.failed(holder, &self.item.digest, &error);
                    self.give_back(start);
                    failures += 1;
                    if !error.is_worth_a_second_try() {
                        return;
                    }
                    if failures > BUSY_TRIES_MAX {
                        self.lock().busy.push(holder);
                        return;
                    }
                    sleep(BUSY_RETRY_AFTER).await;
                }
            }
        }
    }

    fn give_back(&self, start: u64) {
        self.lock().give_back(start);
        self.news.notify_waiters();
    }

    /// Room for a window that comes before its turn; none is needed for the one whose turn it is. An
    /// error: one before it has to be asked for again, and that goes first.
    async fn memory(&self, start: u64) -> Result<Option<OwnedSemaphorePermit>, Earlier> {
        let permits = u32::try_from(FAN_WINDOW_BYTES).expect("a window is small");
        let memory = Arc::clone(&self.fetcher.fan_memory).acquire_many_owned(permits);
        let its_turn = async {
            loop {
                let news = self.news.notified();
                let mut news = std::pin::pin!(news);
                news.as_mut().enable();
                let (turn, returned) = {
                    let state = self.lock();
                    (state.turn, state.returned.first().copied())
                };
                if turn >= start {
                    return Ok(());
                }
                if returned.is_some_and(|returned| returned < start) {
                    return Err(Earlier);
                }
                news.await;
            }
        };
        tokio::select! {
            biased;
            its_turn = its_turn => its_turn.map(|()| None),
            permit = memory => Ok(permit.ok()),
        }
    }

    async fn fetch(&self, holder: SocketAddr, start: u64) -> Result<Vec<Bytes>, PeerError> {
        let end = self.range.end.min(start + FAN_WINDOW_BYTES);
        let wanted = ByteRange { start, end, total: self.range.total };
        let range = Some(RangeHeader::Between(start, end - 1));
        let asked = ask(&self.fetcher.peers, holder, &self.item.path, &Method::GET, range);
        let answer = timeout(FAILOVER_TIMEOUT, asked).await.unwrap_or(Err(PeerError::HeaderTimeout))?;
        if part(&answer, range)? != wanted {
            return Err(PeerError::Length);
        }
        let (mut source, mut pieces, mut left) = (answer.body, Vec::new(), wanted.len());
        while left > 0 {
            let bytes = source.next().await?.ok_or(PeerError::Short)?;
            left = left.checked_sub(bytes.len() as u64).ok_or(PeerError::Length)?;
            pieces.push(compact(bytes));
        }
        source.keep_connection();
        Ok(pieces)
    }

    /// False: another peer has brought it long ago, this one is too slow.
    fn arrived(&self, holder: SocketAddr, start: u64, window: Window, took: Duration) -> bool {
        let mut state = self.lock();
        if state.coming.remove(&start).is_none() {
            return false;
        }
        state.here.insert(start, window);
        state.usual = Some(state.usual.map_or(took, |usual| usual * 3 / 4 + took / 4));
        if !state.senders.contains(&holder) {
            state.senders.push(holder);
        }
        drop(state);
        self.fetcher.troubles.delivered(holder);
        self.news.notify_waiters();
        true
    }

    fn take_turn(&self) -> Option<Window> {
        let mut state = self.lock();
        let turn = state.turn;
        let window = state.here.remove(&turn)?;
        state.turn = self.range.end.min(turn + FAN_WINDOW_BYTES);
        drop(state);
        self.news.notify_waiters();
        Some(window)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is made in one piece.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The window is asked for now. It may have waited for memory, which is no fault of the peer's.
    fn begins(&mut self, start: u64) -> Instant {
        let now = Instant::now();
        if let Some(coming) = self.coming.get_mut(&start) {
            coming.since = now;
        }
        now
    }

    fn choose(&mut self, end: u64) -> Next {
        let now = Instant::now();
        let coming = Coming { since: now, is_doubled: false };
        if let Some(start) = self.returned.pop_first() {
            self.coming.insert(start, coming);
            return Next::Fetch(start);
        }
        if self.next < end && self.next < self.turn + FAN_AHEAD_BYTES_MAX {
            let start = self.next;
            self.next = end.min(start + FAN_WINDOW_BYTES);
            self.coming.insert(start, coming);
            return Next::Fetch(start);
        }
        let Some((start, first)) = self.coming.iter_mut().next() else {
            return if self.next < end { Next::Wait(FAILOVER_TIMEOUT) } else { Next::Done };
        };
        let Some(usual) = self.usual else { return Next::Wait(FAILOVER_TIMEOUT) };
        let straggles_at = first.since + (usual * STRAGGLES_AFTER).max(STRAGGLES_AFTER_MIN);
        if first.is_doubled {
            Next::Wait(FAILOVER_TIMEOUT)
        } else if straggles_at <= now {
            first.is_doubled = true;
            Next::Fetch(*start)
        } else {
            Next::Wait(straggles_at - now)
        }
    }

    /// A peer failed to send it. If another one was asked for it too, that one still may.
    fn give_back(&mut self, start: u64) {
        match self.coming.get_mut(&start) {
            Some(coming) if coming.is_doubled => coming.is_doubled = false,
            Some(_) => {
                self.coming.remove(&start);
                self.returned.insert(start);
            }
            None => {}
        }
    }
}
