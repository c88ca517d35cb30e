//! The parts of a server that serves, and how a handler takes the ones that it uses: [`Loaded`].
//!
//! Endpoints know this file. No part knows it: each is given what it needs when it is made.

use std::sync::{Arc, OnceLock};

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use piccolo_raft::cluster::Node;
use piccolo_raft::index::Index;
use tokio_util::task::TaskTracker;

use super::cluster::Cluster;
use super::error::ApiError;
use super::flights::Flights;
use super::flights::exchange::Exchange;
use super::leases::Leases;
use super::leases::fleet::FleetUsage;
use super::leases::table::LeaseTable;
use super::leases::task::LeaseTask;
use super::operators::Operators;
use super::permits::Permits;
use super::reports::Reports;
use super::reports::pass_on::PassOn;
use super::requests::accepted::HolderPolicy;
use super::startup::waiting::WaitReason;
use super::writes::{SyncRate, Writes};
use crate::clock::SharedClock;
use crate::http::KnownAddresses;
use crate::task::Stop;

/// The parts of a server whose index is loaded.
pub struct App {
    /// The raft node: proposals, membership, status.
    pub node: Node,
    /// The replicated index, for reads.
    pub index: Index,
    /// This server among the others.
    pub cluster: Cluster,
    /// Handles advertise, withdraw and sync.
    pub writes: Arc<Writes>,
    /// Leases, in the leader's memory.
    pub leases: LeaseTable,
    /// Counters of the agents, in the leader's memory.
    pub fleet: FleetUsage,
    /// What nodes have reported of holders.
    pub reports: Arc<Reports>,
    /// Content that nodes share while it is still arriving.
    pub flights: Arc<Flights>,
    /// How much work is taken on at once.
    pub permits: Permits,
    /// Who may change the membership and take snapshots.
    pub operators: Operators,
    /// Which addresses a holder may have.
    pub holders: HolderPolicy,
    /// Cancelled as soon as the server stops.
    pub stop: Stop,
}

/// What a server is told about its clients and about its leases.
pub struct Policy {
    /// Which addresses a holder may have.
    pub holders: HolderPolicy,
    /// Who may change the membership and take snapshots.
    pub operators: Operators,
    /// No leases yet, with their lengths.
    pub leases: Leases,
}

impl App {
    /// Builds the parts on a started node. The addresses of the other servers are kept in `known`.
    pub fn new(node: Node, policy: Policy, clock: SharedClock, known: KnownAddresses, stop: Stop) -> Self {
        let Policy { holders, operators, leases } = policy;
        let index = node.index().clone();
        let running = TaskTracker::new();
        let cluster = Cluster::new(&node, known, running.clone());
        let leases = LeaseTable::new(leases, Arc::clone(&clock));
        let permits = Permits::default();
        let pass_on =
            PassOn::new(node.clone(), cluster.identity.clone(), cluster.client.clone(), stop.clone());
        let exchange = Exchange::new(cluster.identity.clone(), cluster.client.clone(), stop.clone());
        let writes = Writes {
            node: node.clone(),
            index: index.clone(),
            forwarder: cluster.forwarder.clone(),
            leases: leases.clone(),
            permits: permits.clone(),
            sync_rate: SyncRate::new(Arc::clone(&clock)),
            holders,
            running,
        };
        Self {
            fleet: FleetUsage::new(cluster.leadership.clone()),
            flights: Arc::new(Flights::new(node.clone(), Arc::clone(&clock), exchange)),
            reports: Arc::new(Reports::new(index.clone(), clock, pass_on)),
            writes: Arc::new(writes),
            node,
            index,
            cluster,
            leases,
            permits,
            operators,
            holders,
            stop,
        }
    }

    /// The task that ends leases.
    pub fn lease_task(&self) -> LeaseTask {
        LeaseTask {
            node: self.node.clone(),
            index: self.index.clone(),
            leadership: self.cluster.leadership.clone(),
            leases: self.leases.clone(),
            fleet: self.fleet.clone(),
        }
    }
}

/// The app, once the index is loaded: the API port is open before, answers `/livez` with 200 and everything
/// else with 503. Clones share it.
#[derive(Clone, Default)]
pub struct AppHandle(Arc<Loading>);

#[derive(Default)]
struct Loading {
    app: OnceLock<Arc<App>>,
    wait_reason: WaitReason,
}

impl AppHandle {
    /// Sets the app, once the index is loaded.
    ///
    /// # Panics
    /// If it is set already.
    pub fn set(&self, app: Arc<App>) {
        let first = self.0.app.set(app);
        assert!(first.is_ok(), "a server starts once");
    }

    /// The app.
    ///
    /// # Errors
    /// [`ApiError::Loading`] until it is set.
    pub fn get(&self) -> Result<&App, ApiError> {
        self.0.app.get().map(Arc::as_ref).ok_or(ApiError::Loading)
    }

    /// What the start waits for.
    pub fn wait_reason(&self) -> &WaitReason {
        &self.0.wait_reason
    }
}

/// A part of the app as the argument of a handler; 503 until the index is loaded.
pub struct Loaded<T>(pub T);

impl<T: FromRef<App>> FromRequestParts<AppHandle> for Loaded<T> {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, app: &AppHandle) -> Result<Self, ApiError> {
        Ok(Self(T::from_ref(app.get()?)))
    }
}

/// Lets handlers take a part of the app.
macro_rules! part {
    ($type:ty, $($field:ident).+) => {
        impl FromRef<App> for $type {
            fn from_ref(app: &App) -> Self {
                app.$($field).+.clone()
            }
        }
    };
}

part!(Node, node);
part!(Index, index);
part!(Cluster, cluster);
part!(Arc<Writes>, writes);
part!(Permits, permits);
