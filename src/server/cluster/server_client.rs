//! The HTTP client for the discovery API of the other servers: forwarded writes, and lookups on behalf of
//! clients. It resolves names with what raft knows of them, so that a forwarded write waits for DNS as little
//! as an election does.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::vec;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use piccolo_raft::network::names::Names;
use tower::Service;

use crate::limits::{API_CONNECT_TIMEOUT, API_IDLE_TIMEOUT};

/// A client with a connection pool; clones share it.
pub type ServerClient = Client<HttpConnector<KnownNames>, Full<Bytes>>;

/// A client that connects within [`API_CONNECT_TIMEOUT`] and closes idle connections after
/// [`API_IDLE_TIMEOUT`].
pub fn server_client(names: Names) -> ServerClient {
    let mut connector = HttpConnector::new_with_resolver(KnownNames(names));
    connector.set_connect_timeout(Some(API_CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(API_IDLE_TIMEOUT)
        .build(connector)
}

/// The names that raft knows, as a resolver for hyper, which asks it for names only, not for bare addresses.
#[derive(Clone, Debug)]
pub struct KnownNames(Names);

impl Service<Name> for KnownNames {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<vec::IntoIter<SocketAddr>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.0.clone();
        Box::pin(async move {
            let ips = names.addresses(name.as_str()).await.map_err(io::Error::other)?;
            // hyper sets the port.
            let addresses: Vec<SocketAddr> = ips.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}
