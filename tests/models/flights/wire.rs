//! A link to a node that can be cut: connections stay open, and nothing passes any more in either direction.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const BUFFER_BYTES: usize = 64 << 10;

/// A relay in front of a node's listener.
pub(super) struct Wire {
    /// Where other nodes connect to.
    pub(super) address: SocketAddr,
    cut: Arc<watch::Sender<bool>>,
    _relay: JoinSet<()>,
}

impl Wire {
    /// A wire to the node that listens at `to`, or will.
    pub(super) async fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::new(watch::Sender::new(false));
        let mut relay = JoinSet::new();
        let is_cut = Arc::clone(&cut);
        relay.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(connect(near, to, is_cut.subscribe()));
            }
        });
        Self { address, cut, _relay: relay }
    }

    /// From now on nothing passes.
    pub(super) fn cut(&self) {
        self.cut.send_replace(true);
    }
}

async fn connect(near: TcpStream, to: SocketAddr, cut: watch::Receiver<bool>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    tokio::join!(pass(from_near, to_far, cut.clone()), pass(from_far, to_near, cut));
}

/// Passes bytes on until the end of the connection, or keeps it open without another byte.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            () = until_cut(&mut cut) => std::future::pending().await,
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(count) if count > 0 => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            Ok(_) | Err(_) => {
                to.shutdown().await.ok();
                return;
            }
        }
    }
}

async fn until_cut(cut: &mut watch::Receiver<bool>) {
    cut.wait_for(|cut| *cut).await.map(drop).unwrap_or_default();
}
