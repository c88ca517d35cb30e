//! What carries a request to another server, and its answer back.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::StatusCode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{Progress, RpcBody};
use super::names::Names;

/// The network that a node is on.
pub trait Network: Debug + Send + Sync + 'static {
    /// A node's way to the others, which it finds by `names`. Connections are tasks of `tasks`, cut by `stop`.
    fn wire(&self, names: Names, tasks: TaskTracker, stop: CancellationToken) -> Arc<dyn Wire>;
}

/// One node's way to the others.
pub trait Wire: Send + Sync + 'static {
    /// Posts `body` to `route` of the raft RPC at `address`, `host:port`, and touches `progress` as the request
    /// moves. Whoever drops the future gives the request up.
    ///
    /// # Errors
    /// Why nothing has answered.
    fn post<'a>(
        &'a self,
        address: &'a str,
        route: &'a str,
        body: RpcBody,
        progress: &'a Progress,
    ) -> BoxFuture<'a, Result<Answered, String>>;
}

/// What has answered a request.
#[derive(Debug)]
pub struct Answered {
    /// The address that has answered, of the several that a name may have.
    pub ip: IpAddr,
    /// Status of the answer.
    pub status: StatusCode,
    /// Body of the answer.
    pub body: Bytes,
}
