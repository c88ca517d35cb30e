//! HTTP for both roles, with an accept loop of our own: limits (connections, time for headers) belong in
//! front of hyper, and only the owner of a socket can reset it.

mod connection;
mod guard;
mod listen;
mod occupant;
mod slots;
mod socket;
mod threads;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::identity::Role;
use crate::limits;
use crate::limits::ACCEPT_PAUSE;
use crate::task::Stop;
use connection::{Accepted, serve_until_told};
pub use guard::Guard;
pub use listen::{BindError, bind};
pub use occupant::Occupant;
pub use slots::KnownAddresses;
use slots::{SlotCounts, Slots};
pub(crate) use slots::{address_share, neighbourhood};
use threads::Threads;

/// The limits of one listener (I7).
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections at once. For a further one, a connection that has waited longest for a request is closed.
    pub connections_max: usize,
    /// Connections beyond that limit, while all others have a request in flight: each gets one answer.
    pub over_limit_max: usize,
    /// How long a connection beyond the limit may last.
    pub over_limit_timeout: Duration,
    /// Connections from [`KnownAddresses`], in addition to all others.
    pub known_max: usize,
    /// Time for a TLS handshake, from its first byte on.
    pub handshake_timeout: Duration,
    /// Time for the headers of a request to arrive, also on an idle connection.
    pub header_timeout: Duration,
    /// How long a write to a client may wait until the client takes something.
    pub client_silent_max: Duration,
    /// How long a stopping listener waits for requests in flight.
    pub drain_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: limits::CONNECTIONS_MAX,
            over_limit_max: limits::CONNECTIONS_OVER_LIMIT_MAX,
            over_limit_timeout: limits::OVER_LIMIT_TIMEOUT,
            known_max: 0,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            header_timeout: limits::HEADER_READ_TIMEOUT,
            client_silent_max: limits::CLIENT_SILENT_MAX,
            drain_timeout: limits::DRAIN_TIMEOUT,
        }
    }
}

/// The connection that a request came on.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Address of the client.
    pub peer: SocketAddr,
    /// Address of this host.
    pub local: SocketAddr,
    /// What the client's certificate says that it is; `None` without TLS.
    pub role: Option<Role>,
    /// Whether this connection is beyond the limit of the listener, whose slots all have requests in flight:
    /// requests that take long must be refused on it.
    pub is_over_limit: bool,
    reset: Arc<AtomicBool>,
}

impl Connection {
    /// The connection of a request that did not come through one of these listeners.
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self { peer, local, role: None, is_over_limit: false, reset: Arc::default() }
    }

    /// Makes the connection close with a reset (RST) instead of a clean end (FIN): containerd fails a pull
    /// after a reset, and resumes it after a clean end.
    pub fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Release);
    }
}

/// The address of a client, as it is named everywhere else: a socket of both families shows an IPv4 client
/// with its address mapped into IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The service that answers the requests of a listener.
pub trait Answer: Clone + Send + Sync + 'static {
    /// Answers a request that came on `connection`.
    fn answer(
        self,
        request: Request<Incoming>,
        connection: Connection,
    ) -> impl Future<Output = Response<Body>> + Send + 'static;
}

/// Handlers find the [`Connection`] among the request's extensions.
impl Answer for Router {
    fn answer(
        self,
        mut request: Request<Incoming>,
        connection: Connection,
    ) -> impl Future<Output = Response<Body>> + Send + 'static {
        request.extensions_mut().insert(connection);
        let answer = self.oneshot(request.map(Body::new));
        async move { answer.await.unwrap_or_else(|never| match never {}) }
    }
}

/// Serves `answers` until `stop`, then lets requests in flight end, within the drain timeout.
pub async fn serve(listener: TcpListener, answers: impl Answer, limits: ConnectionLimits, stop: Stop) {
    serve_known(listener, answers, limits, KnownAddresses::default(), stop).await;
}

/// Like [`serve`]; connections from `known` addresses have slots of their own.
pub async fn serve_known(
    listener: TcpListener,
    answers: impl Answer,
    limits: ConnectionLimits,
    known: KnownAddresses,
    stop: Stop,
) {
    serve_guarded(listener, answers, limits, known, None, stop).await;
}

/// Like [`serve_known`]; with a `guard` only those are served that it lets in.
pub async fn serve_guarded(
    listener: TcpListener,
    answers: impl Answer,
    limits: ConnectionLimits,
    known: KnownAddresses,
    guard: Option<Guard>,
    stop: Stop,
) {
    let start = |tracker: &TaskTracker, accepted: Accepted, abandon: Stop| {
        let limits = (limits, guard.clone());
        tracker.spawn(serve_until_told(accepted, answers.clone(), limits, stop.clone(), abandon));
    };
    serve_each(listener, limits, known, &stop, start).await;
}

/// Like [`serve`], on threads of its own that share the connections among them; for a port whose answers are
/// large. `name` is the name of the threads.
///
/// # Errors
/// If the system refuses a thread.
pub async fn serve_on_threads(
    listener: TcpListener,
    name: &str,
    answers: impl Answer,
    limits: ConnectionLimits,
    stop: Stop,
) -> io::Result<()> {
    let threads = Threads::start(name)?;
    let start = |tracker: &TaskTracker, (stream, peer, slot): Accepted, abandon: Stop| {
        let (answers, stop) = (answers.clone(), stop.clone());
        match stream.into_std() {
            Ok(stream) => threads.spawn(tracker, async move {
                let Ok(stream) = TcpStream::from_std(stream) else { return };
                serve_until_told((stream, peer, slot), answers, (limits, None), stop, abandon).await;
            }),
            Err(error) => tracing::warn!(%peer, %error, "could not hand a connection to its thread"),
        }
    };
    serve_each(listener, limits, KnownAddresses::default(), &stop, start).await;
    Ok(())
}

async fn serve_each(
    listener: TcpListener,
    limits: ConnectionLimits,
    known: KnownAddresses,
    stop: &Stop,
    start: impl Fn(&TaskTracker, Accepted, Stop),
) {
    let connections = TaskTracker::new();
    let ConnectionLimits { connections_max: anybody, over_limit_max: over_limit, known_max, .. } = limits;
    let slots = Slots::new(SlotCounts { anybody, over_limit, known: known_max }, known);
    let abandon = Stop::new();
    while let Some(accepted) = accept(&listener, &slots, stop).await {
        start(&connections, accepted, abandon.clone());
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain_timeout, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "stopping: requests did not end in time and are cut");
        abandon.cancel();
        connections.wait().await;
    }
}

/// Accepts the next connection that gets a slot; `None` once stopped.
async fn accept(listener: &TcpListener, slots: &Arc<Slots>, stop: &Stop) -> Option<Accepted> {
    loop {
        let next = async {
            let (stream, peer) = listener.accept().await?;
            let slot = slots.take(peer.ip()).await;
            Ok::<_, io::Error>(slot.map(|slot| (stream, canonical(peer), Arc::new(slot))))
        };
        match stop.run_until_cancelled(next).await? {
            Ok(Some(accepted)) => return Some(accepted),
            Ok(None) => {}
            Err(error) => {
                // A client that has left needs no reaction. Any other error, such as a lack of descriptors,
                // needs room and a pause.
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tracing::warn!(%error, "could not accept a connection");
                    slots.close_longest_waiting();
                    stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
