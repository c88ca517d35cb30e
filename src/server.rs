//! A discovery server: the API over the replicated index.
//!
//! A lookup is answered from the index at once ([`lookups`], [`findkey`], [`ranking`]). Any other
//! request goes through [`routes`] to the file of its endpoint. Writes ([`advertise`], [`withdraw`],
//! [`sync`]) are taken in within bounds ([`intake`], [`pace`]), read by [`request`], brought to the leader by [`forward`], one
//! at a time for each holder ([`locks`]), held to the limits of the index ([`capacity`]), cut into log
//! [`entries`] and proposed ([`mod@write`]). Keepalives ([`keepalive`]) renew [`leases`] in the leader's
//! memory; [`lease_task`] proposes what follows when one ends. What nodes [`mod@report`] of holders
//! changes the order of answers for a while. [`snapshot`] gives an operator the whole state, and [`offline`]
//! makes a new cluster of what is left of one.

pub mod addresses;
pub mod advertise;
pub mod app;
pub mod body;
pub mod capabilities;
pub mod capacity;
pub mod entries;
pub mod error;
pub mod findkey;
pub mod fleet;
pub mod forward;
pub mod health;
pub mod hosts;
pub mod intake;
pub mod keepalive;
pub mod lease_task;
pub mod leases;
pub mod locks;
pub mod lookups;
pub mod members;
pub mod metrics;
pub mod offline;
pub mod pace;
pub mod query;
mod raft_threads;
pub mod ranking;
pub mod report;
pub mod request;
pub mod routes;
pub mod snapshot;
pub mod status;
pub mod sync;
pub mod withdraw;
pub mod write;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use piccolo_raft::cluster::{Node, NodeConfig, NodeFailure, StartError};
use piccolo_raft::disk::{Disk, Fault, FolderDisk};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::clock::SystemClock;
use crate::http::{self, BindError, ConnectionLimits};
use crate::limits::{DRAIN_TIMEOUT, RAFT_DRAIN_TIMEOUT};
use crate::task::{Stop, TaskError, Tasks};
use addresses::AddressError;
use app::{App, Shared};
use leases::Leases;
use lookups::Endpoints;
use raft_threads::RaftThreads;
use request::HolderPolicy;

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
        disk_free_min,
    } = config;
    let raft_listen = match &join {
        Some(member) => addresses::joining_raft_listen(raft_listen, member, insecure)?,
        None => addresses::raft_listen(raft_listen, &cluster, insecure)?,
    };
    let api_listener = http::bind(listen, "the discovery API").await?;
    let raft_listener = http::bind(raft_listen, "raft").await?;
    let addresses = Addresses {
        api: api_listener.local_addr().map_err(Error::Listener)?,
        raft: raft_listener.local_addr().map_err(Error::Listener)?,
    };
    let (api, raft) = (addresses.api, addresses.raft);
    let names = match &join {
        Some(member) => addresses::joining_names(member, advertise.as_deref(), api, raft).await?,
        None => addresses::names(&cluster, advertise.as_deref(), api, raft).await?,
    };
    warn_in_the_clear(addresses);

    // The API answers while the index loads: /livez with 200, the rest with 503.
    let mut phases = Phases::new();
    let shared = Shared::default();
    phases.serve_api(api_listener, Endpoints::new(shared.clone()));
    let folder = |source| match Fault::of("make", &data_dir, &source) {
        Some(fault) => Error::Disk { reason: fault.to_string() },
        None => Error::Folder { folder: data_dir.clone(), source },
    };
    if offline::settle(&data_dir).map_err(folder)? {
        tracing::info!("finished what piccolo snapshot restore or --force-new-cluster had begun");
    }
    let disk = FolderDisk::open(&data_dir).map_err(folder)?;
    let node_config = NodeConfig {
        members: names.members,
        raft_address: names.raft_address,
        api_address: names.api_address,
        disk_free_min,
    };
    let raft_threads = RaftThreads::start().map_err(Error::Threads)?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let (files, stopped) = (Arc::clone(&disk), stop.clone());
    let node = match join {
        Some(member) => raft_threads.run(Node::start_joining(node_config, member, files, stopped)).await,
        None => raft_threads.run(Node::start(node_config, files, stopped)).await,
    };
    let node = node.map_err(|source| match disk.fault() {
        Some(fault) => Error::Disk { reason: fault.to_string() },
        None => Error::Start { folder: data_dir, source },
    })?;
    phases.serve_raft(&raft_threads, raft_listener, node.router());
    let mut app = App::new(
        node.clone(),
        HolderPolicy { loopback: listen.ip().is_loopback() },
        SystemClock::shared(),
        Leases::new(lease_default, forget_after),
        stop.clone(),
    );
    app.remote_operators = insecure;
    let app = Arc::new(app);
    phases.tasks.spawn("leases", lease_task::run(Arc::clone(&app), phases.end.clone()));
    phases.tasks.spawn("reports", report::upkeep(Arc::clone(&app), phases.end.clone()));
    let upkeep = crate::metrics::upkeep(crate::metrics::install(), phases.end.clone());
    phases.tasks.spawn("metrics upkeep", upkeep);
    shared.set(Arc::clone(&app));
    tracing::info!(api = %addresses.api, raft = %addresses.raft, "serves");
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

/// Waits for writes under way, as long as for requests: one that hangs keeps no server from its end.
async fn finish(writes: &TaskTracker) {
    writes.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, writes.wait()).await.is_err() {
        tracing::warn!(left = writes.len(), "stops although writes are under way");
    }
}

/// The tasks of a server with the signals that stop them one after the other.
struct Phases {
    tasks: Tasks,
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

impl Phases {
    fn new() -> Self {
        let end = Stop::new();
        Self {
            tasks: Tasks::new(end.clone()),
            api: Stop::new(),
            api_drained: Stop::new(),
            raft: Stop::new(),
            raft_drained: Stop::new(),
            end,
        }
    }

    fn serve_raft(&mut self, threads: &RaftThreads, listener: TcpListener, router: Router) {
        let limits = ConnectionLimits { drain_timeout: RAFT_DRAIN_TIMEOUT, ..ConnectionLimits::default() };
        let (stop, drained) = (self.raft.clone(), self.raft_drained.clone());
        let serving = threads.serve(listener, router, limits, stop, drained);
        let end = self.end.clone();
        self.tasks.spawn("raft", async move {
            let ended = end.run_until_cancelled(serving).await;
            ended.map_or(Ok(()), |failed| failed.map(|never| match never {}))
        });
    }

    fn serve_api(&mut self, listener: TcpListener, endpoints: Endpoints) {
        let limits = ConnectionLimits { drain_timeout: DRAIN_TIMEOUT, ..ConnectionLimits::default() };
        let (stop, drained) = (self.api.clone(), self.api_drained.clone());
        let end = self.end.clone();
        self.tasks.spawn("api", async move {
            http::serve(listener, endpoints, limits, stop).await;
            drained.cancel();
            end.cancelled().await;
            Ok::<(), Infallible>(())
        });
    }

    /// Until `stop` or a failure; then stops in order.
    async fn run(self, app: &App, stop: Stop) -> Result<(), Error> {
        let Self { tasks, api, api_drained, raft, raft_drained, end } = self;
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
