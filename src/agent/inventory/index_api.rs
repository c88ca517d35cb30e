//! The calls of discovery that the inventory makes. A trait, so that tests can take the place of the servers.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::api::client::{Client, ClientError};
use crate::api::{KeepaliveRequest, KeepaliveResponse, WriteRequest, WriteResponse};

/// The kind of a write: what it says about its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The holder has these keys.
    Advertise,
    /// The holder does not have these keys any more.
    Withdraw,
    /// The holder has exactly these keys.
    Sync,
}

/// The discovery servers, as one holder sees them.
pub trait IndexApi: Send + Sync + 'static {
    /// Sends one write. A stale pair is an `Ok` with `stale` set.
    fn write<'a>(
        &'a self,
        kind: Write,
        request: &'a WriteRequest,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<WriteResponse, ClientError>>;

    /// Sends one heartbeat.
    fn keepalive<'a>(
        &'a self,
        request: &'a KeepaliveRequest,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<KeepaliveResponse, ClientError>>;
}

impl IndexApi for Client {
    fn write<'a>(
        &'a self,
        kind: Write,
        request: &'a WriteRequest,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<WriteResponse, ClientError>> {
        async move {
            match kind {
                Write::Advertise => self.advertise(request, deadline).await,
                Write::Withdraw => self.withdraw(request, deadline).await,
                Write::Sync => self.sync(request, deadline).await,
            }
        }
        .boxed()
    }

    fn keepalive<'a>(
        &'a self,
        request: &'a KeepaliveRequest,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<KeepaliveResponse, ClientError>> {
        Client::keepalive(self, request, deadline).boxed()
    }
}
