//! Agents and peers in this process, for tests: real sockets, servers that are a map, and peers that
//! misbehave on demand.

mod client;
mod raw_peer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
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
use super::discovery::{FlightFound, FlightOffer, FlightQuestion, HolderLookup, Lookup, LookupError};
use super::fetch::{self, Fetcher};
use super::flight::progress::{Progress, ProgressSink};
use super::flight::table::Flights;
use super::notices::Notices;
use super::origin::{self, Origins};
use super::policy::{self, Policies};
use super::serve::blob_server::BlobServer;
use super::serve::mirror;
use super::serve::uploads::Uploads;
use super::state_dir::StateDir;
use crate::api::ReportRequest;
use crate::api::client::{Client, ClientError};
use crate::api::flight::{FlightsRequest, FlightsResponse};
use crate::http::{self, ConnectionLimits};
use crate::oci::Digest;
use crate::proxies::Proxies;
use crate::task::Stop;
pub(crate) use client::{Got, get, get_range, request};
pub(crate) use raw_peer::{End, RawPeer, with_head};

/// Deadline of what should happen soon, on a machine that others keep busy.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Discovery servers that are a map.
#[derive(Default)]
pub(crate) struct FakeServers {
    holders: Mutex<BTreeMap<String, Vec<SocketAddr>>>,
    /// What they say of flights; without an entry they know none.
    flights: Mutex<BTreeMap<String, FlightOffer>>,
    /// What nodes said of themselves that asked for flights.
    pub(crate) flight_questions: Mutex<Vec<FlightQuestion>>,
    pub(crate) down: AtomicBool,
    pub(crate) asked: AtomicUsize,
    /// Reports of holders that they received.
    pub(crate) reports: Mutex<Vec<ReportRequest>>,
    /// Attempts whose bytes nodes have found to be wrong: key and number of each.
    pub(crate) wrong: Mutex<Vec<(String, u64)>>,
}

impl ProgressSink for Arc<FakeServers> {
    fn say<'a>(&'a self, said: &'a FlightsRequest) -> BoxFuture<'a, Result<FlightsResponse, ClientError>> {
        for flight in &said.flights {
            let Some(attempt) = flight.wrong_attempt else { continue };
            self.wrong.lock().unwrap().push((flight.key.clone(), attempt));
            if let Some(offer) = self.flights.lock().unwrap().get_mut(&flight.key) {
                offer.attempt = offer.attempt.max(attempt + 1);
            }
        }
        Box::pin(std::future::ready(Ok(FlightsResponse::default())))
    }
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

    /// From now on they say this of the flight of `key`.
    pub(crate) fn fly(&self, key: impl ToString, offer: FlightOffer) {
        self.flights.lock().unwrap().insert(key.to_string(), offer);
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

    fn find_for_flight<'a>(
        &'a self,
        key: &'a str,
        count: usize,
        question: FlightQuestion,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<FlightFound, LookupError>> {
        Box::pin(async move {
            self.flight_questions.lock().unwrap().push(question);
            let holders = self.find(key, count, deadline).await?;
            let flight = self.flights.lock().unwrap().get(key).cloned();
            Ok(FlightFound { holders, flight })
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
    pub(crate) flights: Arc<Flights>,
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
        let peer_listener = listener().await;
        let own = peer_listener.local_addr().unwrap();
        let flights = Arc::new(Flights::new(own.into(), String::new()));
        let blob_server = BlobServer {
            local: local.clone(),
            uploads: Uploads::new(wish.uploads_max, wish.upload_bytes_per_second),
            policies: Arc::clone(&policies),
            counters: Arc::clone(&counters),
            flights: Arc::clone(&flights),
            pool: pool.clone(),
            scrubber: IngestScrubber::new(Arc::clone(&dyn_store), pool.clone()),
        };
        let (reporter, reports) =
            holder_reports::channel(Arc::clone(&servers), own.into(), "default".to_owned());
        let reports_stop = stop.clone();
        tasks.spawn(async move { reports.run(reports_stop).await });
        let scrubber = IngestScrubber::new(Arc::clone(&dyn_store), pool.clone());
        let mirror = mirror::router(mirror::Config {
            local,
            fetcher: Arc::new(Fetcher::new(fetch::Config {
                discovery: Arc::clone(&discovery),
                store: Arc::clone(&dyn_store),
                pool: pool.clone(),
                reporter,
                scrubber,
                state: wish.state.unwrap_or_else(|| StateDir::on_disk(folder.path())),
                notices: notices.clone(),
                flights: Arc::clone(&flights),
                policies: Arc::clone(&policies),
                stop: stop.clone(),
            })),
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
        });
        let sink = Arc::new(Arc::clone(&servers)) as Arc<dyn ProgressSink>;
        tasks.spawn(Progress::new(Arc::clone(&flights), sink, "default".to_owned()).run(stop.clone()));
        let watch_stop = stop.clone();
        tasks.spawn(async move { discovery.watch(watch_stop).await });
        let mirror = serve(listener().await, mirror, wish.connections, &tasks, &stop);
        let peer = serve(peer_listener, Arc::new(blob_server), wish.connections, &tasks, &stop);
        let (_tasks, _folder) = (tasks, folder);
        Self { store, servers, mirror, peer, counters, notices, flights, stop, _tasks, _folder }
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

async fn listener() -> TcpListener {
    http::bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap()
}

fn serve(
    listener: TcpListener,
    answers: impl http::Answer,
    connections: ConnectionLimits,
    tasks: &TaskTracker,
    stop: &Stop,
) -> SocketAddr {
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
