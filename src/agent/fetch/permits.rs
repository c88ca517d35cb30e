//! Permits that bound what all transfers of one agent take together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::limits::{STRIPE_MEMORY_BYTES_MAX, STRIPE_WINDOW_BYTES, STRIPED_TRANSFERS_MAX, TRANSFERS_MAX};

/// Each kind of permit. A permit is free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Permits {
    /// For transfers, whose buffers are most of an agent's memory.
    transfers: Arc<Semaphore>,
    /// For transfers that take several sources at once.
    stripings: Arc<Semaphore>,
    /// For windows of striped blobs that have come before they are passed on, bytes.
    window_memory: Arc<Semaphore>,
}

impl Permits {
    /// All permits are free.
    pub(crate) fn new() -> Self {
        Self {
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            stripings: Arc::new(Semaphore::new(STRIPED_TRANSFERS_MAX)),
            window_memory: Arc::new(Semaphore::new(STRIPE_MEMORY_BYTES_MAX)),
        }
    }

    /// Waits for the permit of one transfer. `None`: there is none before `deadline`.
    pub(crate) async fn transfer(&self, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let permit = timeout_at(deadline, Arc::clone(&self.transfers).acquire_owned()).await.ok()?;
        Some(permit.expect("the semaphore is never closed"))
    }

    /// How many transfers run now, and share the link of this node.
    pub(crate) fn running_transfers(&self) -> usize {
        TRANSFERS_MAX - self.transfers.available_permits()
    }

    /// The permit of one transfer with several sources, if one is free.
    pub(crate) fn striping(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.stripings).try_acquire_owned().ok()
    }

    /// Waits for the memory of one window.
    pub(crate) async fn window(&self) -> OwnedSemaphorePermit {
        let bytes = u32::try_from(STRIPE_WINDOW_BYTES).expect("a window is small");
        let permit = Arc::clone(&self.window_memory).acquire_many_owned(bytes).await;
        permit.expect("the semaphore is never closed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_transfer_waits_for_its_permit_until_its_deadline() {
        let permits = Permits::new();
        let soon = || Instant::now() + Duration::from_secs(1);
        let mut taken = Vec::new();
        for running in 0..TRANSFERS_MAX {
            assert_eq!(permits.running_transfers(), running);
            taken.push(permits.transfer(soon()).await.expect("a permit is free"));
        }
        assert!(permits.transfer(soon()).await.is_none());
        taken.pop();
        assert!(permits.transfer(soon()).await.is_some());
    }

    #[tokio::test]
    async fn stripings_and_their_memory_are_bounded() {
        let permits = Permits::new();
        let stripings: Vec<_> = std::iter::from_fn(|| permits.striping()).collect();
        assert_eq!(stripings.len(), STRIPED_TRANSFERS_MAX);
        let windows: Vec<_> = std::iter::from_fn(|| permits.window().now_or_never()).collect();
        assert_eq!(windows.len() as u64, STRIPE_MEMORY_BYTES_MAX as u64 / STRIPE_WINDOW_BYTES);
    }
}
