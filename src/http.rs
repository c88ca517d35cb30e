//! HTTP for both roles: an accept loop of our own, because limits belong in front of hyper
//! (connection cap, header timeout) and because only who owns the socket can reset it.

mod occupant;
mod socket;
mod threads;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::limits;
use crate::task::Stop;
pub use occupant::Occupant;
use socket::Socket;
use threads::Threads;

/// Connections that wait in the kernel for `accept`.
const BACKLOG: u32 = 4096;
/// Pause after an `accept` that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address} for {what}{}", hint(source, occupant.as_ref()))]
pub struct BindError {
    /// What would have been served there.
    pub what: &'static str,
    /// The address asked for.
    pub address: SocketAddr,
    /// Who listens there already, where that can be found out.
    pub occupant: Option<Occupant>,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

fn hint(error: &io::Error, occupant: Option<&Occupant>) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let who = occupant.map_or_else(|| "another process".to_owned(), Occupant::to_string);
            format!(", which {who} holds: stop it or choose another port")
        }
        io::ErrorKind::AddrNotAvailable => ", which this host does not have".to_owned(),
        _ => String::new(),
    }
}

/// What one listener allows (I7).
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections at once; further ones wait in the kernel's backlog.
    pub connections_max: usize,
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
    reset: Arc<AtomicBool>,
}

impl Connection {
    /// Of a request that came through no listener of ours.
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self { peer, local, reset: Arc::default() }
    }

    /// When this connection closes, it does so with a reset (RST) instead of a clean end (FIN):
    /// containerd resumes after the one and fails after the other.
    pub fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Release);
    }
}

/// Listens on `address`; `what` names the use in errors.
pub async fn bind(address: SocketAddr, what: &'static str) -> Result<TcpListener, BindError> {
    let open = || {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()
        } else {
            tokio::net::TcpSocket::new_v6()
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source| {
        let occupied = source.kind() == io::ErrorKind::AddrInUse;
        BindError { what, address, occupant: occupied.then(|| occupant::of(address)).flatten(), source }
    })
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
    let start = |tracker: &TaskTracker, (stream, peer, slot): Accepted, abandon: Stop| {
        let one = serve_connection(stream, peer, answers.clone(), limits, stop.clone());
        tracker.spawn(unless(abandon, one, slot));
    };
    serve_each(listener, limits, &stop, start).await;
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
    let start = |tracker: &TaskTracker, (stream, peer, slot): Accepted, abandon: Stop| {
        let (answers, stop) = (answers.clone(), stop.clone());
        match stream.into_std() {
            Ok(stream) => threads.spawn(tracker, async move {
                let Ok(stream) = TcpStream::from_std(stream) else { return };
                unless(abandon, serve_connection(stream, peer, answers, limits, stop), slot).await;
            }),
            Err(error) => tracing::warn!(%peer, %error, "could not hand a connection to its thread"),
        }
    };
    serve_each(listener, limits, &stop, start).await;
    Ok(())
}

type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

async fn unless(abandon: Stop, connection: impl Future<Output = ()>, slot: OwnedSemaphorePermit) {
    abandon.run_until_cancelled(connection).await;
    drop(slot);
}

async fn serve_each(
    listener: TcpListener,
    limits: ConnectionLimits,
    stop: &Stop,
    start: impl Fn(&TaskTracker, Accepted, Stop),
) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let abandon = Stop::new();
    while let Some(accepted) = accept(&listener, &slots, stop).await {
        start(&connections, accepted, abandon.clone());
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain_timeout, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "requests did not end in time, cutting them");
        abandon.cancel();
        connections.wait().await;
    }
}

