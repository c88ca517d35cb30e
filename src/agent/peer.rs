//! One request to one peer, on a connection of its own that is driven by whoever reads the body: no
//! task, no proxy, and dropping it ends the transfer.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HOST, RANGE, TRANSFER_ENCODING, USER_AGENT,
};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use http_body::Body;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::limits::{
    FILE_CHUNK_BYTES, PEER_CONNECT_TIMEOUT, PEER_INTERIM_ANSWERS_MAX, SOURCE_BYTES_PER_SECOND_MIN,
    SOURCE_RATE_WINDOW, SOURCE_STALL_TIMEOUT,
};
use crate::oci::RangeHeader;

const AGENT_NAME: &str = concat!("piccolo/", env!("CARGO_PKG_VERSION"));

/// Why a peer did not deliver.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("could not connect: {0}")]
    Connect(std::io::Error),
    #[error("no connection in time")]
    ConnectTimeout,
    #[error("no headers in time")]
    HeaderTimeout,
    #[error("could not exchange headers: {0}")]
    Exchange(hyper::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("the length or range of its answer is not right")]
    Length,
    #[error("its bytes do not have the digest")]
    WrongBytes,
    #[error("it is not a manifest")]
    NotManifest,
    #[error("broke off: {0}")]
    Broken(hyper::Error),
    #[error("broke off at its end")]
    Short,
    #[error("stalled")]
    Stalled,
    #[error("too slow")]
    Slow,
    #[error("could not spool: {0}")]
    Spool(std::io::Error),
}

impl PeerError {
    /// As a metric label.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            PeerError::Connect(_) | PeerError::ConnectTimeout => "unreachable",
            PeerError::HeaderTimeout => "silent",
            PeerError::Exchange(_) | PeerError::Broken(_) | PeerError::Short => "broken",
            PeerError::Status(StatusCode::NOT_FOUND) => "stale",
            PeerError::Status(StatusCode::SERVICE_UNAVAILABLE) => "busy",
            PeerError::Status(_) => "refused",
            PeerError::Length | PeerError::WrongBytes | PeerError::NotManifest => "wrong",
            PeerError::Stalled | PeerError::Slow => "stalled",
            PeerError::Spool(_) => "spool",
        }
    }

    /// It sent something that is not what was asked for.
    pub(crate) fn is_wrong(&self) -> bool {
        matches!(self, PeerError::Length | PeerError::WrongBytes | PeerError::NotManifest)
    }

    /// It did not answer at all.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, PeerError::Connect(_) | PeerError::ConnectTimeout | PeerError::HeaderTimeout)
    }

    /// Its bytes stopped coming.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, PeerError::Broken(_) | PeerError::Short | PeerError::Stalled | PeerError::Slow)
    }
}

/// What to ask of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a Method,
    /// Path and query.
    pub(crate) target: &'a str,
    pub(crate) range: Option<RangeHeader>,
    pub(crate) accept: &'static str,
    /// How long to wait for the headers.
    pub(crate) patience: Duration,
}

type Connection = http1::Connection<TokioIo<Interims>, Empty<Bytes>>;

/// A peer's answer: its head, and the body to come.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Source,
}

/// The bytes of one transfer.
pub(crate) struct Source {
    connection: Option<Connection>,
    body: Incoming,
    /// Bytes of the current rate window, and how long we waited for them.
    window_bytes: u64,
    window_waited: Duration,
}

