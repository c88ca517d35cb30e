//! One connection to a peer. No task drives it: whoever waits for an answer or reads a body does.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::PeerError;
use crate::limits::{FILE_CHUNK_BYTES, PEER_CONNECT_TIMEOUT, PEER_INTERIM_ANSWERS_MAX};

/// The half of a connection that reads and writes.
pub(super) type Connection = http1::Connection<TokioIo<LimitedInterims>, Empty<Bytes>>;

/// Both halves of an open connection.
pub(super) struct Wire {
    pub(super) sender: http1::SendRequest<Empty<Bytes>>,
    pub(super) connection: Connection,
    /// Interim answers (1xx) to the request that runs.
    pub(super) interims: Arc<AtomicUsize>,
}

impl Wire {
    /// Connects to `peer` within [`PEER_CONNECT_TIMEOUT`].
    pub(super) async fn connect(peer: SocketAddr) -> Result<Self, PeerError> {
        let stream = match timeout(PEER_CONNECT_TIMEOUT, TcpStream::connect(peer)).await {
            Ok(connected) => connected.map_err(PeerError::Connect)?,
            Err(_) => return Err(PeerError::ConnectTimeout),
        };
        stream.set_nodelay(true).map_err(PeerError::Connect)?;
        let interims = Arc::<AtomicUsize>::default();
        let stream = LimitedInterims { stream, seen: Arc::clone(&interims) };
        let (sender, connection) = http1::Builder::new()
            .read_buf_exact_size(Some(FILE_CHUNK_BYTES))
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(PeerError::Exchange)?;
        Ok(Self { sender, connection, interims })
    }
}

/// Lets the connection read and write. Its own error, if any, comes out of the request or the body.
pub(super) fn drive(connection: &mut Option<Connection>, cx: &mut Context<'_>) {
    if let Some(running) = connection
        && Pin::new(running).poll(cx).is_ready()
    {
        *connection = None;
    }
}

/// A stream that ends when the peer sends nothing but interim answers. hyper skips them within one poll for
/// as long as more are there, so that no timeout could end that.
pub(super) struct LimitedInterims {
    stream: TcpStream,
    seen: Arc<AtomicUsize>,
}

impl AsyncRead for LimitedInterims {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.load(Ordering::Relaxed) > PEER_INTERIM_ANSWERS_MAX {
            return Poll::Ready(Err(io::Error::other("too many interim answers")));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for LimitedInterims {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
