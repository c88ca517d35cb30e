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
use super::content::buffer_pool::BufferPool;
use super::content::ingest_scrub::IngestScrubber;
use super::content::local::Local;
use super::content::store::Store;
use super::content::store::memory::MemoryStore;
use super::content::verifier::Verifier;
use super::counters::Counters;
use super::discovery::holder_reports::{self, Reporter, TakesReports};
use super::discovery::{HolderLookup, Lookup, LookupError};
use super::fetch::Fetcher;
use super::notices::Notices;
use super::origin::{self, Origins};
use super::policy::{self, Policies};
use super::serve::blob_server::BlobServer;
use super::serve::mirror::{self, Mirror};
use super::serve::uploads::Uploads;
use super::state_dir::StateDir;
use crate::api::ReportRequest;
use crate::api::client::{Client, ClientError};
use crate::http::{self, ConnectionLimits};
use crate::oci::Digest;
use crate::proxies::Proxies;
use crate::task::Stop;

/// Deadline of what should happen soon, on a machine that others keep busy.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Discovery servers that are a map.
#[derive(Default)]
pub(crate) struct FakeServers {
    holders: Mutex<BTreeMap<String, Vec<SocketAddr>>>,
    pub(crate) down: AtomicBool,
    pub(crate) asked: AtomicUsize,
    /// Reports of holders that they received.
    pub(crate) reports: Mutex<Vec<ReportRequest>>,
}

impl TakesReports for Arc<FakeServers> {
    fn send<'a>(&'a self, request: &'a ReportRequest) -> BoxFuture<'a, Result<(), ClientError>> {
        self.reports.lock().unwrap().push(request.clone());
        Box::pin(std::future::ready(Ok(())))
    }
}

impl FakeServers {
    pub(crate) fn hold(&self, key: impl ToString, holders: &[SocketAddr]) {
        self.holders.lock().unwrap().insert(key.to_string(), holders.to_vec());
    }
}

impl Lookup for FakeServers {
    fn find<'a>(
        &'a self,
        key: &'a str,
        count: usize,
        _: Duration,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, LookupError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.down.load(Ordering::Relaxed) {
                return Err(LookupError::Late { within: Duration::ZERO });
            }
            let mut holders = self.holders.lock().unwrap().get(key).cloned().unwrap_or_default();
            holders.truncate(count);
            Ok(holders)
        })
    }
}

/// A reporter whose reports go nowhere.
pub(crate) fn unheard_reporter() -> Reporter {
    let nowhere = Client::new(vec!["http://127.0.0.1:1".to_owned()]).unwrap();
    holder_reports::channel(nowhere, SocketAddr::from(([127, 0, 0, 1], 1)).into(), "default".to_owned()).0
}

/// A node: its store, its two ports, and the servers that it asks.
pub(crate) struct Node {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) servers: Arc<FakeServers>,
    pub(crate) mirror: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) counters: Arc<Counters>,
    pub(crate) notices: Notices,
    stop: Stop,
    _tasks: TaskTracker,
    _folder: tempfile::TempDir,
}

