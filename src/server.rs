//! A discovery server: the API over the replicated index.
//!
//! | folder | what is in it |
//! |---|---|
//! | [`endpoints`] | the routes, one file for each endpoint |
//! | [`requests`] | reading and checking what clients send: no I/O |
//! | [`permits`] | how much work is taken on at once, and from whom |
//! | [`writes`] | advertise, withdraw and sync, from the body to the log |
//! | [`leases`] | heartbeats and their ends, in the leader's memory |
//! | [`ranking`] | which holders an asker is told, in which order |
//! | [`reports`] | what nodes have reported of holders |
//! | [`flights`] | content that nodes share while it is still arriving |
//! | [`cluster`] | the other servers: who leads, forwarding, who has everything |
//! | [`startup`] | addresses and names, waiting, threads, the order of stopping |
//!
//! [`app`] puts the parts together and hands them to the endpoints. [`api_service`] answers the API port:
//! lookups itself, everything else through the routes.

pub mod api_service;
pub mod app;
pub mod cluster;
mod config;
pub mod endpoints;
pub mod error;
pub mod flights;
pub mod headers;
pub mod leases;
pub mod operators;
pub mod permits;
pub mod ranking;
pub mod reports;
pub mod requests;
pub mod startup;
#[cfg(test)]
mod testing;
pub mod writes;

use std::net::SocketAddr;
use std::sync::Arc;

use piccolo_raft::cluster::{Env, Node, NodeNames};
use piccolo_raft::disk::{Disk, Fault, FolderDisk};

use crate::clock::SystemClock;
use crate::identity::TlsMode;
use crate::task::Stop;
use api_service::ApiService;
use app::{App, AppHandle, Policy};
use leases::Leases;
use operators::Operators;
use requests::accepted::HolderPolicy;
use startup::addresses::{self, Stored};
use startup::api_port::ApiPorts;
use startup::links::{Links, Proof, RaftRoutes};
use startup::phases::Phases;
use startup::raft_threads::RaftThreads;
use startup::waiting::{Binding, Naming, Waiting};

pub use config::{Addresses, Config};
pub use piccolo_raft::limits::FOUND_AFTER;
pub use startup::failure::Error;
pub use startup::offline;

/// Runs a server until `stop`; `ready` is called once lookups are answered.
///
/// # Errors
/// Why it did not start, or did not go on.
pub async fn run(config: Config, stop: Stop, ready: impl FnOnce(Addresses) + Send) -> Result<(), Error> {
    let Config {
        data_dir,
        listen,
        raft_listen,
        advertise,
        cluster,
        join,
        cluster_secret,
        tls,
        insecure,
        lease_default,
        forget_after,
        found_after,
        disk_free_min,
    } = config;
    // Whoever has no certificate is refused, so that the port may be open to other hosts.
    let may_be_open = insecure || tls == TlsMode::Require;
    let raft_listen = match &join {
        Some(member) => addresses::joining_raft_listen(raft_listen, member, may_be_open)?,
        None => addresses::raft_listen(raft_listen, &cluster, may_be_open)?,
    };
    let clock = SystemClock::shared();
    let proof = Proof::read(cluster_secret.as_deref(), tls, &clock)?;
    let app = AppHandle::default();
    let starting = Waiting { reason: app.wait_reason().clone(), stop: stop.clone() };
    let binding = Binding { address: listen, what: "the discovery API" };
    let Some(api_listener) = starting.until_done(binding).await? else { return Ok(()) };
    let api = api_listener.local_addr().map_err(Error::Listener)?;
    // The API answers while the start waits and the index loads: /livez with 200, the rest with 503.
    let mut phases = Phases::new();
    phases.serve_api(api_listener, ApiService::new(app.clone()));
    let binding = Binding { address: raft_listen, what: "raft" };
    let Some(raft_listener) = starting.until_done(binding).await? else { return Ok(()) };
    let raft = raft_listener.local_addr().map_err(Error::Listener)?;
    let addresses = Addresses { api, raft };
    warn_of_what_is_open(addresses, tls, insecure);
    let folder = |source| match Fault::of("make", &data_dir, &source) {
        Some(fault) => Error::Disk(fault),
        None => Error::Folder { folder: data_dir.clone(), source },
    };
    if offline::settle(&data_dir).map_err(folder)? {
        tracing::info!("finished what piccolo snapshot restore or --force-new-cluster had begun");
    }
    let disk = FolderDisk::open(&data_dir).map_err(folder)?;
    let raft_threads = RaftThreads::start().map_err(Error::Threads)?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let failed = |source| match disk.fault() {
        Some(fault) => Error::Disk(fault),
        None => Error::Start { folder: data_dir.clone(), source },
    };
    let env = Env::system(Arc::clone(&disk), raft_threads.handle().clone());
    let opening = Node::open(env, disk_free_min);
    let opened = raft_threads.run(opening).await.map_err(failed)?;
    let links = Links::new(proof, opened.node_id(), &clock).map_err(Error::Tls)?;
    let opened = opened.over(links.network());
    let (stored, known) = (Stored::of(&opened), opened.names().clone());
    let naming = Naming { cluster, join: join.clone(), advertise, api, raft, stored, known };
    let Some(names) = starting.until_done(naming).await? else { return Ok(()) };
    warn_of_names(&names, addresses);
    let starting = opened.start(names, join, found_after, Some(Arc::new(ApiPorts)), stop.clone());
    let node = raft_threads.run(starting).await.map_err(failed)?;
    phases.serve_raft(&raft_threads, raft_listener, RaftRoutes(node.router()), links.guard());
    links.start_tasks(&mut phases);
    let policy = Policy {
        holders: HolderPolicy { loopback: listen.ip().is_loopback() },
        operators: Operators { remote_too: insecure },
        leases: Leases::new(lease_default, forget_after),
    };
    let parts = App::new(node, policy, clock, phases.known.clone(), stop.clone());
    let parts = Arc::new(parts);
    start_tasks(&parts, &mut phases);
    app.set(Arc::clone(&parts));
    tracing::info!(api = %addresses.api, raft = %addresses.raft, "serving");
    ready(addresses);
    phases.run(&parts.node, &parts.writes.running, stop).await
}

/// Starts the tasks of a server that serves.
fn start_tasks(app: &App, Phases { tasks, end, .. }: &mut Phases) {
    tasks.spawn("leases", app.lease_task().run(end.clone()));
    tasks.spawn("addresses of servers", app.cluster.servers.clone().watch(end.clone()));
    tasks.spawn("lookup fallback", Arc::clone(&app.cluster.fallback).watch(end.clone()));
    tasks.spawn("reports", Arc::clone(&app.reports).watch(end.clone()));
    tasks.spawn("flights", Arc::clone(&app.flights).watch(end.clone()));
    tasks.spawn("metrics upkeep", crate::metrics::upkeep(crate::metrics::install(), end.clone()));
}

fn warn_of_what_is_open(addresses: Addresses, tls: TlsMode, insecure: bool) {
    let raft = (tls != TlsMode::Require).then_some(("raft", addresses.raft));
    for (what, address) in [("the discovery API", addresses.api)].into_iter().chain(raft) {
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "{what} is served in the clear: whoever reaches it is trusted");
        }
    }
    if insecure && !addresses.api.ip().is_loopback() {
        tracing::warn!(
            address = %addresses.api,
            "--insecure: whoever reaches the discovery API may add and remove servers, and take snapshots"
        );
    }
}

/// Warns if servers that join would be told a loopback name: it leads each of them to itself, and they are
/// refused.
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
