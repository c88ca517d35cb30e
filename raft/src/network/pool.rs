//! Connections to other servers: kept for the next request, made to the address that answers first.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::CONNECT_TIMEOUT;
use super::body::RpcBody;
use super::names::{Names, split};
use crate::errors::chain;

/// Connections to one server that are kept for the next request.
const IDLE_CONNECTIONS_MAX: usize = 4;
/// How long they are kept: less than servers wait for the next request's headers, so that none is sent
/// into a closing connection.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The next address of a name is tried beside one that has not answered within so long: an address that a
/// server had before answers nothing at all on most networks.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(100);

/// A connection to one server, in nobody else's hands.
pub(super) struct Connection {
    pub(super) sender: SendRequest<RpcBody>,
    /// Where it leads to.
    pub(super) at: SocketAddr,
}

/// A connection in nobody's hands, and since when.
type Idle = (Instant, Connection);

/// All connections; clones share them.
#[derive(Clone)]
pub(super) struct Pool {
    names: Names,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// By the address asked for, the one used last at the end.
    idle: Arc<Mutex<BTreeMap<String, Vec<Idle>>>>,
    #[cfg(test)]
    made: Arc<Mutex<BTreeMap<String, usize>>>,
    /// Threads on which connections were begun.
    #[cfg(test)]
    pub(super) begun_on: Arc<Mutex<Vec<std::thread::ThreadId>>>,
}

impl Pool {
    /// Its connections are tasks of `tracker`, cut by `stop`.
    pub(super) fn new(names: Names, tracker: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            names,
            tracker,
            stop,
            idle: Arc::default(),
            #[cfg(test)]
            made: Arc::default(),
            #[cfg(test)]
            begun_on: Arc::default(),
        }
    }

    /// Connections that were made to `address`, ever.
    #[cfg(test)]
    pub(super) fn made(&self, address: &str) -> usize {
        self.made.lock().unwrap().get(address).copied().unwrap_or(0)
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
        #[cfg(test)]
        self.begun_on.lock().unwrap().push(std::thread::current().id());
        let (host, port) = split(address).ok_or_else(|| format!("{address} is not host:port"))?;
        let ips = self.names.addresses(host).await?;
        let race = first(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect());
        let late = |_| format!("no connection within {} ms", CONNECT_TIMEOUT.as_millis());
        let (stream, at) = timeout(CONNECT_TIMEOUT, race).await.map_err(late)??;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
        #[cfg(test)]
        self.made.lock().unwrap().entry(address.to_owned()).and_modify(|made| *made += 1).or_insert(1);
        let stop = self.stop.clone();
        self.tracker.spawn(async move { stop.run_until_cancelled(connection).await });
        Ok(Connection { sender, at })
    }
}

fn is_fresh(since: Instant) -> bool {
    since.elapsed() < IDLE_CONNECTION_TIMEOUT
}

/// Connects to the address that answers first. One that fails, or takes its time, is followed by the next.
async fn first(mut left: VecDeque<SocketAddr>) -> Result<(TcpStream, SocketAddr), String> {
    let mut tried = FuturesUnordered::new();
    let mut reasons = Vec::new();
    loop {
        if let Some(at) = left.pop_front() {
            tried.push(async move { (at, TcpStream::connect(at).await) });
        }
        let next = async {
            match left.is_empty() {
                true => std::future::pending().await,
                false => sleep(NEXT_ADDRESS_AFTER).await,
            }
        };
        tokio::select! {
            biased;
            ended = tried.next() => match ended {
                Some((at, Ok(stream))) => return Ok((stream, at)),
                Some((at, Err(error))) => reasons.push(format!("{at}: {error}")),
                None => return Err(reasons.join("; ")),
            },
            () = next => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    fn bound() -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        socket
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_by_the_next_and_all_reasons_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        // Bound and not listening: refused, and nobody else's.
        let held = bound();
        let gone = held.local_addr().unwrap();
        let (_, at) = first([gone, here].into()).await.unwrap();
        assert_eq!(at, here);
        let reasons = first([gone, gone].into()).await.unwrap_err();
        assert_eq!(reasons.matches(&gone.to_string()).count(), 2, "{reasons}");
        assert_eq!(first([].into()).await.unwrap_err(), "");
    }

    #[tokio::test]
    async fn an_address_that_answers_nothing_does_not_keep_from_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        // Nobody accepts, and the queue is full: the kernel drops what comes.
        let silent = bound().listen(0).unwrap();
        let silent = (silent.local_addr().unwrap(), silent);
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(silent.0)).await {
            queued.push(stream);
        }
        let (_, at) = timeout(CONNECT_TIMEOUT, first([silent.0, here].into())).await.unwrap().unwrap();
        assert_eq!(at, here);
    }
}
