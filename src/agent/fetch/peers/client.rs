//! One request to one peer, on a connection that is driven by whoever reads the body: no task, no
//! proxy, and dropping it ends the transfer. A connection whose answer was read to its end is kept
//! for a while for the next request ([`IdleConnections`]).

use std::future::poll_fn;
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
use tokio::time::{Instant, timeout};

use super::error::PeerError;
use super::idle_connections::IdleConnections;
use super::throughput::Pace;
use super::wire::{Wire, drive};
use crate::agent::flight::header::{Asked, FLIGHT};
use crate::limits::SOURCE_STALL_TIMEOUT;
use crate::oci::{ContentPath, RangeHeader, media_type};

const AGENT_NAME: &str = concat!("piccolo/", env!("CARGO_PKG_VERSION"));

/// Sends requests to peers. Clones share the connections that are kept.
#[derive(Clone, Default)]
pub(crate) struct PeerClient {
    idle: Arc<IdleConnections>,
}

/// A request to a peer.
#[derive(Clone, Copy, Debug)]
struct PeerRequest<'a> {
    method: &'a Method,
    /// Path and query.
    target: &'a str,
    range: Option<RangeHeader>,
    accept: &'static str,
    /// Value of the header of flights.
    flight: Option<&'a str>,
}

/// The head of a peer's answer, and its body to come.
pub(crate) struct PeerAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: PeerBody,
}

/// The bytes of one answer.
pub(crate) struct PeerBody {
    peer: SocketAddr,
    wire: Option<Wire>,
    body: Incoming,
    /// How fast it is; `None` if it may be slow.
    pace: Option<Pace>,
    /// The peer has stalled after this time without a byte.
    stalls_after: Duration,
    /// Where the connection is kept after the last byte.
    idle: Arc<IdleConnections>,
}

impl PeerAnswer {
    /// `Content-Length`, unless the body is encoded: only identity is of use. Beside chunks it says
    /// nothing, because hyper ends the body by the chunks.
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

impl PeerClient {
    /// Asks `holder` for the content at `path`, on a kept connection if there is one, and reads the head of
    /// the answer. The caller decides how long to wait: dropping the future ends the request.
    pub(crate) async fn ask(
        &self,
        holder: SocketAddr,
        path: &ContentPath,
        method: &Method,
        range: Option<RangeHeader>,
    ) -> Result<PeerAnswer, PeerError> {
        let accept = if path.is_manifest() { media_type::ACCEPT_MANIFESTS } else { "*/*" };
        let target = path.request_target();
        self.send(holder, PeerRequest { method, target: &target, range, accept, flight: None }).await
    }

    /// Like [`Self::ask`], as a node that takes part in the flight of a blob: `flight` is what it asks.
    pub(crate) async fn ask_in_flight(
        &self,
        source: SocketAddr,
        path: &ContentPath,
        method: &Method,
        range: Option<RangeHeader>,
        flight: &Asked,
    ) -> Result<PeerAnswer, PeerError> {
        let (target, flight) = (path.request_target(), flight.value());
        let request =
            PeerRequest { method, target: &target, range, accept: "*/*", flight: Some(flight.as_str()) };
        self.send(source, request).await
    }

    /// Closes the connections that are kept.
    pub(crate) fn close_idle(&self) {
        self.idle.clear();
    }

    async fn send(&self, peer: SocketAddr, request: PeerRequest<'_>) -> Result<PeerAnswer, PeerError> {
        while let Some(wire) = self.idle.take(peer) {
            match self.exchange(wire, peer, request).await {
                // It was closed meanwhile: the next one, or a new one.
                Err(PeerError::Exchange(_)) => {}
                answered => return answered,
            }
        }
        self.exchange(Wire::connect(peer).await?, peer, request).await
    }