/// Settings of a node in a test.
pub(crate) struct Wish {
    pub(crate) store: MemoryStore,
    pub(crate) registries: BTreeMap<String, RegistryPolicy>,
    pub(crate) uploads_max: usize,
    pub(crate) upload_bytes_per_second: u64,
    pub(crate) resolve_timeout: Duration,
    /// Rate at which the node verifies its own content.
    pub(crate) hash_bytes_per_second: Option<u64>,
    /// State folder of the node. Absent: a new folder on disk.
    pub(crate) state: Option<StateDir>,
    pub(crate) connections: ConnectionLimits,
    /// Folders of `--certs-dir`, and the proxies in the environment.
    pub(crate) certs_dirs: Vec<std::path::PathBuf>,
    pub(crate) environment: Option<Proxies>,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            store: MemoryStore::new(),
            registries: BTreeMap::new(),
            uploads_max: 0,
            upload_bytes_per_second: 0,
            resolve_timeout: crate::limits::RESOLVE_TIMEOUT_DEFAULT,
            hash_bytes_per_second: None,
            state: None,
            connections: ConnectionLimits::default(),
            certs_dirs: Vec::new(),
            environment: None,
        }
    }
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::wish(Wish::default()).await
    }

    pub(crate) async fn wish(wish: Wish) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(wish.store);
        let servers = Arc::<FakeServers>::default();
        let (stop, tasks, counters) = (Stop::new(), TaskTracker::new(), Arc::<Counters>::default());
        let notices = Notices::default();
        let policies = Arc::new(Policies::new(wish.registries));
        let pool = BufferPool::default();
        let discovery = Arc::new(HolderLookup::new(Arc::clone(&servers) as Arc<dyn Lookup>));
        let dyn_store = policy::guarded(Arc::clone(&store) as Arc<dyn Store>, &policies);
        let local = Local::new(
            Arc::clone(&dyn_store),
            verifier(&pool, &stop, wish.hash_bytes_per_second),
            pool.clone(),
        );
        let blob_server = BlobServer {
            local: local.clone(),
            uploads: Uploads::new(wish.uploads_max, wish.upload_bytes_per_second),
            policies: Arc::clone(&policies),
            counters: Arc::clone(&counters),
        };
        let own = SocketAddr::from(([127, 0, 0, 1], 1));
        let (reporter, reports) =
            holder_reports::channel(Arc::clone(&servers), own.into(), "default".to_owned());
        let reports_stop = stop.clone();
        tasks.spawn(async move { reports.run(reports_stop).await });
        let scrubber = IngestScrubber::new(Arc::clone(&dyn_store), pool.clone());
        let mirror = Mirror {
            local,
            fetcher: Arc::new(Fetcher::new(
                Arc::clone(&discovery),
                Arc::clone(&dyn_store),
                pool.clone(),
                (
                    reporter,
                    scrubber,
                    wish.state.unwrap_or_else(|| StateDir::on_disk(folder.path())),
                    notices.clone(),
                ),
                stop.clone(),
            )),
            discovery: Arc::clone(&discovery),
            origins: Origins::new(origin::Config {
                policies: Arc::clone(&policies),
                notices: notices.clone(),
                certs_dirs: Some(wish.certs_dirs),
                store: Arc::clone(&dyn_store),
                socket: None,
                own: None,
                environment: wish.environment,
            })
            .unwrap(),
            policies,
            counters: Arc::clone(&counters),
            pool,
            resolve_timeout: wish.resolve_timeout,
        };
        let watch_stop = stop.clone();
        tasks.spawn(async move { discovery.watch(watch_stop).await });
        let mirror = serve(mirror::router(Arc::new(mirror)), wish.connections, &tasks, &stop).await;
        let peer = serve(Arc::new(blob_server), wish.connections, &tasks, &stop).await;
        Self { store, servers, mirror, peer, counters, notices, stop, _tasks: tasks, _folder: folder }
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

async fn serve(
    answers: impl http::Answer,
    connections: ConnectionLimits,
    tasks: &TaskTracker,
    stop: &Stop,
) -> SocketAddr {
    let listener = http::bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(http::serve(listener, answers, connections, stop.clone()));
    address
}

fn verifier(pool: &BufferPool, stop: &Stop, bytes_per_second: Option<u64>) -> Verifier {
    match bytes_per_second {
        Some(rate) => Verifier::throttled(pool.clone(), stop.clone(), rate),
        None => Verifier::new(pool.clone(), stop.clone()),
    }
}

/// A node with a resolve timeout that is long enough for a busy machine.
pub(crate) async fn patient() -> Node {
    Node::wish(Wish { resolve_timeout: SOON, ..Wish::default() }).await
}

