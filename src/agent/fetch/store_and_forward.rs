//! Blobs that are passed on only when all of them is known to be right: up to
//! [`VERIFIED_WHOLE_BYTES_MAX`], and larger ones that several peers sent wrong together.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, timeout_at};

use super::candidates::Roster;
use super::peer::PeerError;
use super::resume::SharedWhole;
use super::spool::{self, Whole};
use super::spool_space::Room;
use super::transfer::{Item, Opened, Terms, Transfer};
use super::{Failed, Fetched, Fetcher, count};
use crate::agent::content::head::Head;
use crate::limits::{
    DOUBTED_WHOLE_BYTES_MAX, SPOOL_ROOM_WAIT, SPOOL_WHOLE_IDLE, VERIFIED_WHOLE_BYTES_MAX, WHOLE_KEPT,
};
use crate::oci::{ByteRange, Digest};

impl Fetcher {
    /// Wholes take room: they go when no part of them is wanted any more.
    pub(super) fn forget_wholes_later(self: &Arc<Self>) {
        if self.forgets_wholes.swap(true, Ordering::AcqRel) {
            return;
        }
        let fetcher = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                let pause = fetcher.stop.run_until_cancelled(tokio::time::sleep(WHOLE_KEPT));
                if pause.await.is_none() || fetcher.lately.forget_wholes(WHOLE_KEPT) {
                    fetcher.forgets_wholes.store(false, Ordering::Release);
                    return;
                }
            }
        });
    }

    /// Whether nothing of it is passed on before all of it is known to be right.
    pub(super) fn is_verified_whole(&self, digest: &Digest, total: u64) -> bool {
        let is_doubted = || {
            total <= DOUBTED_WHOLE_BYTES_MAX && self.troubles.is_doubted(digest) && self.rooms.can_hold(total)
        };
        total <= VERIFIED_WHOLE_BYTES_MAX || is_doubted()
    }

    /// Waits for room for a blob of `total` bytes that is verified whole. What has waited for a moment has
    /// wholes given up that are only kept for requests that may still come.
    pub(super) async fn room(&self, total: u64, deadline: Instant) -> Option<Room> {
        let mut room = pin!(self.rooms.room(total));
        if let Ok(room) = timeout_at(deadline.min(Instant::now() + SPOOL_ROOM_WAIT), &mut room).await {
            return room;
        }
        self.lately.forget_wholes(SPOOL_WHOLE_IDLE);
        timeout_at(deadline, room).await.ok().flatten()
    }

    /// All of a small blob into `room`, also if only a part of it was asked for.
    pub(super) async fn whole(
        self: &Arc<Self>,
        item: &Item,
        (head, room): (Head, Room),
        roster: &mut Roster,
        opened: Opened,
        mixes_sources: bool,
    ) -> Result<Fetched, Failed> {
        let source = opened.holder;
        if !opened.part.is_whole() {
            roster.first(source);
        }
        let opened = Some(opened).filter(|opened| opened.part.is_whole());
        let whole = self.whole_from(item, (head.total, room), roster, opened, mixes_sources).await?;
        if head.range.is_some() {
            self.lately.answered_range(&item.digest, head.total);
            if let Ok(mut shared) = self.lately.whole(&item.digest).try_lock() {
                *shared = Some(SharedWhole { source, total: head.total, whole: whole.clone() });
                self.forget_wholes_later();
            }
        }
        Ok(Fetched::Whole { whole, head, source })
    }

    async fn whole_from(
        self: &Arc<Self>,
        item: &Item,
        (total, room): (u64, Room),
        roster: &mut Roster,
        opened: Option<Opened>,
        mixes_sources: bool,
    ) -> Result<Whole, Failed> {
        let terms = Terms { window_bytes: None, mixes_sources, fans_out: false };
        let range = ByteRange::whole(total);
        let taken = std::mem::take(roster);
        let mut transfer = Transfer::new(Arc::clone(self), item.clone(), taken, range, opened, terms);
        let received = spool::receive(&mut transfer, total, &item.digest, room, &self.rooms).await;
        let senders = transfer.senders().to_vec();
        let failed = Failed::of(&transfer);
        *roster = transfer.into_roster();
        match received {
            Ok(Some(whole)) => Ok(whole),
            Ok(None) => Err(failed),
            Err(PeerError::WrongBytes) => {
                if let [_] = senders[..] {
                    self.blame(&senders, &item.digest);
                    return Err(Failed::Source { has_stalled: false });
                }
                // Each of them alone, which tells who it was. The last one first: those before it broke off.
                for sender in senders.iter().rev() {
                    roster.again(*sender, Instant::now(), 1);
                }
                Err(Failed::Mixture)
            }
            Err(error) => {
                count(error.label());
                tracing::warn!(digest = %item.digest, %error, "this node has no room to check a blob: /readyz says why");
                Err(Failed::NoRoom)
            }
        }
    }
}
