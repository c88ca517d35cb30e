//! One node's life in its cluster: birth, proposals, leadership, status, stop.
//!
//! - `bootstrap`: how a cluster is born, and how a node waits to be admitted to one.
//! - `members`: add, replace, remove.
//! - `offline`: a new cluster of one from a snapshot, or from what is left of another.
//! - `proposals`: writes, and what bounds them.
//! - `compaction`: which part of the log may go.
//! - `space`: a disk that is getting full.
//! - `error`: why a node does not start, and why it ends.
//! - `settings`: how openraft runs here.
//! - `standing`: a removed node learns that it is one.
//! - `stop`: handing leadership over, and the orderly end.
//! - `stores`: whether log and state belong together.

mod bootstrap;
mod compaction;
mod error;
mod members;
pub mod offline;
mod proposals;
mod settings;
pub(crate) mod space;
mod standing;
mod status;
mod stop;
mod stores;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blocking::blocking;
use crate::disk::Disk;
use crate::index::{Index, StateMachine};
use crate::log::LogStore;
use crate::network::MESSAGES_MAX;
use crate::network::client::RpcClient;
use crate::network::identity::Identity;
use crate::network::peer::{Peers, Refusing, Streams};
use crate::network::server::{self, Heard, RpcState};
use crate::types::{Member, NodeId, TypeConfig};
use crate::watch;

pub use crate::network::DiskSpace;
pub use error::{NodeFailure, StartError};
pub use members::{
    BadWho, Change, LAG_MAX, MEMBERS_MAX, MembersError, Phase, Progress, Refusal, SEED_ENTRIES_MIN, Who,
    is_address,
};
pub use proposals::{PROPOSALS_MAX, PROPOSE_TIMEOUT, PROPOSED_BYTES_MAX, ProposeError, Proposed};
pub use status::{ClusterStatus, MemberInfo, Role};

use members::{Recent, Seeding};
use proposals::Budget;
use space::{Disks, Guard};
use status::Reasons;
use stores::check_stores;

/// openraft over our state machine.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// A quorum, or a leader, that was heard so long ago counts as lost.
pub const QUORUM_HEARD_MAX: Duration = Duration::from_millis(1500);
/// Between two looks at something that has no event.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Raft addresses of all servers, `host:port`; one entry: a cluster of one.
    pub members: Vec<String>,
    /// This node's own entry, if it is known.
    pub raft_address: Option<String>,
    /// `host:port` of this node's discovery API, for the membership.
    pub api_address: String,
    /// With less free bytes in its data folder it stores no more entries; 0: it does not look, `None`: what
    /// fits the disk.
    pub disk_free_min: Option<u64>,
}

/// A handle on the node; clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    guard: Arc<Guard>,
    /// On the leader.
    disks: Disks,
    refusing: Refusing,
    identity: Arc<Identity>,
    raft: Raft,
    log: LogStore,
    index: Index,
    client: RpcClient,
    /// The threads that the node was started on. A connection belongs to those that it was opened on, and
    /// may later carry what is urgent.
    threads: tokio::runtime::Handle,
    streams: Streams,
    heard: Arc<Heard>,
    /// See [`RpcState`].
    receiving: Arc<Semaphore>,
    messages: Arc<Semaphore>,
    /// Raft address of a member of the cluster that this node waits to be admitted to.
    join: Option<String>,
    /// One change of the membership at a time.
    changing: Semaphore,
    seeding: Seeding,
    recent: Recent,
    /// Spares each lookup the metrics.
    was_member: AtomicBool,
    reasons: Reasons,
    budget: Budget,
    /// Bootstrap, flusher, compaction, proposals in flight, connections to other servers.
    tasks: TaskTracker,
    /// The background tasks stop; proposals and connections go on, to hand leadership over.
    stop: CancellationToken,
    /// Connections are cut.
    ended: CancellationToken,
    failure: watch::Sender<Option<NodeFailure>>,
}

impl Node {
    /// Opens the stores and starts raft. The cluster forms, or is found again, in the background:
    /// serve [`Node::router`] on the raft listener now. After `stop` no cluster is founded; the node goes
    /// on until [`Node::shutdown`].
    pub async fn start(
        config: NodeConfig,
        disk: Arc<dyn Disk>,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        if config.members.is_empty() {
            return Err(StartError::NoMembers);
        }
        Self::start_with(config, None, disk, stop).await
    }

