//! What all endpoints share: the replicated index, the leases, and the bounds on work at hand.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use piccolo_raft::cluster::Node;
use piccolo_raft::index::Index;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use super::fleet::{Fleet, Usage};
use super::leases::Leases;
use super::locks::HolderLocks;
use super::report::Reporting;
use super::request::{HolderPolicy, Rules};
use crate::api::client::{HttpClient, http_client};
use crate::clock::SharedClock;
use crate::limits::WRITES_WAITING_MAX;
use crate::task::Stop;

/// A server that serves.
pub struct App {
    /// Raft: proposals, leadership.
    pub node: Node,
    /// Reads.
    pub index: Index,
    /// Which holders are taken.
    pub holders: HolderPolicy,
    /// Of time.
    pub clock: SharedClock,
    /// Forwards writes to the leader.
    pub http: HttpClient,
    /// The leader's turn for each holder.
    pub locks: HolderLocks,
    /// Writes run here to their end, whether or not their client waits: the next write of the
    /// holder must find their effect.
    pub writes: TaskTracker,
    /// What nodes report of holders.
    pub reports: Reporting,
    /// Whether the membership may be changed from other hosts.
    pub remote_operators: bool,
    /// Set once stopping begins.
    pub stop: Stop,
    leases: Mutex<Leases>,
    fleet: Mutex<Fleet>,
    /// The term whose leader this node is with leases at hand and every earlier entry applied;
    /// 0: none.
    leading_term: Mutex<u64>,
    writes_waiting: Arc<Semaphore>,
}

impl App {
    /// On a started node.
    pub fn new(node: Node, holders: HolderPolicy, clock: SharedClock, leases: Leases, stop: Stop) -> Self {
        Self {
            index: node.index().clone(),
            node,
            holders,
            clock,
            http: http_client(),
            locks: HolderLocks::default(),
            writes: TaskTracker::new(),
            reports: Reporting::default(),
            remote_operators: false,
            stop,
            leases: Mutex::new(leases),
            fleet: Mutex::default(),
            leading_term: Mutex::new(0),
            writes_waiting: Arc::new(Semaphore::new(WRITES_WAITING_MAX)),
        }
    }

    /// The leases, for a moment.
    pub fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().expect("no lease operation panics")
    }

    /// The agents' counters, for a moment.
    pub fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().expect("nothing panics with it in hand")
    }

    /// Sums of the agents' counters, on the leader only.
    pub fn fleet_sums(&self) -> Option<Usage> {
        self.leads().then(|| self.fleet().sums())
    }

    /// A place among the writes that wait, or 503.
    pub fn place_for_write(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.writes_waiting).try_acquire_owned().map_err(|_| ApiError::Overloaded)
    }

    /// What requests are held to now.
    pub fn rules(&self) -> Rules {
        Rules { holders: self.holders, unix_ms: self.clock.unix_ms() }
    }

    /// Since the process's start.
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// This node leads `term` (0: none) and may decide on writes and keepalives.
    pub fn set_leading_term(&self, term: u64) {
        *self.leading_term.lock().expect("nothing panics with it in hand") = term;
    }

    /// Whether this node may decide: it leads, with a quorum, and knows everything from before its
    /// term.
    pub fn leads(&self) -> bool {
        let term = *self.leading_term.lock().expect("nothing panics with it in hand");
        term != 0 && self.node.is_leader() && self.node.term() == term && self.node.has_quorum()
    }
}

/// The app once the index is loaded. The listener is open before: `/livez` answers at once, and a
/// port in use is found before anything else is done.
#[derive(Clone, Default)]
pub struct Shared(Arc<OnceLock<Arc<App>>>);

impl Shared {
    /// The index is loaded. Called once.
    pub fn set(&self, app: Arc<App>) {
        let first = self.0.set(app);
        assert!(first.is_ok(), "a server starts once");
    }

    /// The app, or 503 while loading.
    pub fn get(&self) -> Result<&Arc<App>, ApiError> {
        self.0.get().ok_or_else(|| ApiError::NotServing { reason: "the index is loading".to_owned() })
    }
}