    async fn exchange(
        &self,
        wire: Wire,
        peer: SocketAddr,
        request: PeerRequest<'_>,
    ) -> Result<PeerAnswer, PeerError> {
        let Wire { mut sender, connection, interims } = wire;
        let mut connection = Some(connection);
        let ready = poll_fn(|cx| {
            drive(&mut connection, cx);
            sender.poll_ready(cx)
        });
        ready.await.map_err(PeerError::Exchange)?;
        interims.store(0, Ordering::Relaxed);
        let request = request.to_http(peer, Arc::clone(&interims));
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
        let body = PeerBody {
            peer,
            wire,
            body,
            pace: Some(Pace::default()),
            stalls_after: SOURCE_STALL_TIMEOUT,
            idle: Arc::clone(&self.idle),
        };
        Ok(PeerAnswer { status: head.status, headers: head.headers, body })
    }
}

impl PeerRequest<'_> {
    fn to_http(self, peer: SocketAddr, interims: Arc<AtomicUsize>) -> Request<Empty<Bytes>> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.target)
            .header(HOST, peer.to_string())
            .header(USER_AGENT, AGENT_NAME)
            .header(ACCEPT, self.accept)
            .header(ACCEPT_ENCODING, "identity");
        if let Some(range) = self.range {
            request = request.header(RANGE, range.to_string());
        }
        if let Some(flight) = self.flight {
            request = request.header(FLIGHT, flight);
        }
        let mut request =
            request.body(Empty::new()).expect("paths and ranges were parsed, so they are plain ASCII");
        hyper::ext::on_informational(&mut request, move |_| _ = interims.fetch_add(1, Ordering::Relaxed));
        request
    }
}

impl PeerBody {
    /// From now on the peer has stalled after `time` without a byte.
    pub(crate) fn stall_after(&mut self, time: Duration) {
        self.stalls_after = time;
    }

    /// From now on the peer may be slow, because it waits for its own bytes.
    pub(crate) fn may_be_slow(&mut self) {
        self.pace = None;
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
        let Some(pace) = &mut self.pace else { return Ok(Some(bytes)) };
        pace.add(asked.elapsed(), bytes.len() as u64);
        if pace.is_too_slow() { Err(PeerError::Slow) } else { Ok(Some(bytes)) }
    }

    /// Keeps the connection for another request, if all of the body has been read.
    pub(crate) fn keep_connection(&mut self) {
        if let Some(wire) = self.wire.take()
            && !wire.sender.is_closed()
            && http_body::Body::is_end_stream(&self.body)
        {
            self.idle.keep(self.peer, wire);
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
                    // Trailers are of no use here.
                    Ok(_) | Err(_) => {}
                },
                Some(Err(error)) => return Poll::Ready(Err(PeerError::Broken(error))),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{End, RawPeer, SOON};

    async fn send(peer: SocketAddr) -> Result<PeerAnswer, PeerError> {
        let request =
            PeerRequest { method: &Method::GET, target: "/", range: None, accept: "*/*", flight: None };
        PeerClient::default().send(peer, request).await
    }

    #[tokio::test]
    async fn a_peer_that_sends_interim_answers_without_end_is_given_up() {
        let endless = End::Repeat(b"HTTP/1.1 100 Continue\r\n\r\n");
        let peer = RawPeer::start("", endless).await;
        let answered = timeout(SOON, send(peer.address)).await.expect("given up");
        assert!(matches!(answered.err(), Some(PeerError::Exchange(_))));
    }

    #[tokio::test]
    async fn a_few_interim_answers_do_no_harm() {
        let head = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        let peer = RawPeer::start(head, End::Close).await;
        assert_eq!(send(peer.address).await.ok().unwrap().status, StatusCode::NO_CONTENT);
    }

    /// hyper ends the body by the chunks, so the length beside them says nothing.
    #[tokio::test]
    async fn a_length_beside_chunks_is_none() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let peer = RawPeer::start(head, End::Close).await;
        assert_eq!(send(peer.address).await.ok().unwrap().length(), None);
    }
}