/// The next connection with its slot; `None` once stopped.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>, stop: &Stop) -> Option<Accepted> {
    loop {
        let next = async {
            let slot = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
            listener.accept().await.map(|(stream, peer)| (stream, peer, slot))
        };
        match stop.run_until_cancelled(next).await? {
            Ok(accepted) => return Some(accepted),
            Err(error) => {
                // A client that has gone is no news; anything else (no descriptors) needs a pause.
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tracing::warn!(%error, "could not accept a connection");
                    stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await?;
                }
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    answers: impl Answer,
    limits: ConnectionLimits,
    stop: Stop,
) {
    // hyper takes its buffers, 16 KiB, before it knows whether anything comes: a connection that only
    // stays open should cost no more than its socket. `peek`, because readiness alone may be spurious.
    let mut first = [0];
    let says_something = tokio::time::timeout(limits.header_timeout, stream.peek(&mut first));
    let stopped = async {
        stop.cancelled().await;
        // It may have been accepted a moment ago, and its request be on the way.
        tokio::time::sleep(limits::FIRST_REQUEST_WAIT).await;
    };
    let says_something = tokio::select! {
        said = says_something => matches!(said, Ok(Ok(1))),
        () = stopped => false,
    };
    if !says_something {
        return;
    }
    Box::pin(serve_requests(stream, peer, answers, limits, stop)).await;
}

async fn serve_requests(
    stream: TcpStream,
    peer: SocketAddr,
    answers: impl Answer,
    limits: ConnectionLimits,
    stop: Stop,
) {
    let Ok(local) = stream.local_addr() else { return };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "client gone before its first byte");
        return;
    }
    let connection = Connection { peer, local, reset: Arc::new(AtomicBool::new(false)) };
    let io = TokioIo::new(Socket::new(stream, Arc::clone(&connection.reset), limits.client_silent_max));
    let begun = Arc::new(Notify::new());
    let begins = Arc::clone(&begun);
    let service = hyper::service::service_fn(move |request| {
        begins.notify_one();
        let answer = answers.clone().answer(request, connection.clone());
        async move { Ok::<_, Infallible>(answer.await) }
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
        // hyper would close a connection that was accepted a moment ago, in the face of its request.
        let _ = tokio::time::timeout(limits::FIRST_REQUEST_WAIT, begun.notified()).await;
    };
    let ended = tokio::select! {
        ended = http.as_mut() => ended,
        () = stopping => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn start(router: Router, limits: ConnectionLimits) -> (SocketAddr, Stop, TaskTracker) {
        let listener = bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Stop::new();
        let tracker = TaskTracker::new();
        tracker.spawn(serve(listener, router, limits, stop.clone()));
        (address, stop, tracker)
    }

    async fn exchange(address: SocketAddr) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map(|_| answer)
    }

    /// A body that breaks after five of its ten bytes.
    fn broken_body(connection: &Connection, reset: bool) -> axum::response::Response {
        if reset {
            connection.reset_on_close();
        }
        let pieces = [Ok(bytes::Bytes::from_static(b"12345")), Err(io::Error::other("broken"))];
        let body = Body::from_stream(stream::iter(pieces));
        axum::http::Response::builder().header("content-length", "10").body(body).unwrap()
    }

    #[tokio::test]
    async fn a_broken_body_ends_with_a_reset_where_asked_for_and_cleanly_otherwise() {
        for reset in [true, false] {
            let handler =
                move |axum::Extension(c): axum::Extension<Connection>| async move { broken_body(&c, reset) };
            let (address, _stop, _tasks) =
                start(Router::new().route("/", get(handler)), ConnectionLimits::default()).await;
            let ended = exchange(address).await;
            match ended {
                Err(error) => {
                    assert!(reset, "no reset was asked for, got {error}");
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                }
                Ok(_) => assert!(!reset, "a clean end where a reset was asked for"),
            }
        }
    }

    #[tokio::test]
    async fn headers_that_never_come_end_the_connection() {
        let limits =
            ConnectionLimits { header_timeout: Duration::from_millis(100), ..ConnectionLimits::default() };
        let (address, _stop, _tasks) = start(Router::new(), limits).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HT").await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the connection is still open");
    }

    /// Its kernel acknowledges the probes of the closed window, so TCP alone would wait for good.
    #[tokio::test]
    async fn a_client_that_is_alive_and_takes_nothing_does_not_keep_its_slot() {
        let endless = || async {
            let zeros = || Ok::<_, Infallible>(bytes::Bytes::from_static(&[0; 65_536]));
            Body::from_stream(stream::repeat_with(zeros))
        };
        let limits = ConnectionLimits {
            connections_max: 1,
            client_silent_max: Duration::from_millis(200),
            ..ConnectionLimits::default()
        };
        let router = Router::new().route("/endless", get(endless)).route("/", get(|| async { "ok" }));
        let (address, _stop, _tasks) = start(router, limits).await;
        let mut stuck = TcpStream::connect(address).await.unwrap();
        stuck.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stuck.read_exact(&mut [0; 1_000]).await.unwrap();

        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let served = tokio::time::timeout(Duration::from_secs(5), next.read_exact(&mut [0; 10])).await;
        assert!(served.is_ok_and(|read| read.is_ok()), "the slot is still taken");
    }

    #[tokio::test]
    async fn connections_over_the_cap_wait_until_one_ends() {
        let limits = ConnectionLimits { connections_max: 1, ..ConnectionLimits::default() };
        let router = Router::new().route("/", get(|| async { "ok" }));
        let (address, _stop, _tasks) = start(router, limits).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut byte = [0];
        first.read_exact(&mut byte).await.unwrap();

        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(200), second.read_exact(&mut byte)).await;
        assert!(early.is_err(), "the second connection was served beside the first");
        drop(first);
        let later = tokio::time::timeout(Duration::from_secs(5), second.read_exact(&mut byte)).await;
        assert!(later.is_ok(), "the second connection was never served");
    }

    #[tokio::test]
    async fn stopping_lets_a_request_in_flight_end() {
        let (entered, mut has_entered) = tokio::sync::mpsc::channel(1);
        let (release, released) = tokio::sync::watch::channel(false);
        let handler = move || {
            let (entered, mut released) = (entered.clone(), released.clone());
            async move {
                entered.send(()).await.unwrap();
                released.wait_for(|is| *is).await.unwrap();
                "done"
            }
        };
        let (address, stop, tasks) =
            start(Router::new().route("/", get(handler)), ConnectionLimits::default()).await;
        let request = tasks.spawn(exchange(address));
        has_entered.recv().await.unwrap();
        stop.cancel();
        release.send(true).unwrap();
        let answer = request.await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&answer).ends_with("done"));
    }

    /// hyper's own graceful shutdown closes such a connection: its client saw an end without an answer.
    #[tokio::test]
    async fn stopping_answers_a_request_that_follows_its_connection() {
        let (address, stop, tasks) =
            start(Router::new().route("/", get(|| async { "ok" })), ConnectionLimits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Accepts are in order, so that the first one is accepted when the second is answered.
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        second.read_exact(&mut [0]).await.unwrap();
        stop.cancel();
        tokio::task::yield_now().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer).ends_with("ok"), "{answer:?}");
        tasks.close();
        let ended = tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await;
        assert!(ended.is_ok(), "the listener still waits");
    }

    #[tokio::test]
    async fn threads_of_their_own_share_the_connections_and_stop_as_one_listener() {
        let (entered, mut has_entered) = tokio::sync::mpsc::channel(64);
        let (release, released) = tokio::sync::watch::channel(false);
        let handler = move || {
            let (entered, mut released) = (entered.clone(), released.clone());
            async move {
                entered.send(()).await.unwrap();
                released.wait_for(|is| *is).await.unwrap();
                std::thread::current().name().unwrap_or_default().to_owned()
            }
        };
        let listener = bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
        let (address, stop, tasks) = (listener.local_addr().unwrap(), Stop::new(), TaskTracker::new());
        let router = Router::new().route("/", get(handler));
        let serving = serve_on_threads(listener, "served", router, ConnectionLimits::default(), stop.clone());
        let serving = tasks.spawn(serving);
        let requests: Vec<_> = (0..16).map(|_| tasks.spawn(exchange(address))).collect();
        for _ in &requests {
            has_entered.recv().await.unwrap();
        }
        stop.cancel();
        release.send(true).unwrap();
        let mut names = std::collections::BTreeSet::new();
        for request in requests {
            let answer = String::from_utf8(request.await.unwrap().unwrap()).unwrap();
            names.insert(answer.rsplit("\r\n").next().unwrap_or_default().to_owned());
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        assert_eq!(names.len(), cpus.min(limits::SERVING_THREADS_MAX), "{names:?}");
        assert!(names.iter().all(|name| name.starts_with("served-")), "{names:?}");
        let ended = tokio::time::timeout(Duration::from_secs(5), serving).await;
        assert!(ended.is_ok_and(|ended| ended.is_ok_and(|ended| ended.is_ok())), "it does not end");
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let held = bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
        let address = held.local_addr().unwrap();
        let message = bind(address, "the mirror").await.unwrap_err().to_string();
        assert!(message.contains(&address.to_string()) && message.contains("the mirror"), "{message}");
        assert!(message.contains(&format!("process {} (", std::process::id())), "{message}");
    }
}
