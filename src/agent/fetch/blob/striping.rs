//! One large blob from several peers at once (striping): windows of it, each from one peer, passed on in
//! order. A window that is received before it is passed on next counts against a memory shared by all
//! transfers; the window that is passed on next needs none of it, so that every transfer goes on.

pub(super) mod bottleneck;
mod windows;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::worker::StripedTransfer;
use crate::agent::fetch::peers::candidates::Candidates;
use crate::agent::fetch::sources::Sources;
use crate::agent::fetch::wanted::Wanted;
use crate::limits::STRIPE_SOURCES_MAX;
use crate::oci::ByteRange;

/// The reader of a striped transfer, and its workers.
pub(super) struct Striping {
    transfer: Arc<StripedTransfer>,
    _permit: OwnedSemaphorePermit,
    /// One worker for each peer. Dropping them ends their transfers.
    workers: JoinSet<()>,
    /// The rest of the window that is being passed on.
    pieces: std::vec::IntoIter<Bytes>,
    /// The peer that is asked first.
    first: Option<SocketAddr>,
}

impl Striping {
    /// The bytes of `range` of what is `wanted`, from `first` and from candidates. `None`: as many transfers as
    /// may be striped are striped already.
    pub(super) fn new(
        sources: Arc<Sources>,
        wanted: Arc<Wanted>,
        range: ByteRange,
        first: SocketAddr,
    ) -> Option<Self> {
        let permit = sources.permits.striping()?;
        let transfer = Arc::new(StripedTransfer::new(sources, wanted, range));
        let (workers, pieces) = (JoinSet::new(), Vec::new().into_iter());
        Some(Self { transfer, _permit: permit, workers, pieces, first: Some(first) })
    }

    /// The next bytes; `None` if no peer is left that could send them.
    pub(super) async fn next(&mut self, candidates: &mut Candidates) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.pieces.next() {
                return Some(bytes);
            }
            let transfer = Arc::clone(&self.transfer);
            let news = transfer.news.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            if let Some(window) = transfer.take_next() {
                self.pieces = window.pieces.into_iter();
                continue;
            }
            while self.workers.try_join_next().is_some() {}
            self.start_workers(candidates);
            if self.workers.is_empty() {
                return None;
            }
            tokio::select! {
                () = news => {}
                Some(_) = self.workers.join_next() => {}
            }
        }
    }

    /// Takes out the peers that were busy too often. They may be asked once more when this has ended.
    pub(super) fn take_busy(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.transfer.lock().busy)
    }

    /// Takes out the peers whose bytes have come since the last call.
    pub(super) fn take_senders(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.transfer.lock().senders)
    }

    fn start_workers(&mut self, candidates: &mut Candidates) {
        while self.workers.len() < STRIPE_SOURCES_MAX {
            let next = self.first.take().or_else(|| candidates.next(Instant::now()));
            let Some(holder) = next.or_else(|| self.last_resort()) else { return };
            // Since it became a candidate, other requests may have found that it cannot be reached.
            if !self.transfer.sources.health.may_go_on_with(holder) {
                continue;
            }
            let transfer = Arc::clone(&self.transfer);
            self.workers.spawn(async move { transfer.work(holder).await });
        }
    }

    /// A peer that was left out, if no other is at work: a slow peer is better than none.
    fn last_resort(&self) -> Option<SocketAddr> {
        if self.workers.is_empty() { self.transfer.lock().left_out.pop() } else { None }
    }
}
