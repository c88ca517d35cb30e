//! HTTP to other servers: keep-alive connections, and a deadline of our own on every request that
//! drops it. openraft's `RPCOption` is the heartbeat interval, in which 4 MiB and a sync never fit.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{CONNECT_TIMEOUT, Header, RAFT_PREFIX, SMALL_BODY_BYTES_MAX, WHOAMI_TIMEOUT, Whoami};
use crate::format;

/// Connections to one server that are kept for the next request.
const IDLE_CONNECTIONS_MAX: usize = 4;
/// How long they are kept: less than servers wait for the next request's headers, so that none is sent
/// into a closing connection.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// A body is handed to the connection in pieces of so many bytes, each of which is progress.
const PIECE_BYTES: usize = 64 * 1024;

/// Why a request got no proper answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("could not reach {address}: {reason}")]
    Unreachable { address: String, reason: String },
    #[error("{address} made no progress for {} ms", idle.as_millis())]
    Idle { address: String, idle: Duration },
    #[error("{address} answered {status}: {reason}")]
    Refused { address: String, status: StatusCode, reason: String },
    #[error("{address} answered what this build does not read: {reason}")]
    Unreadable { address: String, reason: String },
}

pub(crate) type RpcBody = UnsyncBoxBody<Bytes, io::Error>;

/// When a request last moved.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    start: Instant,
    moved_ms: Arc<AtomicU64>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), moved_ms: Arc::default() }
    }

    pub(crate) fn touch(&self) {
        self.moved_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Resolves when nothing has moved for `idle`.
    async fn stalled(&self, idle: Duration) {
        loop {
            let moved = self.start + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
            if moved.elapsed() >= idle {
                return;
            }
            tokio::time::sleep_until(moved + idle).await;
        }
    }
}

/// Bytes as a body that notes its progress.
pub(crate) struct Pieces {
    left: VecDeque<Bytes>,
    progress: Progress,
}

impl Pieces {
    pub(crate) fn new(mut bytes: Bytes, progress: Progress) -> Self {
        let mut left = VecDeque::new();
        while !bytes.is_empty() {
            left.push_back(bytes.split_to(PIECE_BYTES.min(bytes.len())));
        }
        Self { left, progress }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.progress.touch();
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.iter().map(|piece| piece.len() as u64).sum())
    }
}

/// Lets hyper's connection tasks be ours.
#[derive(Clone)]
struct Tracked {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, connection: F) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move { stop.run_until_cancelled(connection).await });
    }
}

/// Cheap to clone; clones share their connections.
#[derive(Clone)]
pub(crate) struct RpcClient {
    http: Client<HttpConnector, RpcBody>,
    #[cfg(test)]
    simulated: Option<crate::sim::net::Wire>,
}

impl RpcClient {
    /// Its connections are tasks of `tracker`, cut by `stop`.
    pub(crate) fn new(tracker: TaskTracker, stop: CancellationToken) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let http = Client::builder(Tracked { tracker, stop })
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        Self {
            http,
            #[cfg(test)]
            simulated: crate::sim::net::Wire::of_this_host(),
        }
    }

    /// Posts `bytes` and returns the body of a 200.
    pub(crate) async fn call(
        &self,
        address: &str,
        route: &str,
        bytes: Vec<u8>,
        idle: Duration,
    ) -> Result<Bytes, CallError> {
        let progress = Progress::new();
        let body = Pieces::new(bytes.into(), progress.clone()).boxed_unsync();
        self.send(address, route, body, progress, idle).await
    }

    /// Posts a body that touches `progress` as it goes.
    pub(crate) async fn send(
        &self,
        address: &str,
        route: &str,
        body: RpcBody,
        progress: Progress,
        idle: Duration,
    ) -> Result<Bytes, CallError> {
        let exchange = self.exchange(address, route, body, &progress);
        tokio::select! {
            biased;
            answer = exchange => answer,
            () = progress.stalled(idle) => Err(CallError::Idle { address: address.to_owned(), idle }),
        }
    }

    /// Asks who listens at `address`.
    pub(crate) async fn whoami(&self, address: &str) -> Result<Whoami, CallError> {
        let answer = self.call(address, "whoami", Vec::new(), WHOAMI_TIMEOUT).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| CallError::Unreadable { address: address.to_owned(), reason: error.to_string() })
    }

    /// Asks whether messages with this header are heard; a pristine target joins the cluster.
    pub(crate) async fn standing(&self, address: &str, header: Header) -> Result<(), CallError> {
        let frame = format::encode(&(header, ()));
        self.call(address, "standing", frame, WHOAMI_TIMEOUT).await.map(drop)
    }

    async fn exchange(
        &self,
        address: &str,
        route: &str,
        body: RpcBody,
        progress: &Progress,
    ) -> Result<Bytes, CallError> {
        #[cfg(test)]
        let answered = match &self.simulated {
            Some(wire) => wire.post(address, route, body, progress).await,
            None => self.post(address, route, body, progress).await,
        };
        #[cfg(not(test))]
        let answered = self.post(address, route, body, progress).await;
        let (status, answer) =
            answered.map_err(|reason| CallError::Unreachable { address: address.to_owned(), reason })?;
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let reason = String::from_utf8_lossy(&answer).trim().to_owned();
        Err(CallError::Refused { address: address.to_owned(), status, reason })
    }

    /// Status and body of whatever answer, or why there is none.
    async fn post(
        &self,
        address: &str,
        route: &str,
        body: RpcBody,
        progress: &Progress,
    ) -> Result<(StatusCode, Bytes), String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{address}{RAFT_PREFIX}/{route}"))
            .body(body)
            .map_err(|error| error.to_string())?;
        let response = self.http.request(request).await.map_err(|error| chain(&error))?;
        progress.touch();
        let status = response.status();
        let answer = Limited::new(response.into_body(), SMALL_BODY_BYTES_MAX).collect().await;
        Ok((status, answer.map_err(|error| error.to_string())?.to_bytes()))
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_silent_server_costs_the_idle_deadline_and_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let client = RpcClient::new(TaskTracker::new(), CancellationToken::new());
        let start = Instant::now();
        let call = client.call(&address, "vote", vec![0; 10], Duration::from_millis(200));
        let (answer, accepted) = tokio::join!(call, listener.accept());
        assert!(matches!(answer, Err(CallError::Idle { .. })), "{answer:?}");
        assert!(start.elapsed() < Duration::from_secs(2));
        let mut rest = Vec::new();
        accepted.unwrap().0.read_to_end(&mut rest).await.unwrap();
        assert!(rest.starts_with(b"POST /raft/v1/vote"));
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let answer = RpcClient::new(TaskTracker::new(), CancellationToken::new()).whoami(&address).await;
        assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{answer:?}");
    }
}
