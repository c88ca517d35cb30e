//! Requests to other servers, each with a deadline of our own that drops it. openraft's `RPCOption` is the heartbeat interval, in which 4 MiB and a sync never fit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{Pieces, Progress, RpcBody};
use super::frame::Message;
use super::names::{Names, split};
use super::wire::{Answered, Network, Wire};
use super::{Header, Whoami};
use crate::format::Level;
use crate::limits::WHOAMI_TIMEOUT;

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
    wire: Arc<dyn Wire>,
    names: Names,
}

impl RpcClient {
    /// Its requests go out by `network`; connections are tasks of `tasks`, cut by `stop`.
    pub(crate) fn new(
        network: &dyn Network,
        names: Names,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { wire: network.wire(names.clone(), tasks, stop), names }
    }

    /// The addresses that names lead to.
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
        let answered = self.wire.post(address, route, body, progress).await;
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::lone_client;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_silent_server_costs_the_idle_deadline_and_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let client = lone_client();
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
        let answer = lone_client().whoami(&address).await;
        assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{answer:?}");
    }
}
