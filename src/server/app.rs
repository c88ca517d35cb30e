//! What all endpoints share: the replicated index, the leases, and the bounds on work at hand.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use axum::http::HeaderValue;
use piccolo_raft::cluster::Node;
use piccolo_raft::index::Index;
use piccolo_raft::model::Holder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::clock::SharedClock;
use crate::limits::{
    BEAT_CHANGES_WAITING_MAX, BEATS_WAITING_MAX, HOLDER_BEATS_WAITING_MAX, HOLDER_WRITES_WAITING_MAX,
    SNAPSHOTS_SENT_MAX, SYNC_BURST, SYNC_EVERY, WRITES_WAITING_MAX,
};
use crate::server::cluster::behind::Elsewhere;
use crate::server::cluster::forward::Ways;
use crate::server::cluster::server_addresses::Servers;
use crate::server::cluster::server_client::{OthersClient, others_client};
use crate::server::endpoints::report::Reporting;
use crate::server::error::ApiError;
use crate::server::leases::Leases;
use crate::server::leases::fleet::{Fleet, Usage};
use crate::server::requests::accepted::HolderPolicy;
use crate::server::requests::intake::Bodies;
use crate::server::writes::holder_locks::{HolderLocks, Place, Turn};
use crate::server::writes::rate_limit::Pace;
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
    /// Forwards writes to the leader, and reports to the other servers.
    pub(crate) http: OthersClient,
    /// So many writes are on their way there at once.
    pub ways: Ways,
    /// Where the other servers are.
    pub servers: Servers,
    /// What bodies at hand take up.
    pub bodies: Bodies,
    /// Writes run here to their end, whether or not their client waits: the next write of the
    /// holder must find their effect.
    pub writes: TaskTracker,
    /// What nodes report of holders.
    pub reports: Reporting,
    /// Whether the membership may be changed, and a snapshot taken, from other hosts.
    pub remote_operators: bool,
    /// Places for snapshots on their way to operators.
    pub snapshots: Arc<Semaphore>,
    /// Who answers while this server may lack something.
    pub elsewhere: Elsewhere,
    /// Set once stopping begins.
    pub stop: Stop,
    /// Once known it stays.
    cluster: OnceLock<HeaderValue>,
    leases: Mutex<Leases>,
    fleet: Mutex<Fleet>,
    /// The term whose leader this node is with leases at hand and every earlier entry applied;
    /// 0: none.
    leading_term: Mutex<u64>,
    writes_waiting: Arc<Semaphore>,
    /// Keepalives, from their first byte on.
    beats_waiting: Arc<Semaphore>,
    /// Each holder's writes.
    writes_of: HolderLocks,
    /// Keepalives that have something to propose.
    beat_changes_waiting: Arc<Semaphore>,
    /// Each holder's of them.
    beat_changes_of: HolderLocks,
    syncs: Mutex<Pace>,
}

/// A place among the writes that wait, of all holders and of one.
#[derive(Debug)]
pub struct WritePlace {
    of_holder: Place,
    _of_all: OwnedSemaphorePermit,
}

impl WritePlace {
    /// Waits for the holder's turn.
    pub async fn turn(&self) -> Turn {
        self.of_holder.turn().await
    }
}

