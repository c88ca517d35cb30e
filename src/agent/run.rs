//! Builds an agent, serves its three ports, and stops it in order.

mod build;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use super::Config;
use super::address::AdvertiseError;
use super::content::store::StoreError;
use super::health;
use super::origin::OriginError;
use super::state_dir::InUse;
use crate::api::client::ClientError;
use crate::http::{self, BindError, ConnectionLimits};
use crate::limits::{AGENT_STOP_MARGIN, DRAIN_TIMEOUT, PROBE_CONNECTIONS_MAX};
use crate::task::{Stop, TaskError, Tasks};
use build::{Background, Built, Ports};

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
    let Built { addresses, ports, background, fetcher, checks_stop } =
        build::agent(&listeners, config, &stop).await?;
    describe_metrics();
    let metrics = crate::metrics::install();
    // Peers count as reachable until one was asked in vain.
    ::metrics::gauge!("piccolo_peers_reachable").set(1.0);
    let mut tasks = Tasks::new(stop);
    ports.serve(listeners, metrics, &mut tasks);
    background.spawn(&mut tasks);
    ready(addresses);
    let ended = tasks.run(DRAIN_TIMEOUT + AGENT_STOP_MARGIN).await;
    checks_stop.cancel();
    fetcher.finish().await;
    Ok(ended?)
}

impl Ports {
    fn serve(self, listeners: Listeners, metrics: PrometheusHandle, tasks: &mut Tasks) {
        let Self { mirror, blob_server, health } = self;
        let stop = tasks.stop().clone();
        let limits = ConnectionLimits::default();
        let probes = ConnectionLimits { connections_max: PROBE_CONNECTIONS_MAX, ..limits };
        tasks.spawn("mirror", serve(listeners.mirror, mirror, limits, stop.clone()));
        let blob_server = Arc::new(blob_server);
        tasks.spawn(
            "blob server",
            http::serve_on_threads(listeners.peer, "peers", blob_server, limits, stop.clone()),
        );
        let health = health::router(health, metrics.clone());
        tasks.spawn("probes", serve(listeners.metrics, health, probes, stop.clone()));
        tasks.spawn("metrics upkeep", crate::metrics::upkeep(metrics, stop));
    }
}

impl Background {
    fn spawn(self, tasks: &mut Tasks) {
        let Self {
            following,
            client,
            home_cluster,
            discovery,
            reports,
            bypass,
            store_events,
            scrubber,
            verifier,
            state,
            inventory,
            progress,
        } = self;
        let stop = tasks.stop().clone();
        if let Some(following) = following {
            tasks.spawn("own address", following.run(stop.clone()));
        }
        let far_stop = stop.clone();
        tasks.spawn("kept connection", async move {
            far_stop.run_until_cancelled(client.keep_connection()).await;
            Ok::<(), Infallible>(())
        });
        let (index, home_cluster_stop) = (inventory.clone(), stop.clone());
        tasks.spawn("cluster", home_cluster.run(move |why| index.begin_anew(why), home_cluster_stop));
        let breaker_stop = stop.clone();
        tasks.spawn("breaker", async move { discovery.watch(breaker_stop).await });
        let reports_stop = stop.clone();
        tasks.spawn("reports", async move { reports.run(reports_stop).await });
        tasks.spawn("mirror bypass", bypass.run(store_events, stop.clone()));
        tasks.spawn("ingest scrub", scrubber.run(stop.clone()));
        tasks.spawn("state folder", state.clone().watch(stop.clone()));
        tasks.spawn("verdicts", verifier.keep(state, stop.clone()));
        tasks.spawn("flights", progress.run(stop.clone()));
        tasks.spawn("inventory", async move { inventory.run(stop).await });
    }
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

async fn serve(
    listener: TcpListener,
    router: axum::Router,
    limits: ConnectionLimits,
    stop: Stop,
) -> Result<(), Infallible> {
    http::serve(listener, router, limits, stop).await;
    Ok(())
}

fn describe_metrics() {
    use ::metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!("piccolo_mirror_requests_total", "Requests of containerd by their outcome.");
    describe_counter!("piccolo_bytes_from_peers_total", "Bytes that containerd had from peers.");
    describe_counter!(
        "piccolo_bytes_served_incomplete_total",
        "Bytes that peers had from this node while content was still arriving here."
    );
    describe_counter!("piccolo_flight_events_total", "What happened in this node's flights, by event.");
    describe_gauge!("piccolo_flights", "Content that this node shares while it is still arriving.");
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
