//! Agents and peers in this process, for tests: real sockets, servers that are a map, and peers that
//! misbehave on demand.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::RegistryPolicy;
use super::blob_server::BlobServer;
use super::buffers::BufferPool;
use super::counters::Counters;
use super::discovery::{Discovery, Lookup, LookupError};
use super::fetch::Fetcher;
use super::heal::Healer;
use super::local::Local;
use super::mirror::{self, Mirror};
use super::origin::Origins;
use super::policy::{self, Policies};
use super::report::{self, Reporter};
use super::store::Store;
use super::store::memory::MemoryStore;
use super::uploads::Uploads;
use super::verified::Verifier;
use crate::api::client::Client;
use crate::http::{self, ConnectionLimits};
use crate::oci::Digest;
use crate::task::Stop;

/// How long anything may take that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The discovery servers.
#[derive(Default)]
pub(crate) struct FakeServers {
    holders: Mutex<BTreeMap<String, Vec<SocketAddr>>>,
    pub(crate) down: AtomicBool,
    pub(crate) asked: AtomicUsize,
}

impl FakeServers {
    pub(crate) fn hold(&self, key: impl ToString, holders: &[SocketAddr]) {
        self.holders.lock().unwrap().insert(key.to_string(), holders.to_vec());
    }
}

impl Lookup for FakeServers {
    fn find<'a>(&'a self, key: &'a str, _: Duration) -> BoxFuture<'a, Result<Vec<SocketAddr>, LookupError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.down.load(Ordering::Relaxed) {
                return Err(LookupError::NoServer("down".to_owned()));
            }
            Ok(self.holders.lock().unwrap().get(key).cloned().unwrap_or_default())
        })
    }
}

/// A reporter whose reports go nowhere.
pub(crate) fn unheard_reporter() -> Reporter {
    let nowhere = Client::new(vec!["http://127.0.0.1:1".to_owned()]).unwrap();
    report::channel(nowhere, SocketAddr::from(([127, 0, 0, 1], 1)), "default".to_owned()).0
}

/// A node: its store, its two ports, and the servers that it asks.
pub(crate) struct Node {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) servers: Arc<FakeServers>,
    pub(crate) mirror: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) counters: Arc<Counters>,
    stop: Stop,
    _tasks: TaskTracker,
}

