//! Connections to other servers, made to the address that answers first.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::limits::NEXT_ADDRESS_AFTER;

/// Bytes in both directions: a socket, or what encrypts on it.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that was made.
pub type Connected = Box<dyn Duplex>;

/// Makes connections.
pub trait Connect: Debug + Send + Sync + 'static {
    /// A connection to `to`, on which small messages are sent at once.
    ///
    /// # Errors
    /// Those of [`TcpStream::connect`], and why the server behind it is none to talk to.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Connected>>;
}

/// Connects through the system, in the clear.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemConnect;

impl Connect for SystemConnect {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Connected>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Connected)
        })
    }
}

/// Connects to the address that answers first. One that fails, or takes its time, is followed by the next.
pub(super) async fn first(
    connect: &dyn Connect,
    mut left: VecDeque<SocketAddr>,
) -> Result<(Connected, SocketAddr), String> {
    let mut tried = FuturesUnordered::new();
    let mut reasons = Vec::new();
    loop {
        if let Some(at) = left.pop_front() {
            let connected = connect.connect(at);
            tried.push(async move { (at, connected.await) });
        }
        let next = async {
            match left.is_empty() {
                true => std::future::pending().await,
                false => sleep(NEXT_ADDRESS_AFTER).await,
            }
        };
        tokio::select! {
            biased;
            ended = tried.next() => match ended {
                Some((at, Ok(stream))) => return Ok((stream, at)),
                Some((at, Err(error))) => reasons.push(format!("{at}: {error}")),
                None => return Err(reasons.join("; ")),
            },
            () = next => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::timeout;

    use super::*;
    use crate::limits::CONNECT_TIMEOUT;

    fn bound() -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        socket
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_by_the_next_and_all_reasons_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        // Bound and not listening: refused, and nobody else's.
        let held = bound();
        let gone = held.local_addr().unwrap();
        let (_, at) = first(&SystemConnect, [gone, here].into()).await.unwrap();
        assert_eq!(at, here);
        let refused = async |at: VecDeque<SocketAddr>| first(&SystemConnect, at).await.err().unwrap();
        let reasons = refused([gone, gone].into()).await;
        assert_eq!(reasons.matches(&gone.to_string()).count(), 2, "{reasons}");
        assert_eq!(refused([].into()).await, "");
    }

    #[tokio::test]
    async fn an_address_that_answers_nothing_does_not_keep_from_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        // Nobody accepts, and the queue is full: the kernel drops what comes.
        let silent = bound().listen(0).unwrap();
        let silent = (silent.local_addr().unwrap(), silent);
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(silent.0)).await {
            queued.push(stream);
        }
        let race = first(&SystemConnect, [silent.0, here].into());
        let (_, at) = timeout(CONNECT_TIMEOUT, race).await.unwrap().unwrap();
        assert_eq!(at, here);
    }
}
