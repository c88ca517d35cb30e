//! HTTP to other servers: keep-alive connections, and a deadline of our own on every request that
//! drops it. openraft's `RPCOption` is the heartbeat interval, in which 4 MiB and a sync never fit.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{Pieces, Progress, RpcBody};
use super::frame::Message;
use super::names::{Names, split};
use super::pool::Pool;
use super::{Header, RAFT_PREFIX, SMALL_BODY_BYTES_MAX, WHOAMI_TIMEOUT, Whoami};
use crate::errors::chain;
use crate::format::Level;

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

/// Cheap to clone; clones share their connections.
#[derive(Clone)]
pub(crate) struct RpcClient {
    pool: Pool,
    names: Names,
    #[cfg(test)]
    simulated: Option<crate::sim::net::Wire>,
}

impl RpcClient {
    /// Its connections are tasks of `tracker`, cut by `stop`.
    pub(crate) fn new(names: Names, tracker: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            pool: Pool::new(names.clone(), tracker, stop),
            names,
            #[cfg(test)]
            simulated: crate::sim::net::Wire::of_this_host(),
        }
    }

    /// Where names lead to.
    pub(crate) fn names(&self) -> &Names {
        &self.names
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

    /// Asks whether messages with this header are heard, and says where this node is; a pristine target
    /// joins the cluster.
    pub(crate) async fn standing(
        &self,
        address: &str,
        header: Header,
        level: Level,
        own: Option<String>,
    ) -> Result<(), CallError> {
        let frame = own.frame(&header, level);
        self.call(address, "standing", frame, WHOAMI_TIMEOUT).await.map(drop)
    }

    async fn exchange(
        &self,
        address: &str,
        route: &str,
        body: RpcBody,
        progress: &Progress,
    ) -> Result<Bytes, CallError> {
        let answered = self.post(address, route, body, progress).await;
        let Answered { ip, status, body } =
            answered.map_err(|reason| CallError::Unreachable { address: address.to_owned(), reason })?;
        let host = split(address).map_or(address, |(host, _)| host);
        // Anybody answers a whoami; everything else is answered by its target alone.
        match status {
            StatusCode::OK if route != "whoami" => self.names.works(host, ip),
            StatusCode::MISDIRECTED_REQUEST | StatusCode::NOT_FOUND => self.names.misleads(host, ip),
            _ => {}
        }
        if status == StatusCode::OK {
            return Ok(body);
        }
        let reason = String::from_utf8_lossy(&body).trim().to_owned();
        Err(CallError::Refused { address: address.to_owned(), status, reason })
    }

    /// Status and body of whatever answers, or why nothing does.
    async fn post(
        &self,
        address: &str,
        route: &str,
        body: RpcBody,
        progress: &Progress,
    ) -> Result<Answered, String> {
        #[cfg(test)]
        if let Some(wire) = &self.simulated {
            return wire.post(&self.names, address, route, body, progress).await;
        }
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{RAFT_PREFIX}/{route}"))
            .header(HOST, address)
            .body(body)
            .map_err(|error| error.to_string())?;
        let (connection, response) = loop {
            let (mut connection, kept) = self.pool.connection(address).await?;
            match connection.sender.try_send_request(request).await {
                Ok(response) => break (connection, response),
                Err(mut error) => match error.take_message() {
                    // It ended before it took the request.
                    Some(unsent) if kept => request = unsent,
                    _ => return Err(chain(&error.into_error())),
                },
            }
        };
        progress.touch();
        let (ip, status) = (connection.at.ip(), response.status());
        let body = Limited::new(response.into_body(), SMALL_BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        // Who is not the target must not be asked again by the same connection.
        if status != StatusCode::MISDIRECTED_REQUEST && status != StatusCode::NOT_FOUND {
            self.pool.keep(address, connection);
        }
        Ok(Answered { ip, status, body })
    }
}

#[cfg(test)]
impl RpcClient {
    /// Of nobody, with the system's resolver.
    pub(crate) fn alone() -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (resolver, disk) =
            (std::sync::Arc::new(super::names::SystemResolver), crate::disk::MemoryDisk::default());
        Self::new(Names::load(resolver, &disk, tasks.clone(), stop.clone()), tasks, stop)
    }

    /// Connections that were made to `address`, ever.
    pub(crate) fn made(&self, address: &str) -> usize {
        self.pool.made(address)
    }

    /// Whether this thread has begun a connection.
    pub(crate) fn connected_on_this_thread(&self) -> bool {
        self.pool.begun_on.lock().unwrap().contains(&std::thread::current().id())
    }
}

/// What answered.
pub(crate) struct Answered {
    pub(crate) ip: IpAddr,
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
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
        let client = RpcClient::alone();
        let call = client.call(&address, "vote", vec![0; 10], Duration::from_millis(200));
        let both = async { tokio::join!(call, listener.accept()) };
        let both = tokio::time::timeout(Duration::from_secs(60), both).await;
        let (answer, accepted) = both.expect("the deadline ends the call");
        assert!(matches!(answer, Err(CallError::Idle { .. })), "{answer:?}");
        let mut rest = Vec::new();
        accepted.unwrap().0.read_to_end(&mut rest).await.unwrap();
        assert!(rest.starts_with(b"POST /raft/v1/vote"));
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let answer = RpcClient::alone().whoami(&address).await;
        assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{answer:?}");
    }
}
