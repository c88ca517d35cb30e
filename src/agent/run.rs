//! Puts an agent together, serves its three ports, and takes it down in order.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::advertise::{self, AdvertiseError};
use super::blob_server::BlobServer;
use super::buffers::BufferPool;
use super::counters::Counters;
use super::discovery::{Discovery, Lookup, Servers};
use super::fetch::Fetcher;
use super::heal::Healer;
use super::health::{self, Health};
use super::inventory::{self, Inventory};
use super::local::Local;
use super::mirror::{self, Mirror};
use super::origin::{OriginError, Origins};
use super::policy::{self, Policies};
use super::report;
use super::store::containerd::ContainerdStore;
use super::store::layout::LayoutStore;
use super::store::{Store, StoreError};
use super::uploads::Uploads;
use super::verified::Verifier;
use super::{Config, StoreConfig};
use crate::api::client::{Client, ClientError};
use crate::clock::SystemClock;
use crate::http::{self, BindError, ConnectionLimits};
use crate::limits::{DRAIN_TIMEOUT, PROBE_CONNECTIONS_MAX};
use crate::task::{Stop, TaskError, Tasks};

/// Beyond the time that requests in flight have, for everything else to stop.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// Where a started agent can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// By containerd.
    pub mirror: SocketAddr,
    /// By peers, as the socket sees it.
    pub peer: SocketAddr,
    /// By Prometheus and probes.
    pub metrics: SocketAddr,
    /// By peers, as they are told.
    pub advertise: SocketAddr,
}

/// Why an agent could not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener without a local address.
    #[error("could not read the address of a listener")]
    Listener(#[source] std::io::Error),
    /// The list of servers.
    #[error(transparent)]
    Servers(#[from] ClientError),
    /// The image store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table of a registry.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The own address.
    #[error(transparent)]
    Advertise(#[from] AdvertiseError),
    /// Something that should have gone on.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// The open ports of an agent. They may be another process's too: of those that accept, each
/// connection goes to one.
#[derive(Debug)]
pub struct Listeners {
    /// For containerd.
    pub mirror: TcpListener,
    /// For peers.
    pub peer: TcpListener,
    /// For Prometheus and probes.
    pub metrics: TcpListener,
}

/// Opens the ports of `config` and runs an agent on them: see [`run_on`].
///
/// # Errors
/// What is wrong with the configuration or the ports; later only a defect.
pub async fn run(config: Config, stop: Stop, ready: impl FnOnce(Addresses) + Send) -> Result<(), Error> {
    let listeners = Listeners::bind(config.mirror_listen, config.peer_listen, config.metrics_listen).await?;
    run_on(listeners, config, stop, ready).await
}

/// Runs an agent until `stop`, then lets requests in flight end for up to [`DRAIN_TIMEOUT`].
/// `ready` is called once, when all three ports are served.
///
/// # Errors
/// What is wrong with the configuration; later only a defect.
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
        metrics_listen: _,
        store,
        zone,
        resolve_timeout,
        uploads_max,
        upload_bytes_per_second,
        heartbeat_interval,
        registries,
    } = config;
    let client = Client::new(servers)?;
    client.begin_at(rand::random_range(..usize::MAX));
    let policies = Arc::new(Policies::new(registries));
    let origins = Origins::new(Arc::clone(&policies))?;
    let store = policy::guarded(open(&store)?, &policies);

    let advertise = advertise::address(advertise, listeners.peer_address()?, client.servers()).await?;
    let addresses = listeners.addresses(advertise)?;

    let counters = Arc::<Counters>::default();
    let pool = BufferPool::default();
    let (reporter, reports) = report::channel(client.clone(), advertise, group.clone());
    let lookup: Arc<dyn Lookup> =
        Arc::new(Servers { client: client.clone(), group: group.clone(), advertise });
    let discovery = Arc::new(Discovery::new(lookup));
    let healer = Healer::new(Arc::clone(&store), pool.clone());
    let helpers = (reporter, healer.clone());
    let fetcher =
        Fetcher::new(Arc::clone(&discovery), Arc::clone(&store), pool.clone(), helpers, stop.clone());
    let fetcher = Arc::new(fetcher);
    // Uploads that run at the end still wait for the check of what they send.
    let checks_stop = Stop::new();
    let verifier = Verifier::new(pool.clone(), checks_stop.clone());
    let local = Local::new(Arc::clone(&store), verifier, pool.clone());
    let inventory =
        inventory(&store, client, (advertise, group, zone), heartbeat_interval, &policies, &counters);
    let blob_server = BlobServer {
        local: local.clone(),
        uploads: Uploads::new(uploads_max, upload_bytes_per_second),
        policies: Arc::clone(&policies),
        counters: Arc::clone(&counters),
    };
    let health = Health { inventory: inventory.state(), discovery: Arc::clone(&discovery) };
    let mirror = Mirror {
        local,
        fetcher: Arc::clone(&fetcher),
        discovery: Arc::clone(&discovery),
        origins,
        policies,
        counters,
        pool,
        resolve_timeout,
    };

    describe_metrics();
    let metrics = crate::metrics::install();
    let mut tasks = Tasks::new(stop);
    let stop = tasks.stop().clone();
    let limits = ConnectionLimits::default();
    let probes = ConnectionLimits { connections_max: PROBE_CONNECTIONS_MAX, ..limits };
    serve(&mut tasks, "mirror", listeners.mirror, mirror::router(Arc::new(mirror)), limits);
    let (peer_stop, blob_server) = (stop.clone(), Arc::new(blob_server));
    tasks.spawn(
        "blob server",
        http::serve_on_threads(listeners.peer, "peers", blob_server, limits, peer_stop),
    );
    serve(&mut tasks, "probes", listeners.metrics, health::router(health, metrics.clone()), probes);
    tasks.spawn("metrics upkeep", crate::metrics::upkeep(metrics, stop.clone()));
    let breaker_stop = stop.clone();
    tasks.spawn("breaker", async move { discovery.watch(breaker_stop).await });
    let reports_stop = stop.clone();
    tasks.spawn("reports", async move { reports.run(reports_stop).await });
    tasks.spawn("healer", healer.run(stop.clone()));
    tasks.spawn("inventory", async move { inventory.run(stop).await });
    ready(addresses);
    let ended = tasks.run(DRAIN_TIMEOUT + STOP_MARGIN).await;
    checks_stop.cancel();
    fetcher.finish().await;
    Ok(ended?)
}

fn open(store: &StoreConfig) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match store {
        StoreConfig::Containerd { socket, namespace, content_path } => {
            Arc::new(ContainerdStore::new(socket, namespace, content_path.clone())?)
        }
        StoreConfig::Layout { folder } => Arc::new(LayoutStore::new(folder)),
    })
}

