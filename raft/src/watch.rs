//! A value that others follow. The channel is that of openraft's runtime ([`crate::types::Runtime`]): tokio wakes
//! those that wait in an order that nobody can seed, the runtime of the simulation in the one in which they came.

use std::fmt;

use openraft::async_runtime::{WatchReceiver, WatchSender};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{WatchReceiverOf, WatchSenderOf};

use crate::types::TypeConfig;

/// The side that sets the value.
pub(crate) struct Sender<T: Send + Sync + 'static>(WatchSenderOf<TypeConfig, T>);

/// The side that follows it.
pub(crate) struct Receiver<T: Send + Sync + 'static>(WatchReceiverOf<TypeConfig, T>);

/// Error: the sender has gone, no other value will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

impl<T: Send + Sync + 'static> Sender<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(TypeConfig::watch_channel(value).0)
    }

    /// Sets the value and wakes those that wait for another one.
    pub(crate) fn set(&self, value: T) {
        self.0.send_if_modified(|slot| {
            *slot = value;
            true
        });
    }

    /// A copy of the present value.
    pub(crate) fn get(&self) -> T
    where
        T: Clone,
    {
        self.0.borrow_watched().clone()
    }

    /// Follows the value from now on.
    pub(crate) fn subscribe(&self) -> Receiver<T> {
        Receiver(self.0.subscribe())
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Receiver<T> {
    /// The value now, which counts as seen.
    pub(crate) fn latest(&mut self) -> T
    where
        T: Clone,
    {
        self.0.borrow_and_update().clone()
    }

    /// Resolves once the value was set after it was last seen, and counts that as seen.
    pub(crate) async fn changed(&mut self) -> Result<(), Closed> {
        self.0.changed().await.map_err(|_| Closed)
    }

    /// Resolves once `is_right` says so of the value.
    pub(crate) async fn wait_for(&mut self, mut is_right: impl FnMut(&T) -> bool) -> Result<(), Closed> {
        while !is_right(&self.0.borrow_and_update()) {
            self.changed().await?;
        }
        Ok(())
    }
}
