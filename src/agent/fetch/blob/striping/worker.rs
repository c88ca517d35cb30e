//! The work of one striped transfer that its peers share: each worker fetches windows from one peer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{sleep, timeout};

use super::windows::{Next, Turn, Window, Windows, window_end};
use crate::agent::fetch::blob::opening::part;
use crate::agent::fetch::peers::error::PeerError;
use crate::agent::fetch::pieces::compact;
use crate::agent::fetch::sources::Sources;
use crate::agent::fetch::wanted::Wanted;
use crate::limits::{BUSY_RETRY_AFTER, FAILOVER_TIMEOUT, STRIPE_FAILURES_MAX};
use crate::oci::{ByteRange, RangeHeader};

/// What workers and reader share.
pub(super) struct StripedTransfer {
    pub(super) sources: Arc<Sources>,
    wanted: Arc<Wanted>,
    range: ByteRange,
    progress: Mutex<Progress>,
    /// Something in `progress` has changed.
    pub(super) news: Notify,
}

/// How far a striped transfer is.
pub(super) struct Progress {
    pub(super) windows: Windows,
    /// Peers whose bytes have come, until the reader takes note of them.
    pub(super) senders: Vec<SocketAddr>,
    /// Peers that were busy too often; they may do better later.
    pub(super) busy: Vec<SocketAddr>,
    /// Peers that were much slower than another one; asked again when no other is left.
    pub(super) left_out: Vec<SocketAddr>,
}

/// An earlier window has to be asked for again.
struct Earlier;

impl StripedTransfer {
    /// No peer has been asked for any window of `range`.
    pub(super) fn new(sources: Arc<Sources>, wanted: Arc<Wanted>, range: ByteRange) -> Self {
        let progress = Progress {
            windows: Windows::new(range.start, range.end),
            senders: Vec::new(),
            busy: Vec::new(),
            left_out: Vec::new(),
        };
        Self { sources, wanted, range, progress: Mutex::new(progress), news: Notify::new() }
    }

    /// Fetches windows from `holder`, until all have come or it fails.
    pub(super) async fn work(&self, holder: SocketAddr) {
        let mut failures = 0;
        loop {
            let news = self.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            let next = self.lock().windows.choose();
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
            let since = self.lock().windows.begin(start);
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
                    self.sources.health.failed(holder, &self.wanted.digest, &error);
                    self.give_back(start);
                    failures += 1;
                    if !error.is_worth_a_second_try() {
                        return;
                    }
                    if failures > STRIPE_FAILURES_MAX {
                        self.lock().busy.push(holder);
                        return;
                    }
                    sleep(BUSY_RETRY_AFTER).await;
                }
            }
        }
    }

    fn give_back(&self, start: u64) {
        self.lock().windows.give_back(start);
        self.news.notify_waiters();
    }

    /// Waits for the memory of a window, or until it is passed on next, when it needs none. An error: a window
    /// before this one has to be asked for again, and goes first.
    async fn memory(&self, start: u64) -> Result<Option<OwnedSemaphorePermit>, Earlier> {
        let its_turn = async {
            loop {
                let news = self.news.notified();
                let mut news = std::pin::pin!(news);
                news.as_mut().enable();
                let turn = self.lock().windows.turn_of(start);
                match turn {
                    Turn::Now => return Ok(None),
                    Turn::AfterReturned => return Err(Earlier),
                    Turn::Later => news.await,
                }
            }
        };
        tokio::select! {
            biased;
            its_turn = its_turn => its_turn,
            permit = self.sources.permits.window() => Ok(Some(permit)),
        }
    }

    async fn fetch(&self, holder: SocketAddr, start: u64) -> Result<Vec<Bytes>, PeerError> {
        let end = window_end(start, self.range.end);
        let window = ByteRange { start, end, total: self.range.total };
        let range = Some(RangeHeader::Between(start, end - 1));
        let asked = self.sources.client.ask(holder, &self.wanted.path, &Method::GET, range);
        let answer = timeout(FAILOVER_TIMEOUT, asked).await.unwrap_or(Err(PeerError::HeaderTimeout))?;
        if part(&answer, range)? != window {
            return Err(PeerError::Length);
        }
        let (mut body, mut pieces, mut left) = (answer.body, Vec::new(), window.len());
        while left > 0 {
            let bytes = body.next().await?.ok_or(PeerError::Short)?;
            left = left.checked_sub(bytes.len() as u64).ok_or(PeerError::Length)?;
            pieces.push(compact(bytes));
        }
        body.keep_connection();
        Ok(pieces)
    }

    /// Adds a window. Returns false if another peer has brought it before: this one is too slow.
    fn arrived(&self, holder: SocketAddr, start: u64, window: Window, took: Duration) -> bool {
        let mut progress = self.lock();
        if !progress.windows.arrived(start, window, took) {
            return false;
        }
        if !progress.senders.contains(&holder) {
            progress.senders.push(holder);
        }
        drop(progress);
        self.sources.health.delivered(holder);
        self.news.notify_waiters();
        true
    }

    /// Takes out the window that is passed on next, if it has come.
    pub(super) fn take_next(&self) -> Option<Window> {
        let window = self.lock().windows.take_next()?;
        self.news.notify_waiters();
        Some(window)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Progress> {
        // Every change is made in one piece.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