/// What a test wants to be different.
pub(crate) struct Wish {
    pub(crate) store: MemoryStore,
    pub(crate) registries: BTreeMap<String, RegistryPolicy>,
    pub(crate) uploads_max: usize,
    pub(crate) upload_bytes_per_second: u64,
    pub(crate) resolve_timeout: Duration,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            store: MemoryStore::new(),
            registries: BTreeMap::new(),
            uploads_max: 0,
            upload_bytes_per_second: 0,
            resolve_timeout: crate::limits::RESOLVE_TIMEOUT_DEFAULT,
        }
    }
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::wish(Wish::default()).await
    }

    pub(crate) async fn wish(wish: Wish) -> Self {
        let store = Arc::new(wish.store);
        let servers = Arc::<FakeServers>::default();
        let (stop, tasks, counters) = (Stop::new(), TaskTracker::new(), Arc::<Counters>::default());
        let policies = Arc::new(Policies::new(wish.registries));
        let pool = BufferPool::default();
        let discovery = Arc::new(Discovery::new(Arc::clone(&servers) as Arc<dyn Lookup>));
        let dyn_store = policy::guarded(Arc::clone(&store) as Arc<dyn Store>, &policies);
        let local =
            Local::new(Arc::clone(&dyn_store), Verifier::new(pool.clone(), stop.clone()), pool.clone());
        let blob_server = BlobServer {
            local: local.clone(),
            uploads: Uploads::new(wish.uploads_max, wish.upload_bytes_per_second),
            policies: Arc::clone(&policies),
            counters: Arc::clone(&counters),
        };
        let healer = Healer::new(Arc::clone(&dyn_store), pool.clone());
        let mirror = Mirror {
            local,
            fetcher: Arc::new(Fetcher::new(
                Arc::clone(&discovery),
                dyn_store,
                pool.clone(),
                (unheard_reporter(), healer),
                stop.clone(),
            )),
            discovery: Arc::clone(&discovery),
            origins: Origins::new(Arc::clone(&policies)).unwrap(),
            policies,
            counters: Arc::clone(&counters),
            pool,
            resolve_timeout: wish.resolve_timeout,
        };
        let watch_stop = stop.clone();
        tasks.spawn(async move { discovery.watch(watch_stop).await });
        let mirror = serve(mirror::router(Arc::new(mirror)), &tasks, &stop).await;
        let peer = serve(Arc::new(blob_server), &tasks, &stop).await;
        Self { store, servers, mirror, peer, counters, stop, _tasks: tasks }
    }

    /// A node that holds `bytes`.
    pub(crate) async fn with(bytes: &[u8]) -> Self {
        let node = Self::start().await;
        node.store.add(bytes.to_vec());
        node
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(answers: impl http::Answer, tasks: &TaskTracker, stop: &Stop) -> SocketAddr {
    let listener = http::bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(http::serve(listener, answers, ConnectionLimits::default(), stop.clone()));
    address
}

/// A node that waits for its peers as long as this busy machine takes.
pub(crate) async fn patient() -> Node {
    Node::wish(Wish { resolve_timeout: SOON, ..Wish::default() }).await
}

/// An address at which nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// What a raw peer does after its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Close,
    Reset,
    /// Says nothing more, until the other side closes.
    Hang,
    /// Keeps so many of its last bytes back for a while, then closes.
    Later(Duration, usize),
    /// Sends this again and again, until the other side closes.
    Repeat(&'static [u8]),
}

/// A peer that answers whatever it is asked with the same bytes.
pub(crate) struct RawPeer {
    pub(crate) address: SocketAddr,
    /// The requests that it has had, as text.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    /// Connections that the other side has not closed.
    pub(crate) open: Arc<AtomicUsize>,
    stop: Stop,
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl RawPeer {
    pub(crate) async fn start(answer: impl Into<Vec<u8>>, end: End) -> Self {
        Self::paused(answer.into(), end, Duration::ZERO).await
    }

    /// Answers with `200`, a `Content-Length`, and a body that may be of another length.
    pub(crate) async fn ok(length: usize, body: &[u8], end: End) -> Self {
        Self::start(with_head(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"), body), end)
            .await
    }

    async fn paused(answer: Vec<u8>, end: End, pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, open, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default(), Stop::new());
        let peer =
            Self { address, requests: Arc::clone(&requests), open: Arc::clone(&open), stop: stop.clone() };
        let (tasks, answer) = (TaskTracker::new(), Arc::new(answer));
        let connections = tasks.clone();
        tasks.spawn(async move {
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (requests, open, answer) =
                    (Arc::clone(&requests), Arc::clone(&open), Arc::clone(&answer));
                connections.spawn(async move {
                    open.fetch_add(1, Ordering::SeqCst);
                    _ = converse(stream, &requests, &answer, pause, end).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        peer
    }

    /// Answers right, but after `pause`.
    pub(crate) async fn slow(pause: Duration, body: &[u8]) -> Self {
        let answer = with_head(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()), body);
        Self::paused(answer, End::Close, pause).await
    }

    /// Answers right and at once, but sends the second half of the body after `pause`.
    pub(crate) async fn trickle(body: &[u8], pause: Duration) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Self::start(with_head(&head, body), End::Later(pause, body.len() / 2)).await
    }

    pub(crate) fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

pub(crate) fn with_head(head: &str, body: &[u8]) -> Vec<u8> {
    [head.as_bytes(), body].concat()
}

async fn converse(
    mut stream: TcpStream,
    requests: &Mutex<Vec<String>>,
    answer: &[u8],
    pause: Duration,
    end: End,
) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    requests.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
    tokio::time::sleep(pause).await;
    let (now, later) = match end {
        End::Later(_, count) => answer.split_at(answer.len() - count),
        _ => (answer, &[][..]),
    };
    stream.write_all(now).await?;
    match end {
        End::Later(pause, _) => {
            tokio::time::sleep(pause).await;
            stream.write_all(later).await?;
            stream.shutdown().await?;
        }
        End::Close => stream.shutdown().await?,
        End::Reset => {
            // What was sent should arrive before the reset throws it away.
            tokio::time::sleep(Duration::from_millis(100)).await;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        End::Hang => _ = stream.read_u8().await,
        End::Repeat(bytes) => {
            let many = bytes.repeat(1_000);
            loop {
                stream.write_all(&many).await?;
            }
        }
    }
    Ok(())
}

/// An answer as a client saw it.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// How the connection ended.
    pub(crate) end: Result<(), io::ErrorKind>,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// All of the body that the head promises has come, and the connection ended cleanly.
    pub(crate) fn is_complete(&self) -> bool {
        self.end.is_ok() && self.header("content-length") == Some(&self.body.len().to_string())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) async fn get(address: SocketAddr, target: &str) -> Got {
    request(address, "GET", target, "").await
}

pub(crate) async fn get_range(address: SocketAddr, target: &str, range: &str) -> Got {
    request(address, "GET", target, &format!("Range: {range}\r\n")).await
}

/// One request on a connection of its own.
pub(crate) async fn request(address: SocketAddr, method: &str, target: &str, headers: &str) -> Got {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).await.map(|_| ()).map_err(|error| error.kind());
        (bytes, end)
    };
    let (bytes, end) = tokio::time::timeout(SOON, exchange).await.expect("an answer that ends");
    let split = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    Got { status, head, body: bytes[split..].to_vec(), end }
}

/// Bytes that look random and are the same every time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn blob_target(digest: &Digest) -> String {
    format!("/v2/library/test/blobs/{digest}?ns=registry.test")
}

pub(crate) fn manifest_target(reference: impl ToString, registry: &str) -> String {
    format!("/v2/library/test/manifests/{}?ns={registry}", reference.to_string())
}

/// A manifest that differs by its layer.
pub(crate) fn manifest(layer: &str) -> Vec<u8> {
    let (config, layer) = (Digest::of(b"config"), Digest::of(layer.as_bytes()));
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":6}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":1}}]}}"#
    )
    .into_bytes()
}

/// Polls until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, poll).await.is_ok(), "never: {what}");
}