impl App {
    /// On a started node.
    pub fn new(node: Node, holders: HolderPolicy, clock: SharedClock, leases: Leases, stop: Stop) -> Self {
        Self {
            index: node.index().clone(),
            http: others_client(node.names().clone()),
            node,
            holders,
            clock,
            ways: Ways::default(),
            servers: Servers::default(),
            bodies: Bodies::default(),
            writes: TaskTracker::new(),
            reports: Reporting::default(),
            remote_operators: false,
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_SENT_MAX)),
            elsewhere: Elsewhere::default(),
            stop,
            cluster: OnceLock::new(),
            leases: Mutex::new(leases),
            fleet: Mutex::default(),
            leading_term: Mutex::new(0),
            writes_waiting: Arc::new(Semaphore::new(WRITES_WAITING_MAX)),
            beats_waiting: Arc::new(Semaphore::new(BEATS_WAITING_MAX)),
            writes_of: HolderLocks::new(HOLDER_WRITES_WAITING_MAX),
            beat_changes_waiting: Arc::new(Semaphore::new(BEAT_CHANGES_WAITING_MAX)),
            beat_changes_of: HolderLocks::new(HOLDER_BEATS_WAITING_MAX),
            syncs: Mutex::new(Pace::new(SYNC_BURST, SYNC_EVERY)),
        }
    }

    /// Id of the cluster that this server belongs to, as headers carry it.
    pub fn cluster(&self) -> Option<&HeaderValue> {
        if let Some(known) = self.cluster.get() {
            return Some(known);
        }
        let id = self.node.cluster_id()?.to_string();
        let header = HeaderValue::from_str(&id).expect("hex digits are a header value");
        Some(self.cluster.get_or_init(|| header))
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

    /// Whether a write would find a place now.
    pub fn has_place_for_write(&self) -> bool {
        self.writes_waiting.available_permits() > 0
    }

    /// A place among the writes that wait, or 503.
    pub fn place_for_write(&self, holder: &Holder) -> Result<WritePlace, ApiError> {
        let of_all = Arc::clone(&self.writes_waiting).try_acquire_owned();
        let of_all = of_all.map_err(|_| ApiError::Overloaded)?;
        let of_holder = self.writes_of.enter(holder).ok_or(ApiError::HolderBusy)?;
        Ok(WritePlace { of_holder, _of_all: of_all })
    }

    /// A place for a keepalive, or 503: on a server that does not lead it waits as a write does. They
    /// have places of their own: a herd of writes must not let leases end.
    pub fn place_for_keepalive(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.beats_waiting).try_acquire_owned().map_err(|_| ApiError::Overloaded)
    }

    /// A place among the keepalives that have something to propose, or 503. They are fewer than the
    /// writes, so that a fleet that comes back leaves room for those.
    pub fn place_for_beat_change(&self, holder: &Holder) -> Result<WritePlace, ApiError> {
        let of_all = Arc::clone(&self.beat_changes_waiting).try_acquire_owned();
        let of_all = of_all.map_err(|_| ApiError::Overloaded)?;
        let of_holder = self.beat_changes_of.enter(holder).ok_or(ApiError::HolderBusy)?;
        Ok(WritePlace { of_holder, _of_all: of_all })
    }

    /// One sync of a holder more, or 503 if it syncs in a loop.
    pub fn pace_of_syncs(&self, holder: &Holder) -> Result<(), ApiError> {
        let mut syncs = self.syncs.lock().expect("nothing panics with it in hand");
        syncs.take(holder, self.now()).map_err(|again_after| ApiError::TooManySyncs { again_after })
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
pub struct Shared(Arc<Starting>);

#[derive(Default)]
struct Starting {
    app: OnceLock<Arc<App>>,
    waits: Mutex<Option<String>>,
}

impl Shared {
    /// The index is loaded. Called once.
    pub fn set(&self, app: Arc<App>) {
        let first = self.0.app.set(app);
        assert!(first.is_ok(), "a server starts once");
    }

    /// The app, or 503 while loading.
    pub fn get(&self) -> Result<&Arc<App>, ApiError> {
        self.0.app.get().ok_or(ApiError::Loading)
    }

    /// The start waits for something that may come by itself, or goes on; each reason is logged once.
    pub fn set_waits(&self, reason: Option<String>) {
        let mut waits = self.waits();
        if *waits != reason {
            match &reason {
                Some(reason) => tracing::warn!(reason, "waits with the start"),
                None => tracing::info!("goes on with the start"),
            }
            *waits = reason;
        }
    }

    /// What the start waits for.
    pub fn waits_for(&self) -> Option<String> {
        self.waits().clone()
    }

    fn waits(&self) -> MutexGuard<'_, Option<String>> {
        self.0.waits.lock().expect("nothing panics with it in hand")
    }
}