    /// Like [`Node::start`], of a node that founds no cluster: if it is pristine, it waits to be
    /// admitted to that of the member whose raft address is `member`.
    pub async fn start_joining(
        config: NodeConfig,
        member: String,
        disk: Arc<dyn Disk>,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        let config = NodeConfig { members: Vec::new(), ..config };
        Self::start_with(config, Some(member), disk, stop).await
    }

    async fn start_with(
        config: NodeConfig,
        join: Option<String>,
        disk: Arc<dyn Disk>,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        let NodeConfig { members, raft_address, api_address, disk_free_min } = config;
        let guard = Arc::new(Guard::new(disk_free_min, disk.place()));
        let (files, room) = (disk.clone(), guard.clone());
        let open = move || {
            let disk = files;
            space::prepare(disk.as_ref(), &room);
            let log = LogStore::open(disk.as_ref())?;
            let index = Index::open(disk.as_ref())?;
            check_stores(&log, &index)?;
            log.check_note(disk.as_ref())?;
            let identity = Identity::load(disk, members, raft_address, api_address, log.is_used())?;
            if identity.was_removed()? {
                return Err(StartError::Removed { node_id: identity.node_id });
            }
            Ok::<_, StartError>((log, index, Arc::new(identity)))
        };
        let (log, index, identity) = blocking(open).await.map_err(StartError::raft)??;
        let durable = index.clone();
        log.guard_purge(move || durable.durable_applied().map_or(0, |id| id.index));
        let (tasks, ended) = (TaskTracker::new(), CancellationToken::new());
        let client = RpcClient::new(tasks.clone(), ended.clone());
        let streams = Streams::default();
        let refusing = Refusing::default();
        let peers = Peers::new(identity.clone(), client.clone(), streams.clone(), refusing.clone());
        let settings = settings::settings().map_err(StartError::raft)?;
        let state_machine = StateMachine::new(index.clone());
        let raft = Raft::new(identity.node_id, settings, peers.clone(), log.clone(), state_machine).await;
        let raft = raft.map_err(StartError::raft)?;
        peers.follow(raft.metrics());
        let inner = Arc::new(Inner {
            disk,
            guard,
            disks: Disks::default(),
            refusing,
            raft,
            identity,
            log,
            index,
            client,
            threads: tokio::runtime::Handle::current(),
            streams,
            heard: Arc::default(),
            receiving: Arc::new(Semaphore::new(1)),
            messages: Arc::new(Semaphore::new(MESSAGES_MAX)),
            join,
            changing: Semaphore::new(1),
            seeding: Seeding::default(),
            recent: Recent::default(),
            was_member: AtomicBool::new(false),
            reasons: Reasons::default(),
            budget: Budget::new(PROPOSED_BYTES_MAX, PROPOSALS_MAX),
            tasks,
            stop: stop.child_token(),
            ended,
            failure: watch::Sender::new(None),
        });
        let node = Node { inner };
        node.spawn_tasks();
        Ok(node)
    }