impl Answer {
    /// `Content-Length`, unless the body is encoded: only identity is of use. Beside chunks it says
    /// nothing: the body goes by them.
    pub(crate) fn length(&self) -> Option<u64> {
        if self.headers.contains_key(TRANSFER_ENCODING) {
            return None;
        }
        let identity = self.headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding == "identity");
        let length = self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
        identity.then_some(length)
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Connects, asks, and reads the head of the answer.
pub(crate) async fn ask(peer: SocketAddr, ask: Ask<'_>) -> Result<Answer, PeerError> {
    let stream = match timeout(PEER_CONNECT_TIMEOUT, TcpStream::connect(peer)).await {
        Ok(connected) => connected.map_err(PeerError::Connect)?,
        Err(_) => return Err(PeerError::ConnectTimeout),
    };
    stream.set_nodelay(true).map_err(PeerError::Connect)?;
    match timeout(ask.patience, exchange(stream, peer, ask)).await {
        Ok(answered) => answered,
        Err(_) => Err(PeerError::HeaderTimeout),
    }
}

async fn exchange(stream: TcpStream, peer: SocketAddr, ask: Ask<'_>) -> Result<Answer, PeerError> {
    let interims = Arc::<AtomicUsize>::default();
    let stream = Interims { stream, seen: Arc::clone(&interims) };
    let (mut sender, connection) = http1::Builder::new()
        .read_buf_exact_size(Some(FILE_CHUNK_BYTES))
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(PeerError::Exchange)?;
    let mut request = Request::builder()
        .method(ask.method)
        .uri(ask.target)
        .header(HOST, peer.to_string())
        .header(USER_AGENT, AGENT_NAME)
        .header(ACCEPT, ask.accept)
        .header(ACCEPT_ENCODING, "identity");
    if let Some(range) = ask.range {
        request = request.header(RANGE, range.to_string());
    }
    let mut request =
        request.body(Empty::new()).expect("paths and ranges were parsed, so they are plain ASCII");
    hyper::ext::on_informational(&mut request, move |_| _ = interims.fetch_add(1, Ordering::Relaxed));
    let mut connection = Some(connection);
    let mut sent = std::pin::pin!(sender.send_request(request));
    let response = poll_fn(|cx| {
        drive(&mut connection, cx);
        sent.as_mut().poll(cx)
    });
    let (head, body) = response.await.map_err(PeerError::Exchange)?.into_parts();
    let body = Source { connection, body, window_bytes: 0, window_waited: Duration::ZERO };
    Ok(Answer { status: head.status, headers: head.headers, body })
}

/// Lets the connection read and write. Its own error, if any, comes out of request or body.
fn drive(connection: &mut Option<Connection>, cx: &mut Context<'_>) {
    if let Some(running) = connection
        && Pin::new(running).poll(cx).is_ready()
    {
        *connection = None;
    }
}

impl Source {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, PeerError> {
        let asked = Instant::now();
        let next = match timeout(SOURCE_STALL_TIMEOUT, poll_fn(|cx| self.poll_next(cx))).await {
            Ok(next) => next?,
            Err(_) => return Err(PeerError::Stalled),
        };
        self.window_waited += asked.elapsed();
        self.window_bytes += next.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.window_waited >= SOURCE_RATE_WINDOW {
            if self.window_bytes < SOURCE_BYTES_PER_SECOND_MIN * SOURCE_RATE_WINDOW.as_secs() {
                return Err(PeerError::Slow);
            }
            (self.window_bytes, self.window_waited) = (0, Duration::ZERO);
        }
        Ok(next)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, PeerError>> {
        loop {
            drive(&mut self.connection, cx);
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                // Asking has told the connection that its reader is hungry: once more at once.
                Poll::Pending => {
                    drive(&mut self.connection, cx);
                    std::task::ready!(Pin::new(&mut self.body).poll_frame(cx))
                }
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Poll::Ready(Ok(Some(bytes))),
                    // Trailers, which nobody needs.
                    Ok(_) | Err(_) => {}
                },
                Some(Err(error)) => return Poll::Ready(Err(PeerError::Broken(error))),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }
}

/// A stream that ends when the peer sends nothing but interim answers: hyper skips them within one
/// poll, as long as more are there, and no timeout comes in between.
struct Interims {
    stream: TcpStream,
    seen: Arc<AtomicUsize>,
}

impl AsyncRead for Interims {
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

impl AsyncWrite for Interims {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{End, RawPeer, SOON};

    #[tokio::test]
    async fn a_peer_that_sends_interim_answers_without_end_is_given_up() {
        let endless = End::Repeat(b"HTTP/1.1 100 Continue\r\n\r\n");
        let peer = RawPeer::start("", endless).await;
        let (method, patience) = (&Method::GET, SOON);
        let asked = ask(peer.address, Ask { method, target: "/", range: None, accept: "*/*", patience });
        assert!(matches!(asked.await.err(), Some(PeerError::Exchange(_))));
    }

    #[tokio::test]
    async fn a_few_interim_answers_do_no_harm() {
        let head = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        let peer = RawPeer::start(head, End::Close).await;
        let (method, patience) = (&Method::GET, SOON);
        let asked = ask(peer.address, Ask { method, target: "/", range: None, accept: "*/*", patience });
        assert_eq!(asked.await.ok().unwrap().status, StatusCode::NO_CONTENT);
    }
}
