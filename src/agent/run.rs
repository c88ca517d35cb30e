//! Builds an agent, serves its three ports, and stops it in order.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;

use super::address::own::OwnAddress;
use super::address::{self, AdvertiseError, Listens, Seeker, Selection};
use super::content::buffer_pool::BufferPool;
use super::content::ingest_scrub::IngestScrubber;
use super::content::local::Local;
use super::content::store::containerd::ContainerdStore;
use super::content::store::layout::LayoutStore;
use super::content::store::{Store, StoreError};
use super::content::verifier::Verifier;
use super::counters::Counters;
use super::discovery::holder_reports;
use super::discovery::home_cluster::HomeCluster;
use super::discovery::{HolderLookup, Lookup, Servers};
use super::fetch::{self, Fetcher};
use super::health::{self, Health};
use super::inventory::{self, Inventory};
use super::notices::Notices;
use super::origin::{self, OriginError, Origins};
use super::policy::{self, Policies};
use super::serve::blob_server::BlobServer;
use super::serve::mirror;
use super::serve::mirror_bypass;
use super::serve::uploads::Uploads;
use super::state_dir::{InUse, Owner, StateDir};
use super::{Config, StoreConfig};
use crate::api::client::{Client, ClientError};
use crate::clock::SystemClock;
use crate::http::{self, BindError, ConnectionLimits};
use crate::limits::{DRAIN_TIMEOUT, PROBE_CONNECTIONS_MAX, STATE_DIR_LOCK_RETRY, STATE_DIR_LOCK_WAIT};
use crate::task::{Stop, TaskError, Tasks};

/// Time for everything else to stop, beyond that of requests in flight.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// Addresses of a started agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Address of the mirror.
    pub mirror: SocketAddr,
    /// Listening address of the blob server.
    pub peer: SocketAddr,
    /// Address of the port for Prometheus and probes.
    pub metrics: SocketAddr,
    /// Address that peers are given for the blob server; `None` if it is not known yet.
    pub advertise: Option<SocketAddr>,
}