    /// Their errors end the node: see [`Node::failed`].
    fn spawn_tasks(&self) {
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            let result = bootstrap::run(&inner).await;
            inner.report(result);
        });
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            if let Err(failure) = standing::run(&inner).await {
                tracing::error!(%failure, "the node ends");
                inner.failure.send_replace(Some(failure));
            }
        });
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            let result =
                inner.index.run_flusher(inner.stop.clone(), || inner.guard.has_room_for_upkeep()).await;
            inner.report(result);
        });
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move { inner.run_compaction().await });
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move { inner.watch_space().await });
        let node = self.clone();
        self.inner.tasks.spawn(async move { node.lead_with_room().await });
    }

    /// The routes that other servers call, to be served on the raft listener.
    pub fn router(&self) -> Router {
        server::router(RpcState {
            identity: self.inner.identity.clone(),
            raft: self.inner.raft.clone(),
            heard: self.inner.heard.clone(),
            receiving: self.inner.receiving.clone(),
            messages: self.inner.messages.clone(),
            index: self.inner.index.clone(),
            guard: self.inner.guard.clone(),
            log: self.inner.log.clone(),
        })
    }

    /// The index of this node.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }

    /// What the simulation looks at.
    #[cfg(test)]
    pub(crate) fn parts(&self) -> (&Raft, &Identity, &LogStore) {
        (&self.inner.raft, &self.inner.identity, &self.inner.log)
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.inner.raft.is_leader()
    }

    /// Whether this node is in the membership that it knows: false while it is pristine or waits to be
    /// admitted, also with the snapshot that it was brought before. Who once was stays so: a removed
    /// node ends.
    pub fn is_member(&self) -> bool {
        let inner = &self.inner;
        if inner.was_member.load(Ordering::Relaxed) {
            return true;
        }
        let metrics = inner.raft.metrics();
        let me = inner.identity.node_id;
        let member = metrics.borrow_watched().membership_config.membership().get_node(&me).is_some();
        if member {
            inner.was_member.store(true, Ordering::Relaxed);
        }
        member
    }

    /// The leader, if one is known and was heard lately (of this node: by a quorum).
    pub fn leader(&self) -> Option<(NodeId, Member)> {
        self.inner.leader(&self.inner.raft.metrics().borrow_watched())
    }

    /// On the leader: a majority answered lately; elsewhere: a leader was heard lately.
    pub fn has_quorum(&self) -> bool {
        self.leader().is_some()
    }

    /// The raft term.
    pub fn term(&self) -> u64 {
        self.inner.raft.metrics().borrow_watched().current_term
    }

    /// The leader, as soon as there is one.
    pub async fn wait_leader(&self, timeout: Duration) -> Option<(NodeId, Member)> {
        let deadline = Instant::now() + timeout;
        loop {
            let leader = self.leader();
            if leader.is_some() || Instant::now() >= deadline {
                return leader;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The cluster as this node sees it.
    pub fn status(&self) -> ClusterStatus {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let leader = self.inner.leader(&metrics).map(|(id, _)| id);
        let identity = &self.inner.identity;
        let mut reasons = self.inner.reasons.get();
        reasons.extend(status::objections(identity, metrics.membership_config.membership()));
        if identity.cluster_id().is_some() && leader.is_none() {
            reasons.push("no leader with a quorum is known".to_owned());
        }
        reasons.extend(self.disk_reason());
        let disk = |id: NodeId| {
            if id == identity.node_id { self.disk() } else { self.inner.disks.get(id) }
        };
        ClusterStatus {
            node_id: identity.node_id,
            cluster_id: identity.cluster_id(),
            leader,
            term: metrics.current_term,
            quorum: leader.is_some(),
            members: status::members(&metrics, leader, disk),
            reasons,
        }
    }

    /// Resolves when the node has ended without being asked, with the reason.
    pub async fn failed(&self) -> NodeFailure {
        let mut metrics = self.inner.raft.metrics();
        let mut failure = self.inner.failure.subscribe();
        loop {
            if let Some(reason) = failure.borrow_and_update().clone() {
                return reason;
            }
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                return self.inner.broken(fatal);
            }
            tokio::select! {
                biased;
                _ = failure.changed() => {}
                changed = metrics.changed() => if changed.is_err() {
                    return NodeFailure::Broken { reason: "raft ended".to_owned() };
                },
            }
        }
    }
}

impl Inner {
    fn report<E: std::fmt::Display>(&self, result: Result<(), E>) {
        if let Err(error) = result
            && !self.stop.is_cancelled()
        {
            tracing::error!(%error, "the node cannot go on");
            self.failure.send_replace(Some(self.broken(error)));
        }
    }

    /// Behind most errors of the storage is one of the disk, which says more.
    fn broken(&self, error: impl std::fmt::Display) -> NodeFailure {
        match self.disk.fault() {
            Some(fault) => NodeFailure::Disk { reason: fault.to_string() },
            None => NodeFailure::Broken { reason: error.to_string() },
        }
    }

    fn leader(&self, metrics: &RaftMetrics<TypeConfig>) -> Option<(NodeId, Member)> {
        let leader = metrics.current_leader?;
        let membership = metrics.membership_config.membership();
        let heard = if leader != self.identity.node_id {
            self.heard.within(QUORUM_HEARD_MAX)
        } else if !metrics.state.is_leader() {
            false
        } else if membership.voter_ids().eq([leader]) {
            true
        } else {
            let acked =
                metrics.last_quorum_acked.map(|acked| openraft::Instant::elapsed(&acked.into_inner()));
            acked.is_some_and(|age| age <= QUORUM_HEARD_MAX)
        };
        if !heard {
            return None;
        }
        Some((leader, membership.get_node(&leader)?.clone()))
    }
}

#[cfg(test)]
mod tests;
