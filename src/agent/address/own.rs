//! The address under which peers reach this node, shared by all parts of the agent. It may not be known yet,
//! and it may change.

use std::net::SocketAddr;

use tokio::sync::watch;

/// The current address, with a signal when it changes. A clone follows the same address.
#[derive(Clone, Debug)]
pub struct OwnAddress(watch::Receiver<Option<SocketAddr>>);

impl OwnAddress {
    /// Creates an address, and the sender that changes it.
    pub(crate) fn channel(first: Option<SocketAddr>) -> (watch::Sender<Option<SocketAddr>>, Self) {
        let (sender, receiver) = watch::channel(first);
        (sender, Self(receiver))
    }

    /// The current address; `None` if it is not known yet.
    pub(crate) fn now(&self) -> Option<SocketAddr> {
        *self.0.borrow()
    }

    /// Waits until the address is another one than at the last call. A fixed address never changes.
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
