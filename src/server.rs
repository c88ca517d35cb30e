//! A discovery server: the API over the replicated index.
//!
//! [`startup`] finds addresses and opens the node. Each endpoint has its file in [`endpoints`], whose routes lead to
//! it; [`requests`] reads what clients send. A lookup is answered from the index at once ([`lookups`],
//! [`endpoints::findkey`], [`ranking`]). Writes go through [`writes`], and to the leader by [`cluster::forward`].
//! Keepalives renew [`leases`] in the leader's memory; [`leases::task`] proposes what follows when one ends. What
//! nodes report of holders ([`reports`]) changes the order of answers for a while.

pub mod app;
pub mod cluster;
pub mod endpoints;
pub mod error;
pub mod leases;
pub mod lookups;
pub mod ranking;
pub mod reports;
pub mod requests;
pub mod startup;
pub mod writes;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
pub use piccolo_raft::cluster::FOUND_AFTER;
use piccolo_raft::cluster::{Node, NodeFailure, NodeNames, StartError};
use piccolo_raft::disk::{Disk, Fault, FolderDisk};
use piccolo_raft::network::names::SystemResolver;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::clock::SystemClock;
use crate::http::{self, BindError, ConnectionLimits, Known};
use crate::limits::{
    DRAIN_TIMEOUT, RAFT_CONNECTIONS_MAX, RAFT_CONNECTIONS_OVER_LIMIT_MAX, RAFT_DRAIN_TIMEOUT,
    RAFT_SERVER_CONNECTIONS_MAX, SERVER_CONNECTIONS_MAX,
};
use crate::task::{Stop, TaskError, Tasks};
use app::{App, Shared};
use cluster::behind;
use cluster::server_addresses::{self, Servers};
use endpoints::report;
use leases::Leases;
use lookups::Endpoints;
use requests::accepted::HolderPolicy;
use startup::addresses::{self, AddressError, Stored};
use startup::api_port::ApiPorts;
use startup::raft_threads::RaftThreads;
use startup::waiting::{Binding, Naming, Waiting};

pub use startup::offline;

/// Time that tasks have to end once everything is drained.
const TASKS_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that a server can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its data folder.
    pub data_dir: PathBuf,
    /// Where agents ask.
    pub listen: SocketAddr,
    /// Where the other servers ask. Absent: the port of this node's entry in `cluster` on all
    /// addresses, or 127.0.0.1:7790 for a cluster of one.
    pub raft_listen: Option<SocketAddr>,
    /// Host of the API address in the membership. Absent: the host of its entry in `cluster`.
    pub advertise: Option<String>,
    /// The raft addresses of all members, `host:port`; empty: a cluster of one.
    pub cluster: Vec<String>,
    /// Raft address of a member of the cluster to wait for; a server without data founds none then.
    pub join: Option<String>,
    /// Allows raft in the clear on other than loopback, and changes of the membership from there.
    pub insecure: bool,
    /// Lease of clients that name none (Go `pi`).
    pub lease_default: Duration,
    /// How long a hidden holder's inventory is kept.
    pub forget_after: Duration,
    /// Without data and others it listens for so long before it founds a cluster.
    pub found_after: Duration,
    /// With less free bytes in its data folder it stores nothing more; 0: it does not look. Absent: what
    /// fits the disk.
    pub disk_free_min: Option<u64>,
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Discovery API.
    pub api: SocketAddr,
    /// Raft RPC.
    pub raft: SocketAddr,
}

