//! One request to one peer, on a connection that is driven by whoever reads the body: no task, no
//! proxy, and dropping it ends the transfer. A connection whose answer was read to its end is kept
//! for a while for the next request ([`idle_connections`]).

mod idle_connections;
pub(crate) mod throughput;

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

use crate::limits::{FILE_CHUNK_BYTES, PEER_CONNECT_TIMEOUT, PEER_INTERIM_ANSWERS_MAX, SOURCE_STALL_TIMEOUT};
use throughput::Pace;

use crate::oci::RangeHeader;
pub(crate) use idle_connections::Peers;

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
    #[error("its answer has another length or range than was asked for")]
    Length,
    #[error("its content has {total} bytes, which is not what was expected")]
    OtherLength { total: u64 },
    #[error("the range is outside of its {total} bytes")]
    Unsatisfiable { total: u64 },
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
    #[error("slower by far than this node's registry")]
    SlowerThanRegistry,
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
            PeerError::Unsatisfiable { .. } => "unsatisfiable",
            PeerError::Status(_) => "refused",
            PeerError::Length | PeerError::WrongBytes | PeerError::NotManifest => "wrong",
            PeerError::OtherLength { .. } => "other_length",
            PeerError::SlowerThanRegistry => "slower",
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
        self.is_slow() || matches!(self, PeerError::Broken(_) | PeerError::Short | PeerError::Stalled)
    }

    /// Its bytes come, but slowly.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self, PeerError::Slow | PeerError::SlowerThanRegistry)
    }

    /// All its slots are taken.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, PeerError::Status(StatusCode::SERVICE_UNAVAILABLE))
    }

    /// It may do better soon: a connection that ended, an answer that said "busy".
    pub(crate) fn is_worth_a_second_try(&self) -> bool {
        let ended = matches!(self, PeerError::Broken(_) | PeerError::Short | PeerError::Exchange(_));
        ended || self.is_busy()
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
}

type Connection = http1::Connection<TokioIo<Interims>, Empty<Bytes>>;

/// Both halves of a connection, open.
struct Wire {
    sender: http1::SendRequest<Empty<Bytes>>,
    connection: Connection,
    interims: Arc<AtomicUsize>,
}

/// A peer's answer: its head, and the body to come.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Source,
}

/// The bytes of one answer.
pub(crate) struct Source {
    peer: SocketAddr,
    wire: Option<Wire>,
    body: Incoming,
    pace: Pace,
    /// So long without a byte it is stalled.
    stalls_after: Duration,
    /// Where the connection goes after the last byte.
    peers: Arc<Peers>,
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

/// Asks, on a kept connection if there is one, and reads the head of the answer. How long the caller
/// waits for it is his decision: dropping this ends the request.
pub(crate) async fn ask(peers: &Arc<Peers>, peer: SocketAddr, ask: Ask<'_>) -> Result<Answer, PeerError> {
    while let Some(wire) = peers.take(peer) {
        match exchange(peers, wire, peer, ask).await {
            // It was closed meanwhile: the next one, or a new one.
            Err(PeerError::Exchange(_)) => {}
            answered => return answered,
        }
    }
    exchange(peers, connect(peer).await?, peer, ask).await
}

async fn connect(peer: SocketAddr) -> Result<Wire, PeerError> {
    let stream = match timeout(PEER_CONNECT_TIMEOUT, TcpStream::connect(peer)).await {
        Ok(connected) => connected.map_err(PeerError::Connect)?,
        Err(_) => return Err(PeerError::ConnectTimeout),
    };
    stream.set_nodelay(true).map_err(PeerError::Connect)?;
    let interims = Arc::<AtomicUsize>::default();
    let stream = Interims { stream, seen: Arc::clone(&interims) };
    let (sender, connection) = http1::Builder::new()
        .read_buf_exact_size(Some(FILE_CHUNK_BYTES))
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(PeerError::Exchange)?;
    Ok(Wire { sender, connection, interims })
}

async fn exchange(
    peers: &Arc<Peers>,
    wire: Wire,
    peer: SocketAddr,
    ask: Ask<'_>,
) -> Result<Answer, PeerError> {
    let Wire { mut sender, connection, interims } = wire;
    let mut connection = Some(connection);
    let ready = poll_fn(|cx| {
        drive(&mut connection, cx);
        sender.poll_ready(cx)
    });
    ready.await.map_err(PeerError::Exchange)?;
    interims.store(0, Ordering::Relaxed);
    let request = request(peer, ask, Arc::clone(&interims));
    let response = {
        let mut sent = std::pin::pin!(sender.send_request(request));
        poll_fn(|cx| {
            drive(&mut connection, cx);
            sent.as_mut().poll(cx)
        })
        .await
    };
    let (head, body) = response.map_err(PeerError::Exchange)?.into_parts();
    let wire = connection.map(|connection| Wire { sender, connection, interims });
    let body = Source {
        peer,
        wire,
        body,
        pace: Pace::default(),
        stalls_after: SOURCE_STALL_TIMEOUT,
        peers: Arc::clone(peers),
    };
    Ok(Answer { status: head.status, headers: head.headers, body })
}

fn request(peer: SocketAddr, ask: Ask<'_>, interims: Arc<AtomicUsize>) -> Request<Empty<Bytes>> {
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
    request
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
    /// From now on it is stalled after so long without a byte.
    pub(crate) fn stall_after(&mut self, time: Duration) {
        self.stalls_after = time;
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, PeerError> {
        let asked = Instant::now();
        let next = match timeout(self.stalls_after, poll_fn(|cx| self.poll_next(cx))).await {
            Ok(next) => next?,
            Err(_) => return Err(PeerError::Stalled),
        };
        let Some(bytes) = next else {
            self.keep_connection();
            return Ok(None);
        };
        self.pace.add(asked.elapsed(), bytes.len() as u64);
        if self.pace.is_too_slow() { Err(PeerError::Slow) } else { Ok(Some(bytes)) }
    }

    /// All of the body has been read, whoever read it: the connection is free.
    pub(crate) fn keep_connection(&mut self) {
        if let Some(wire) = self.wire.take()
            && !wire.sender.is_closed()
            && http_body::Body::is_end_stream(&self.body)
        {
            self.peers.keep(self.peer, wire);
        }
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(wire) = &mut self.wire
            && Pin::new(&mut wire.connection).poll(cx).is_ready()
        {
            self.wire = None;
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, PeerError>> {
        loop {
            self.drive(cx);
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                // Asking has told the connection that its reader is hungry: once more at once.
                Poll::Pending => {
                    self.drive(cx);
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
        let asked = Ask { method: &Method::GET, target: "/", range: None, accept: "*/*" };
        let peers = Arc::default();
        let asked = ask(&peers, peer.address, asked);
        let asked = timeout(SOON, asked).await.expect("given up");
        assert!(matches!(asked.err(), Some(PeerError::Exchange(_))));
    }

    #[tokio::test]
    async fn a_few_interim_answers_do_no_harm() {
        let head = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        let peer = RawPeer::start(head, End::Close).await;
        let asked = Ask { method: &Method::GET, target: "/", range: None, accept: "*/*" };
        let peers = Arc::default();
        let asked = ask(&peers, peer.address, asked);
        assert_eq!(asked.await.ok().unwrap().status, StatusCode::NO_CONTENT);
    }
}
