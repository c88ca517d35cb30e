//! How many messages are handled at once.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

use crate::limits::{MESSAGES_MAX, POLL_INTERVAL, REACH_LOOKS_MAX, SNAPSHOTS_RECEIVED_MAX};

use super::RpcError;

/// Permits for the messages of other servers; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Permits {
    /// [`MESSAGES_MAX`] messages other than snapshots. Closed: the node is stopping.
    messages: Arc<Semaphore>,
    snapshots: Arc<Semaphore>,
    /// [`REACH_LOOKS_MAX`] looks for other servers. Each takes seconds where nobody answers: they hold no permit of a
    /// message.
    looks: Arc<Semaphore>,
}

impl Default for Permits {
    fn default() -> Self {
        Self {
            messages: Arc::new(Semaphore::new(MESSAGES_MAX)),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_RECEIVED_MAX)),
            looks: Arc::new(Semaphore::new(REACH_LOOKS_MAX)),
        }
    }
}

impl Permits {
    /// Whether the node takes messages. openraft must not hear of a message after its end: it takes that for an
    /// error.
    pub(super) fn check_running(&self) -> Result<(), RpcError> {
        if self.messages.is_closed() { Err(RpcError::Stopping) } else { Ok(()) }
    }

    pub(super) fn message(&self) -> Result<SemaphorePermit<'_>, RpcError> {
        self.messages.try_acquire().map_err(|error| match error {
            TryAcquireError::NoPermits => RpcError::Busy,
            TryAcquireError::Closed => RpcError::Stopping,
        })
    }

    pub(super) fn snapshot(&self) -> Result<SemaphorePermit<'_>, RpcError> {
        self.snapshots.try_acquire().map_err(|_| RpcError::Busy)
    }

    pub(super) fn look(&self) -> Result<SemaphorePermit<'_>, RpcError> {
        self.looks.try_acquire().map_err(|_| RpcError::Busy)
    }

    /// From now on other servers are refused (503); returns when what they sent before is answered.
    pub(crate) async fn refuse(&self) {
        self.messages.close();
        let all = (MESSAGES_MAX, SNAPSHOTS_RECEIVED_MAX);
        while (self.messages.available_permits(), self.snapshots.available_permits()) != all {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