fn inventory(
    store: &Arc<dyn Store>,
    client: Client,
    (holder, group, zone): (SocketAddr, String, String),
    heartbeat_interval: Duration,
    policies: &Arc<Policies>,
    counters: &Arc<Counters>,
) -> Inventory {
    let policies = Arc::clone(policies);
    let config = inventory::Config {
        holder,
        group,
        zone,
        heartbeat_interval,
        advertises_tag: Box::new(move |name| policies.advertises_tag(name)),
        counters: Arc::clone(counters),
    };
    Inventory::new(Arc::clone(store), Arc::new(client), &SystemClock::shared(), config)
}

impl Listeners {
    /// Opens them.
    ///
    /// # Errors
    /// A port that is not to be had, and who has it.
    pub async fn bind(mirror: SocketAddr, peer: SocketAddr, metrics: SocketAddr) -> Result<Self, BindError> {
        Ok(Self {
            mirror: http::bind(mirror, "the mirror (--mirror-listen)").await?,
            peer: http::bind(peer, "peers (--peer-listen)").await?,
            metrics: http::bind(metrics, "metrics and probes (--metrics-listen)").await?,
        })
    }

    fn peer_address(&self) -> Result<SocketAddr, Error> {
        self.peer.local_addr().map_err(Error::Listener)
    }

    fn addresses(&self, advertise: SocketAddr) -> Result<Addresses, Error> {
        Ok(Addresses {
            mirror: self.mirror.local_addr().map_err(Error::Listener)?,
            peer: self.peer_address()?,
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
    describe_counter!("piccolo_peer_attempts_total", "Requests to peers by their outcome.");
    describe_counter!("piccolo_reports_total", "Reports of holders by reason and outcome.");
    describe_gauge!("http_requests_blob_inflight", "Uploads to peers that are running.");
    describe_gauge!("piccolo_discovery_reachable", "1 while the mirror asks the discovery servers.");
    describe_histogram!("piccolo_resolve_duration_seconds", "Time until the headers of the mirror's answer.");
}