/// Why a server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its addresses do not fit together.
    #[error(transparent)]
    Addresses(#[from] AddressError),
    /// A port cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener has no address.
    #[error("could not read the address of a listener")]
    Listener(#[source] io::Error),
    /// The system gives no threads.
    #[error("could not start the threads of raft")]
    Threads(#[source] io::Error),
    /// The data folder cannot be had.
    #[error("could not open data folder {}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The node did not start.
    #[error("could not start in data folder {}", folder.display())]
    Start {
        /// Its data.
        folder: PathBuf,
        /// Why.
        #[source]
        source: StartError,
    },
    /// Raft or the storage failed: a supervisor starts the process again.
    #[error("the replicated index failed: {reason}")]
    Failed {
        /// What it said.
        reason: String,
    },
    /// The disk is broken or full: a supervisor starts the process again, until somebody has helped.
    #[error("{reason}")]
    Disk {
        /// Which file, why, and what to do.
        reason: String,
    },
    /// The other servers have removed this one: it does not start again with this data.
    #[error("{reason}")]
    Removed {
        /// Whom, and what to do.
        reason: String,
    },
    /// A task ended that should have gone on.
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl From<NodeFailure> for Error {
    fn from(failure: NodeFailure) -> Self {
        match failure {
            NodeFailure::Removed { .. } => Error::Removed { reason: failure.to_string() },
            NodeFailure::Disk { reason } => Error::Disk { reason },
            NodeFailure::Broken { reason } => Error::Failed { reason },
            NodeFailure::Level(unknown) => Error::Failed { reason: unknown.to_string() },
        }
    }
}

/// Runs a server until `stop`; `ready` is called once lookups are answered.
pub async fn run(config: Config, stop: Stop, ready: impl FnOnce(Addresses) + Send) -> Result<(), Error> {
    let Config {
        data_dir,
        listen,
        raft_listen,
        advertise,
        cluster,
        join,
        insecure,
        lease_default,
        forget_after,
        found_after,
        disk_free_min,
    } = config;
    let raft_listen = match &join {
        Some(member) => addresses::joining_raft_listen(raft_listen, member, insecure)?,
        None => addresses::raft_listen(raft_listen, &cluster, insecure)?,
    };
    let starting = Waiting { shared: Shared::default(), stop: stop.clone() };
    let binding = Binding { address: listen, what: "the discovery API" };
    let Some(api_listener) = starting.until_done(binding).await? else { return Ok(()) };
    let api = api_listener.local_addr().map_err(Error::Listener)?;
    // The API answers while the start waits and the index loads: /livez with 200, the rest with 503.
    let mut phases = Phases::new();
    let shared = starting.shared.clone();
    phases.serve_api(api_listener, Endpoints::new(shared.clone()));
    let binding = Binding { address: raft_listen, what: "raft" };
    let Some(raft_listener) = starting.until_done(binding).await? else { return Ok(()) };
    let raft = raft_listener.local_addr().map_err(Error::Listener)?;
    let addresses = Addresses { api, raft };
    warn_in_the_clear(addresses);
    let folder = |source| match Fault::of("make", &data_dir, &source) {
        Some(fault) => Error::Disk { reason: fault.to_string() },
        None => Error::Folder { folder: data_dir.clone(), source },
    };
    if offline::settle(&data_dir).map_err(folder)? {
        tracing::info!("finished what piccolo snapshot restore or --force-new-cluster had begun");
    }
    let disk = FolderDisk::open(&data_dir).map_err(folder)?;
    let raft_threads = RaftThreads::start().map_err(Error::Threads)?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let failed = |source| match disk.fault() {
        Some(fault) => Error::Disk { reason: fault.to_string() },
        None => Error::Start { folder: data_dir.clone(), source },
    };
    let opening = Node::open(Arc::clone(&disk), disk_free_min, Arc::new(SystemResolver));
    let opened = raft_threads.run(opening).await.map_err(failed)?;
    let (stored, known) = (Stored::of(&opened), opened.names().clone());
    let naming = Naming { cluster, join: join.clone(), advertise, api, raft, stored, known };
    let Some(names) = starting.until_done(naming).await? else { return Ok(()) };
    warn_of_names(&names, addresses);
    let starting = opened.start(names, join, found_after, Some(Arc::new(ApiPorts)), stop.clone());
    let node = raft_threads.run(starting).await.map_err(failed)?;
    phases.serve_raft(&raft_threads, raft_listener, node.router());
    let mut app = App::new(
        node.clone(),
        HolderPolicy { loopback: listen.ip().is_loopback() },
        SystemClock::shared(),
        Leases::new(lease_default, forget_after),
        stop.clone(),
    );
    app.remote_operators = insecure;
    app.servers = Servers::new(phases.known.clone());
    let app = Arc::new(app);
    phases.tasks.spawn("leases", leases::task::run(Arc::clone(&app), phases.end.clone()));
    phases
        .tasks
        .spawn("addresses of servers", server_addresses::upkeep(Arc::clone(&app), phases.end.clone()));
    phases.tasks.spawn("currency", behind::watch(Arc::clone(&app), phases.end.clone()));
    phases.tasks.spawn("reports", report::upkeep(Arc::clone(&app), phases.end.clone()));
    let upkeep = crate::metrics::upkeep(crate::metrics::install(), phases.end.clone());
    phases.tasks.spawn("metrics upkeep", upkeep);
    shared.set(Arc::clone(&app));
    tracing::info!(api = %addresses.api, raft = %addresses.raft, "serving");
    ready(addresses);
    phases.run(&app, stop).await
}

fn warn_in_the_clear(addresses: Addresses) {
    for (what, address) in [("the discovery API", addresses.api), ("raft", addresses.raft)] {
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "{what} is served in the clear: whoever reaches it is trusted");
        }
    }
}

/// Others that join would be told this name, which leads each of them to itself; they are refused then.
fn warn_of_names(names: &NodeNames, addresses: Addresses) {
    let name = names.raft_address.as_deref().and_then(|name| name.parse::<SocketAddr>().ok());
    if let Some(name) = name.filter(|name| name.ip().is_loopback())
        && !addresses.raft.ip().is_loopback()
    {
        tracing::warn!(
            %name,
            "raft listens for other hosts, and they would be told to find this server at {name}: give --advertise \
             HOST before others join"
        );
    }
}

/// Waits for writes under way, as long as for requests: one that hangs keeps no server from its end.
async fn finish(writes: &TaskTracker) {
    writes.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, writes.wait()).await.is_err() {
        tracing::warn!(
            left = writes.len(),
            "stopping although writes are under way: their clients send them again"
        );
    }
}

