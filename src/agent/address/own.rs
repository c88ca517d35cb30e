//! The address under which peers reach this node, as all parts of the agent share it: it may not be known
//! yet, and it may change.

use std::net::SocketAddr;

use tokio::sync::watch;

/// The address now, and a signal when it changes. A copy follows the same address.
#[derive(Clone, Debug)]
pub struct OwnAddress(watch::Receiver<Option<SocketAddr>>);

impl OwnAddress {
    /// An address, and who changes it.
    pub(crate) fn channel(first: Option<SocketAddr>) -> (watch::Sender<Option<SocketAddr>>, Self) {
        let (sender, receiver) = watch::channel(first);
        (sender, Self(receiver))
    }

    /// The address now; `None`: not known yet.
    pub(crate) fn now(&self) -> Option<SocketAddr> {
        *self.0.borrow()
    }

    /// Waits until it is another one than at the last call. For a fixed address that is never.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// An address that never changes.
impl From<SocketAddr> for OwnAddress {
    fn from(address: SocketAddr) -> Self {
        Self::channel(Some(address)).1
    }
}
