//! One accepted connection: from its first byte to its end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;

use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::guard::{Begun, Guard};
use super::slots::Slot;
use super::socket::{InFlight, Socket};
use super::{Answer, Connection, ConnectionLimits, canonical};
use crate::limits;
use crate::task::Stop;

/// A connection, the address of its client, and its slot.
pub(super) type Accepted = (TcpStream, SocketAddr, Arc<Slot>);

/// Serves a connection until it ends, is abandoned, or must make room for another one.
pub(super) async fn serve_until_told(
    (stream, peer, slot): Accepted,
    answers: impl Answer,
    (limits, guard): (ConnectionLimits, Option<Guard>),
    stop: Stop,
    abandon: Stop,
) {
    let over_time = async {
        match slot.is_over_limit() {
            true => tokio::time::sleep(limits.over_limit_timeout).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = serve_connection(stream, peer, answers, (limits, guard), stop, Arc::clone(&slot)) => {}
        () = abandon.cancelled() => {}
        () = slot.must_close() => {}
        () = over_time => {}
    }
}

/// What a client has done since its connection was accepted.
enum First {
    Sent,
    Nothing,
    Left,
}

/// Looks into the socket, because the runtime knows only what it was told when it last waited. A server that
/// has fallen behind accepts connections whose clients have given up. Answering them would take the time that
/// the next clients need.
fn first(stream: &TcpStream) -> First {
    let mut looked = [PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP)];
    let found = poll(&mut looked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    match looked[0].revents() {
        seen if found.is_ok() && seen.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR) => {
            First::Left
        }
        seen if found.is_ok() && seen.contains(PollFlags::IN) => First::Sent,
        _ => First::Nothing,
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    answers: impl Answer,
    (limits, guard): (ConnectionLimits, Option<Guard>),
    stop: Stop,
    slot: Arc<Slot>,
) {
    let sends = match first(&stream) {
        // Tells the runtime that there is something to read: otherwise the first poll of hyper would not read
        // it.
        First::Sent => stream.readable().await.is_ok(),
        First::Left => false,
        First::Nothing => {
            slot.looked_at();
            wait_for_first(&stream, limits, &stop).await
        }
    };
    if !sends {
        return;
    }
    Box::pin(begin_requests(stream, peer, answers, (limits, guard), stop, slot)).await;
}

/// Waits until the client sends something; false if it does not in time. hyper allocates its buffers, 16 KiB,
/// before it knows that; an idle connection should cost no more than its socket.
async fn wait_for_first(stream: &TcpStream, limits: ConnectionLimits, stop: &Stop) -> bool {
    // Readiness alone may be spurious.
    let mut byte = [0];
    let sent = tokio::time::timeout(limits.header_timeout, stream.peek(&mut byte));
    let stopped = async {
        stop.cancelled().await;
        // The connection may have been accepted a moment ago, and its request may be on the way.
        tokio::time::sleep(limits::FIRST_REQUEST_WAIT).await;
    };
    tokio::select! {
        sent = sent => matches!(sent, Ok(Ok(1))),
        () = stopped => false,
    }
}

/// Asks who the client is where that counts, and serves its requests.
async fn begin_requests(
    stream: TcpStream,
    peer: SocketAddr,
    answers: impl Answer,
    (limits, guard): (ConnectionLimits, Option<Guard>),
    stop: Stop,
    slot: Arc<Slot>,
) {
    let Ok(local) = stream.local_addr() else { return };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "the client left before its first byte");
        return;
    }
    let is_over_limit = slot.is_over_limit();
    let reset = Arc::new(AtomicBool::new(false));
    let connection =
        Connection { peer, local: canonical(local), role: None, is_over_limit, reset: Arc::clone(&reset) };
    let socket = Socket::new(stream, reset, limits.client_silent_max, Arc::clone(&slot));
    let Some(guard) = guard else {
        return serve_requests(TokioIo::new(socket), connection, answers, limits, stop, slot).await;
    };
    // What has arrived is the begin of a handshake, and no request: the connection may be closed for others.
    slot.looked_at();
    // On the heap, so that connections without TLS do not get larger.
    match Box::pin(guard.begin(socket, peer, limits.handshake_timeout)).await {
        Some(Begun::Plain(socket)) => {
            serve_requests(TokioIo::new(socket), connection, answers, limits, stop, slot).await;
        }
        Some(Begun::Encrypted(stream, role)) => {
            let connection = Connection { role: Some(role), ..connection };
            let io = TokioIo::new(stream);
            Box::pin(serve_requests(io, connection, answers, limits, stop, slot)).await;
        }
        None => {}
    }
}

async fn serve_requests(
    io: impl Read + Write + Unpin,
    connection: Connection,
    answers: impl Answer,
    limits: ConnectionLimits,
    stop: Stop,
    slot: Arc<Slot>,
) {
    let peer = connection.peer;
    let begun = Arc::new(Notify::new());
    let begins = Arc::clone(&begun);
    let of_requests = Arc::clone(&slot);
    let service = hyper::service::service_fn(move |request| {
        begins.notify_one();
        let slot = Arc::clone(&of_requests);
        let in_flight = InFlight::begin(&slot);
        let answer = answers.clone().answer(request, connection.clone());
        async move {
            // The connection is closing, and will be dropped.
            let Some(in_flight) = in_flight else { return std::future::pending().await };
            let mut answer = answer.await;
            if slot.is_to_end() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer.map(|body| in_flight.with(body)))
        }
    });
    let http = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits::HEADER_BYTES_MAX)
        .half_close(false)
        .serve_connection(io, service);
    let mut http = std::pin::pin!(http);
    let stopping = async {
        stop.cancelled().await;
        // hyper would close a connection that was accepted a moment ago, although its request is on the way.
        let _ = tokio::time::timeout(limits::FIRST_REQUEST_WAIT, begun.notified()).await;
    };
    // This reads everything that has arrived.
    let at_once = poll_fn(|context| Poll::Ready(http.as_mut().poll(context))).await;
    slot.looked_at();
    let ended = match at_once {
        Poll::Ready(ended) => ended,
        Poll::Pending => tokio::select! {
            ended = http.as_mut() => ended,
            () = stopping => {
                http.as_mut().graceful_shutdown();
                http.await
            }
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}
