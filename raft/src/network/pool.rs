//! Connections to other servers, kept for the next request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::RpcBody;
use super::connect::{Connect, first};
use super::names::{Names, split};
use crate::errors::chain;
use crate::limits::{CONNECT_TIMEOUT, IDLE_CONNECTION_TIMEOUT, IDLE_CONNECTIONS_MAX};

/// A connection to one server, in nobody else's hands.
pub(super) struct Connection {
    pub(super) sender: SendRequest<RpcBody>,
    /// Address that the connection leads to.
    pub(super) at: SocketAddr,
}

/// A connection in nobody's hands, and since when.
type Idle = (Instant, Connection);

/// All connections; clones share them.
#[derive(Clone)]
pub(super) struct Pool {
    connect: Arc<dyn Connect>,
    names: Names,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// By the address asked for, the one used last at the end.
    idle: Arc<Mutex<BTreeMap<String, Vec<Idle>>>>,
}

impl Pool {
    /// Its connections are tasks of `tracker`, cut by `stop`.
    pub(super) fn new(
        connect: Arc<dyn Connect>,
        names: Names,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { connect, names, tracker, stop, idle: Arc::default() }
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Idle>>> {
        self.idle.lock().expect("nothing panics while it holds the connections")
    }

    /// A connection to `address`, and whether it was kept from an earlier request.
    pub(super) async fn connection(&self, address: &str) -> Result<(Connection, bool), String> {
        while let Some(mut connection) = self.take(address) {
            if connection.sender.ready().await.is_ok() {
                return Ok((connection, true));
            }
        }
        Ok((self.connect(address).await?, false))
    }

    fn take(&self, address: &str) -> Option<Connection> {
        let mut idle = self.idle();
        let kept = idle.get_mut(address)?;
        kept.retain(|(since, connection)| is_fresh(*since) && !connection.sender.is_closed());
        kept.pop().map(|(_, connection)| connection)
    }

    /// Keeps a connection for the next request to `address`.
    pub(super) fn keep(&self, address: &str, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = self.idle();
        idle.retain(|_, kept| {
            kept.retain(|(since, connection)| is_fresh(*since) && !connection.sender.is_closed());
            !kept.is_empty()
        });
        let kept = idle.entry(address.to_owned()).or_default();
        if kept.len() < IDLE_CONNECTIONS_MAX {
            kept.push((Instant::now(), connection));
        }
    }

    async fn connect(&self, address: &str) -> Result<Connection, String> {
        let (host, port) = split(address).ok_or_else(|| format!("{address} is not host:port"))?;
        let ips = self.names.addresses(host).await?;
        let race =
            first(self.connect.as_ref(), ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect());
        let late = |_| format!("no connection within {} ms", CONNECT_TIMEOUT.as_millis());
        let (stream, at) = timeout(CONNECT_TIMEOUT, race).await.map_err(late)??;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
        let stop = self.stop.clone();
        self.tracker.spawn(async move { stop.run_until_cancelled(connection).await });
        Ok(Connection { sender, at })
    }
}

fn is_fresh(since: Instant) -> bool {
    since.elapsed() < IDLE_CONNECTION_TIMEOUT
}
