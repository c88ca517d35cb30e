//! Blobs that are passed on only when all of their bytes are known to be right: those up to
//! [`VERIFIED_WHOLE_BYTES_MAX`], and larger ones of which several peers together sent wrong bytes.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::{Instant, timeout_at};

use super::supply::Supply;
use crate::agent::fetch::background::Background;
use crate::agent::fetch::peers::error::{PeerError, count_attempt};
use crate::agent::fetch::peers::health::PeerHealth;
use crate::agent::fetch::resume::{ResumeMemory, SharedWhole};
use crate::agent::fetch::spool::space::{SpoolRoom, SpoolSpace};
use crate::agent::fetch::spool::{Spool, Whole};
use crate::agent::flight::table::Flights;
use crate::limits::{
    DOUBTED_WHOLE_BYTES_MAX, SPOOL_ROOM_WAIT, SPOOL_WHOLE_IDLE, VERIFIED_WHOLE_BYTES_MAX, WHOLE_KEPT,
};
use crate::oci::{Digest, Hasher};

/// Receives blobs whole, and keeps those for a while that were asked for in parts.
pub(crate) struct WholeBlobs {
    space: SpoolSpace,
    resume: Arc<ResumeMemory>,
    health: Arc<PeerHealth>,
    flights: Arc<Flights>,
    background: Background,
    /// Whether the task runs that forgets blobs of which no part is wanted any more.
    is_forgetting: AtomicBool,
}

/// Why a blob was not received.
pub(super) enum WholeFailed {
    /// The transfer gave up.
    GaveUp,
    /// The bytes are wrong, and one peer sent all of them.
    Wrong,
    /// The bytes are wrong, and several peers sent them.
    WrongTogether,
    /// This node has no room for the blob: no other source would help.
    NoRoom,
}

impl WholeBlobs {
    /// No blob is kept yet.
    pub(crate) fn new(
        space: SpoolSpace,
        resume: Arc<ResumeMemory>,
        health: Arc<PeerHealth>,
        flights: Arc<Flights>,
        background: Background,
    ) -> Self {
        Self { space, resume, health, flights, background, is_forgetting: AtomicBool::new(false) }
    }

    /// Whether nothing of a blob of `total` bytes is passed on before all of it is known to be right.
    pub(super) fn is_verified_whole(&self, digest: &Digest, total: u64) -> bool {
        let is_doubted = || {
            total <= DOUBTED_WHOLE_BYTES_MAX && self.health.is_doubted(digest) && self.space.can_hold(total)
        };
        total <= VERIFIED_WHOLE_BYTES_MAX || is_doubted()
    }

    /// Waits for room for a blob of `total` bytes. After a moment of waiting, blobs are given up that are only
    /// kept for requests that may still come.
    pub(super) async fn room(&self, total: u64, deadline: Instant) -> Option<SpoolRoom> {
        let mut room = pin!(self.space.room(total));
        if let Ok(room) = timeout_at(deadline.min(Instant::now() + SPOOL_ROOM_WAIT), &mut room).await {
            return room;
        }
        self.resume.forget_wholes(SPOOL_WHOLE_IDLE);
        self.flights.release_room();
        timeout_at(deadline, room).await.ok().flatten()
    }

    /// Receives all that `supply` brings, which is all of a blob, into `room`, and verifies it.
    pub(super) async fn receive(&self, supply: &mut Supply, room: SpoolRoom) -> Result<Whole, WholeFailed> {
        let (digest, total) = (supply.wanted().digest.clone(), supply.left().total);
        let mut hasher = Hasher::new(digest.algorithm());
        let mut spool = Spool::new(room, total);
        while let Some(piece) = supply.next().await {
            hasher.update(&piece);
            spool.push(piece, total, &self.space).await.map_err(|error| no_room(&digest, error))?;
            supply.spools(&spool);
        }
        let whole = spool.finish(total, &self.space).await.map_err(|error| no_room(&digest, error))?;
        if supply.left().len() > 0 {
            return Err(WholeFailed::GaveUp);
        }
        if hasher.finish() == digest {
            supply.is_whole(&whole);
            return Ok(whole);
        }
        match supply {
            Supply::Peers(transfer) if transfer.senders().len() > 1 => {
                transfer.ask_each_sender_again();
                Err(WholeFailed::WrongTogether)
            }
            supply => {
                supply.are_wrong(&supply.senders(), &self.health).await;
                Err(WholeFailed::Wrong)
            }
        }
    }

    /// Keeps a blob for other parts of it, unless another request is about to.
    pub(super) fn share(self: &Arc<Self>, digest: &Digest, whole: SharedWhole) {
        if let Ok(mut shared) = self.resume.whole(digest).try_lock() {
            *shared = Some(whole);
            self.forget_later();
        }
    }

    /// Starts the task that forgets blobs which take room although no part of them is wanted any more, unless it
    /// runs.
    pub(super) fn forget_later(self: &Arc<Self>) {
        if self.is_forgetting.swap(true, Ordering::AcqRel) {
            return;
        }
        let blobs = Arc::clone(self);
        self.background.spawn(async move {
            loop {
                let pause = blobs.background.until_stop(tokio::time::sleep(WHOLE_KEPT));
                if pause.await.is_none() || blobs.resume.forget_wholes(WHOLE_KEPT) {
                    blobs.is_forgetting.store(false, Ordering::Release);
                    return;
                }
            }
        });
    }
}

/// A failure of this node's spool.
fn no_room(digest: &Digest, error: std::io::Error) -> WholeFailed {
    let error = PeerError::Spool(error);
    count_attempt(error.label());
    tracing::warn!(%digest, %error, "this node has no room to check a blob: /readyz says why");
    WholeFailed::NoRoom
}