/// Why an agent could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener has no local address.
    #[error("could not read the address of a listener")]
    Listener(#[source] std::io::Error),
    /// The list of servers cannot be used.
    #[error(transparent)]
    Servers(#[from] ClientError),
    /// The image store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The table of a registry cannot be used.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// Another agent uses the folder of `--state-dir`.
    #[error(transparent)]
    StateDir(#[from] InUse),
    /// The address of this node cannot be used.
    #[error(transparent)]
    Advertise(#[from] AdvertiseError),
    /// A task ended that should have gone on.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// The open ports of an agent. Another process may hold the same sockets: each connection goes to one of the
/// processes that accept.
#[derive(Debug)]
pub struct Listeners {
    /// Listener of the mirror.
    pub mirror: TcpListener,
    /// Listener of the blob server.
    pub peer: TcpListener,
    /// Listener for Prometheus and probes.
    pub metrics: TcpListener,
}

/// Opens the ports of `config` and runs an agent on them as [`run_on`] does.
///
/// # Errors
/// A configuration or port that cannot be used; after the start only a defect.
pub async fn run(config: Config, stop: Stop, ready: impl FnOnce(Addresses) + Send) -> Result<(), Error> {
    let listeners = Listeners::bind(config.mirror_listen, config.peer_listen, config.metrics_listen).await?;
    run_on(listeners, config, stop, ready).await
}

/// Runs an agent until `stop`, then gives requests in flight up to [`DRAIN_TIMEOUT`] to end. Calls `ready`
/// once, when all three ports are served.
///
/// # Errors
/// A configuration that cannot be used; after the start only a defect.
pub async fn run_on(
    listeners: Listeners,
    config: Config,
    stop: Stop,
    ready: impl FnOnce(Addresses) + Send,
) -> Result<(), Error> {
    let Config {
        servers,
        group,
        mirror_listen: _,
        peer_listen: _,
        advertise,
        advertise_among,
        metrics_listen: _,
        store,
        zone,
        resolve_timeout,
        uploads_max,
        upload_bytes_per_second,
        heartbeat_interval,
        state_dir,
        supervisor,
        certs_dirs,
        registries,
    } = config;
    let notices = Notices::default();
    let state = open_state_dir(&state_dir, Owner::of(supervisor), &notices).await?;
    let client = Client::new(servers)?;
    client.begin_at(rand::random_range(..usize::MAX));
    let policies = Arc::new(Policies::new(registries));
    let opened = open(&store, &notices)?;
    let origins = Origins::new(origin::Config {
        policies: Arc::clone(&policies),
        notices: notices.clone(),
        certs_dirs,
        store: Arc::clone(&opened),
        socket: store.socket(),
        own: listeners.mirror.local_addr().ok(),
        environment: origin::environment(),
    })?;
    let store = policy::guarded(opened, &policies);

    let (own, following) = own_address(&listeners, advertise, advertise_among, &client, &notices).await?;
    let addresses = listeners.addresses(own.now())?;

    let counters = Arc::<Counters>::default();
    let home_cluster = HomeCluster::new(client.clone(), notices.clone());
    let pool = BufferPool::default();
    let (reporter, reports) = holder_reports::channel(client.clone(), own.clone(), group.clone());
    let lookup: Arc<dyn Lookup> =
        Arc::new(Servers { client: client.clone(), group: group.clone(), own: own.clone() });
    let discovery = Arc::new(HolderLookup::new(lookup));
    let scrubber = IngestScrubber::new(Arc::clone(&store), pool.clone());
    let fetcher = Arc::new(Fetcher::new(fetch::Config {
        discovery: Arc::clone(&discovery),
        store: Arc::clone(&store),
        pool: pool.clone(),
        reporter,
        scrubber: scrubber.clone(),
        state: state.clone(),
        notices: notices.clone(),
        stop: stop.clone(),
    }));
    // Uploads that still run at the end wait for the check of what they send.
    let checks_stop = Stop::new();
    let verifier = Verifier::new(pool.clone(), checks_stop.clone());
    verifier.recall(&state);
    let local = Local::new(Arc::clone(&store), verifier.clone(), pool.clone());
    let (seen, seen_events) = mirror_bypass::channel();
    let bypass = mirror_bypass::BypassWatch {
        store: Arc::clone(&store),
        policies: Arc::clone(&policies),
        counters: Arc::clone(&counters),
        notices: notices.clone(),
    };
    let inventory = inventory(
        &store,
        client.clone(),
        (own, group, zone),
        heartbeat_interval,
        (&policies, &counters, Box::new(seen)),
    );
    let blob_server = BlobServer {
        local: local.clone(),
        uploads: Uploads::new(uploads_max, upload_bytes_per_second),
        policies: Arc::clone(&policies),
        counters: Arc::clone(&counters),
    };
    let health = Health { inventory: inventory.state(), discovery: Arc::clone(&discovery), notices };
    let mirror = mirror::router(mirror::Config {
        local,
        fetcher: Arc::clone(&fetcher),
        discovery: Arc::clone(&discovery),
        origins,
        policies,
        counters,
        pool,
        resolve_timeout,
    });

    describe_metrics();
    let metrics = crate::metrics::install();
    // Peers count as reachable until one was asked in vain.
    ::metrics::gauge!("piccolo_peers_reachable").set(1.0);
    let mut tasks = Tasks::new(stop);
    let stop = tasks.stop().clone();
    let limits = ConnectionLimits::default();
    let probes = ConnectionLimits { connections_max: PROBE_CONNECTIONS_MAX, ..limits };
    serve(&mut tasks, "mirror", listeners.mirror, mirror, limits);
    let (peer_stop, blob_server) = (stop.clone(), Arc::new(blob_server));
    tasks.spawn(
        "blob server",
        http::serve_on_threads(listeners.peer, "peers", blob_server, limits, peer_stop),
    );
    serve(&mut tasks, "probes", listeners.metrics, health::router(health, metrics.clone()), probes);
    tasks.spawn("metrics upkeep", crate::metrics::upkeep(metrics, stop.clone()));
    if let Some(following) = following {
        tasks.spawn("own address", following.run(stop.clone()));
    }
    let (far, far_stop) = (client.clone(), stop.clone());
    tasks.spawn("kept connection", async move {
        far_stop.run_until_cancelled(far.keep_connection()).await;
        Ok::<(), Infallible>(())
    });
    let (index, home_cluster_stop) = (inventory.clone(), stop.clone());
    tasks.spawn("cluster", home_cluster.run(move |why| index.begin_anew(why), home_cluster_stop));
    let breaker_stop = stop.clone();
    tasks.spawn("breaker", async move { discovery.watch(breaker_stop).await });
    let reports_stop = stop.clone();
    tasks.spawn("reports", async move { reports.run(reports_stop).await });
    tasks.spawn("mirror bypass", bypass.run(seen_events, stop.clone()));
    tasks.spawn("ingest scrub", scrubber.run(stop.clone()));
    tasks.spawn("state folder", state.clone().watch(stop.clone()));
    tasks.spawn("verdicts", verifier.keep(state, stop.clone()));
    tasks.spawn("inventory", async move { inventory.run(stop).await });
    ready(addresses);
    let ended = tasks.run(DRAIN_TIMEOUT + STOP_MARGIN).await;
    checks_stop.cancel();
    fetcher.finish().await;
    Ok(ended?)
}

/// Opens the folder of `--state-dir`. Workers of a supervisor that was killed end a moment after it.
async fn open_state_dir(path: &Path, owner: Owner, notices: &Notices) -> Result<StateDir, InUse> {
    let deadline = Instant::now() + STATE_DIR_LOCK_WAIT;
    loop {
        match StateDir::open(path, owner, notices) {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(STATE_DIR_LOCK_RETRY).await,
            opened => return opened,
        }
    }
}

/// The address that peers are given, and the task that follows it unless it is fixed.
async fn own_address(
    listeners: &Listeners,
    given: Option<SocketAddr>,
    among: Selection,
    client: &Client,
    notices: &Notices,
) -> Result<(OwnAddress, Option<address::Following>), Error> {
    let listens = Listens::of(&listeners.peer).map_err(Error::Listener)?;
    if let Some(fixed) = address::fixed(given, listens)? {
        return Ok((fixed.into(), None));
    }
    let seeker = Seeker::new(client.servers().to_vec(), listens, among);
    let (own, following) = address::begin(Box::new(seeker), notices.clone()).await;
    Ok((own, Some(following)))
}

fn open(store: &StoreConfig, notices: &Notices) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match store {
        StoreConfig::Containerd { socket, namespace, content_path } => {
            Arc::new(ContainerdStore::new(socket, namespace, content_path.clone())?.noticing(notices))
        }
        StoreConfig::Layout { folder } => Arc::new(LayoutStore::new(folder).noticing(notices)),
    })
}

fn inventory(
    store: &Arc<dyn Store>,
    client: Client,
    (holder, group, zone): (OwnAddress, String, String),
    heartbeat_interval: Duration,
    (policies, counters, seen): (&Arc<Policies>, &Arc<Counters>, inventory::Seen),
) -> Inventory {
    let policies = Arc::clone(policies);
    let config = inventory::Config {
        holder,
        group,
        zone,
        heartbeat_interval,
        advertises_tag: Box::new(move |name| policies.advertises_tag(name)),
        counters: Arc::clone(counters),
        seen,
    };
    Inventory::new(Arc::clone(store), Arc::new(client), &SystemClock::shared(), config)
}

impl Listeners {
    /// Opens the three ports.
    ///
    /// # Errors
    /// A port that is not available, with the process that holds it.
    pub async fn bind(mirror: SocketAddr, peer: SocketAddr, metrics: SocketAddr) -> Result<Self, BindError> {
        Ok(Self {
            mirror: http::bind(mirror, "the mirror (--mirror-listen)").await?,
            peer: http::bind(peer, "peers (--peer-listen)").await?,
            metrics: http::bind(metrics, "metrics and probes (--metrics-listen)").await?,
        })
    }

    fn addresses(&self, advertise: Option<SocketAddr>) -> Result<Addresses, Error> {
        Ok(Addresses {
            mirror: self.mirror.local_addr().map_err(Error::Listener)?,
            peer: self.peer.local_addr().map_err(Error::Listener)?,
            metrics: self.metrics.local_addr().map_err(Error::Listener)?,
            advertise,
        })
    }
}

fn serve(
    tasks: &mut Tasks,
    name: &'static str,
    listener: TcpListener,
    router: axum::Router,
    limits: ConnectionLimits,
) {
    let stop = tasks.stop().clone();
    tasks.spawn(name, async move {
        http::serve(listener, router, limits, stop).await;
        Ok::<(), Infallible>(())
    });
}

fn describe_metrics() {
    use ::metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!("piccolo_mirror_requests_total", "Requests of containerd by their outcome.");
    describe_counter!("piccolo_bytes_from_peers_total", "Bytes that containerd had from peers.");
    describe_counter!("piccolo_bytes_served_total", "Bytes that peers had from this node.");
    describe_counter!(
        "piccolo_origin_probes_total",
        "Probes whether the registry of a tag answers, by their outcome."
    );
    describe_counter!("piccolo_peer_attempts_total", "Requests to peers by their outcome.");
    describe_counter!("piccolo_reports_total", "Reports of holders by reason and outcome.");
    describe_gauge!("http_requests_blob_inflight", "Uploads to peers that are running.");
    describe_gauge!("piccolo_peers_reachable", "0 while no peer that is asked answers.");
    describe_gauge!("piccolo_discovery_reachable", "1 while the mirror asks the discovery servers.");
    describe_histogram!("piccolo_resolve_duration_seconds", "Time until the headers of the mirror's answer.");
}