/// An address at which nothing listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// An address that answers no packet. The kernel drops the first packet of each connection to a listener
/// whose queue is full, as a firewall does.
pub(crate) struct Swallowing {
    pub(crate) address: SocketAddr,
    _listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl Swallowing {
    pub(crate) fn start() -> Self {
        let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while queued.len() < 100 {
            let client = socket();
            if client.connect_timeout(&address.into(), Duration::from_millis(50)).is_err() {
                return Self { address, _listener: listener, _queued: queued };
            }
            queued.push(client);
        }
        panic!("the queue of a listener is never full");
    }
}

/// What a raw peer does after its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Close,
    Reset,
    /// Stays silent until the other side closes.
    Hang,
    /// Holds back this many of its last bytes for a while, then sends them and closes.
    Later(Duration, usize),
    /// Sends this again and again, until the other side closes.
    Repeat(&'static [u8]),
}

/// Computes the bytes that a raw peer sends for the text of a request.
type Answer = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// A peer that answers every request with the same bytes, unless it is [`RawPeer::holding`] a blob.
pub(crate) struct RawPeer {
    pub(crate) address: SocketAddr,
    /// Requests that it received, as text.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    /// Number of connections that the other side has not closed.
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

    /// A peer that serves this blob properly, including ranges without an end.
    pub(crate) async fn holding(body: &[u8]) -> Self {
        let body = body.to_vec();
        let answer = move |request: &str| {
            let line = request
                .to_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-').map(str::to_owned));
            let start = line.map_or(0, |start| start.parse().unwrap());
            let (length, total) = (body.len() - start, body.len());
            let (status, range) = match start {
                0 => ("200 OK", String::new()),
                _ => {
                    ("206 Partial Content", format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1))
                }
            };
            let head = format!("HTTP/1.1 {status}\r\n{range}Content-Length: {length}\r\n\r\n");
            with_head(&head, &body[start..])
        };
        Self::answering(Arc::new(answer), End::Close, Duration::ZERO).await
    }

    /// A peer that answers `200` with a `Content-Length`, and a body that may have another length.
    pub(crate) async fn ok(length: usize, body: &[u8], end: End) -> Self {
        Self::start(with_head(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"), body), end)
            .await
    }

    /// A peer that answers after `pause`.
    pub(crate) async fn paused(answer: Vec<u8>, end: End, pause: Duration) -> Self {
        Self::answering(Arc::new(move |_: &str| answer.clone()), end, pause).await
    }

    async fn answering(answer: Answer, end: End, pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, open, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default(), Stop::new());
        let peer =
            Self { address, requests: Arc::clone(&requests), open: Arc::clone(&open), stop: stop.clone() };
        let tasks = TaskTracker::new();
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

    /// A peer that answers properly, but after `pause`.
    pub(crate) async fn slow(pause: Duration, body: &[u8]) -> Self {
        let answer = with_head(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()), body);
        Self::paused(answer, End::Close, pause).await
    }

    /// A peer that answers properly and at once, but sends the second half of the body after `pause`.
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
    answer: &Answer,
    pause: Duration,
    end: End,
) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let answer = answer(&request);
    requests.lock().unwrap().push(request);
    tokio::time::sleep(pause).await;
    let (now, later) = match end {
        End::Later(_, count) => answer.split_at(answer.len() - count),
        _ => (&answer[..], &[][..]),
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
            // Bytes that were sent should arrive before the reset discards them.
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

/// A response as a client saw it.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// How the connection ended.
    pub(crate) end: Result<(), io::ErrorKind>,
}

impl Got {
    /// Parses everything that a connection has sent.
    pub(crate) fn parse(bytes: &[u8], end: Result<(), io::ErrorKind>) -> Self {
        let split = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head, body: bytes[split..].to_vec(), end }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Whether the whole body that the head promises has arrived, and the connection ended cleanly.
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

/// Sends one request on a connection of its own.
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
    Got::parse(&bytes, end)
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