/// The tasks of a server with the signals that stop them one after the other.
struct Phases {
    tasks: Tasks,
    /// Addresses of the other servers, for both listeners.
    known: Known,
    /// Stops the API listener.
    api: Stop,
    /// The last request has been answered.
    api_drained: Stop,
    /// Stops the raft listener.
    raft: Stop,
    /// Its last request has been answered.
    raft_drained: Stop,
    /// Stops everything else.
    end: Stop,
}

/// Every connection may have a message under way: none of them waits for another's.
const _: () =
    assert!(RAFT_CONNECTIONS_MAX + RAFT_CONNECTIONS_OVER_LIMIT_MAX < piccolo_raft::network::MESSAGES_MAX);

impl Phases {
    fn new() -> Self {
        let end = Stop::new();
        Self {
            tasks: Tasks::new(end.clone()),
            known: Known::default(),
            api: Stop::new(),
            api_drained: Stop::new(),
            raft: Stop::new(),
            raft_drained: Stop::new(),
            end,
        }
    }

    fn serve_raft(&mut self, threads: &RaftThreads, listener: TcpListener, router: Router) {
        let limits = ConnectionLimits {
            connections_max: RAFT_CONNECTIONS_MAX,
            over_limit_max: RAFT_CONNECTIONS_OVER_LIMIT_MAX,
            known_max: RAFT_SERVER_CONNECTIONS_MAX,
            drain_timeout: RAFT_DRAIN_TIMEOUT,
            ..ConnectionLimits::default()
        };
        let (stop, drained) = (self.raft.clone(), self.raft_drained.clone());
        let serving = threads.serve(listener, router, limits, self.known.clone(), (stop, drained));
        let end = self.end.clone();
        self.tasks.spawn("raft", async move {
            let ended = end.run_until_cancelled(serving).await;
            ended.map_or(Ok(()), |failed| failed.map(|never| match never {}))
        });
    }

    fn serve_api(&mut self, listener: TcpListener, endpoints: Endpoints) {
        let limits = ConnectionLimits {
            known_max: SERVER_CONNECTIONS_MAX,
            drain_timeout: DRAIN_TIMEOUT,
            ..ConnectionLimits::default()
        };
        let known = self.known.clone();
        let (stop, drained) = (self.api.clone(), self.api_drained.clone());
        let end = self.end.clone();
        self.tasks.spawn("api", async move {
            http::serve_known(listener, endpoints, limits, known, stop).await;
            drained.cancel();
            end.cancelled().await;
            Ok::<(), Infallible>(())
        });
    }

    /// Until `stop` or a failure; then stops in order.
    async fn run(self, app: &App, stop: Stop) -> Result<(), Error> {
        let Self { tasks, known: _, api, api_drained, raft, raft_drained, end } = self;
        let mut running = std::pin::pin!(tasks.run(TASKS_STOP_TIMEOUT));
        tokio::select! {
            () = stop.cancelled() => {}
            failure = app.node.failed() => return Err(failure.into()),
            ended = &mut running => return ended.map_err(Error::Task),
        }
        let handed_over = app.node.transfer_leader().await;
        tracing::info!(handed_over, "stopping: drains the discovery API");
        api.cancel();
        api_drained.cancelled().await;
        finish(&app.writes).await;
        tracing::info!("stopping: closes the index");
        app.node.shutdown().await;
        raft.cancel();
        raft_drained.cancelled().await;
        end.cancel();
        running.await.map_err(Error::Task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_hangs_keeps_no_server_from_its_end() {
        let writes = TaskTracker::new();
        let hangs = writes.spawn(std::future::pending::<()>());
        let start = tokio::time::Instant::now();
        finish(&writes).await;
        assert_eq!(start.elapsed(), DRAIN_TIMEOUT);
        hangs.abort();
        finish(&writes).await;
        assert_eq!(start.elapsed(), DRAIN_TIMEOUT, "without one it waits for nothing");
    }
}
