//! HTTP for both roles: an accept loop of our own, because limits belong in front of hyper
//! (connection cap, header timeout) and because only who owns the socket can reset it.

mod connection;
mod listen;
mod occupant;
mod places;
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

use crate::limits;
use crate::task::Stop;
use connection::{Accepted, serve_until_told};
pub use listen::{BindError, bind};
pub use occupant::Occupant;
pub use places::Known;
pub(crate) use places::{Place, PlaceCounts, Places};
use threads::Threads;

/// Pause after an `accept` that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What one listener allows (I7).
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections at once. For a further one, the connection that has waited longest for a request is
    /// closed.
    pub connections_max: usize,
    /// Connections beyond those, where all have a request in flight: each gets one answer.
    pub over_limit_max: usize,
    /// How long one of those may take in all.
    pub over_limit_timeout: Duration,
    /// Connections from addresses that the listener knows ([`Known`]), beside all others.
    pub known_max: usize,
    /// Time for a request's headers, and for an idle connection.
    pub header_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
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
            header_timeout: limits::HEADER_READ_TIMEOUT,
            client_silent_max: limits::CLIENT_SILENT_MAX,
            drain_timeout: limits::DRAIN_TIMEOUT,
        }
    }
}

/// The connection that a request came on.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// Whether all places of the listener have requests in flight: this connection is beyond the limit,
    /// and what takes long is to be refused on it.
    pub is_over_limit: bool,
    reset: Arc<AtomicBool>,
}

impl Connection {
    /// Of a request that came through no listener of ours.
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self { peer, local, is_over_limit: false, reset: Arc::default() }
    }

    /// When this connection closes, it does so with a reset (RST) instead of a clean end (FIN):
    /// containerd resumes after the one and fails after the other.
    pub fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Release);
    }
}

/// An address as seen on a socket. A client that comes over IPv4 to a socket of both families has its
/// address mapped into IPv6; everywhere else it is the IPv4 address that it is.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What answers the requests of a listener.
pub trait Answer: Clone + Send + Sync + 'static {
    /// The answer to a request that came on `connection`.
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
    serve_known(listener, answers, limits, Known::default(), stop).await;
}

/// The same where connections from some addresses have places of their own.
pub async fn serve_known(
    listener: TcpListener,
    answers: impl Answer,
    limits: ConnectionLimits,
    known: Known,
    stop: Stop,
) {
    let start = |tracker: &TaskTracker, accepted: Accepted, abandon: Stop| {
        tracker.spawn(serve_until_told(accepted, answers.clone(), limits, stop.clone(), abandon));
    };
    serve_each(listener, limits, known, &stop, start).await;
}

/// The same on threads of its own, each with its share of the connections; for a port whose answers
/// are large. `name` is that of the threads.
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
    let start = |tracker: &TaskTracker, (stream, peer, place): Accepted, abandon: Stop| {
        let (answers, stop) = (answers.clone(), stop.clone());
        match stream.into_std() {
            Ok(stream) => threads.spawn(tracker, async move {
                let Ok(stream) = TcpStream::from_std(stream) else { return };
                serve_until_told((stream, peer, place), answers, limits, stop, abandon).await;
            }),
            Err(error) => tracing::warn!(%peer, %error, "could not hand a connection to its thread"),
        }
    };
    serve_each(listener, limits, Known::default(), &stop, start).await;
    Ok(())
}

async fn serve_each(
    listener: TcpListener,
    limits: ConnectionLimits,
    known: Known,
    stop: &Stop,
    start: impl Fn(&TaskTracker, Accepted, Stop),
) {
    let connections = TaskTracker::new();
    let ConnectionLimits { connections_max: anybody, over_limit_max: over_limit, known_max, .. } = limits;
    let places = Places::new(PlaceCounts { anybody, over_limit, known: known_max }, known);
    let abandon = Stop::new();
    while let Some(accepted) = accept(&listener, &places, stop).await {
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

/// The next connection with its place; `None` once stopped.
async fn accept(listener: &TcpListener, places: &Arc<Places>, stop: &Stop) -> Option<Accepted> {
    loop {
        let next = async {
            let (stream, peer) = listener.accept().await?;
            let place = places.take(peer.ip()).await;
            Ok::<_, io::Error>(place.map(|place| (stream, canonical(peer), Arc::new(place))))
        };
        match stop.run_until_cancelled(next).await? {
            Ok(Some(accepted)) => return Some(accepted),
            Ok(None) => {}
            Err(error) => {
                // A client that has gone is no news; anything else (no descriptors) needs room and a pause.
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tracing::warn!(%error, "could not accept a connection");
                    places.close_longest_waiting();
                    stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
