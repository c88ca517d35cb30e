//! One node's life in its cluster: birth, proposals, leadership, status, stop.
//!
//! - `bootstrap`: how a cluster is born, and how a node waits to be admitted to one.
//! - `levels`: what the servers have agreed to write.
//! - `members`: add, replace, remove.
//! - `offline`: a new cluster of one from a snapshot, or from what is left of another.
//! - `opening`: its start: files first, then names.
//! - `reach`: where the other members are, and connections that are there before they are needed.
//! - `proposals`: writes, and what bounds them.
//! - `compaction`: which part of the log may go.
//! - `space`: a disk that is getting full.
//! - `currency`: whether a node has all that was acknowledged.
//! - `env`: all that a node takes from outside.
//! - `error`: why a node does not start, and why it ends.
//! - `settings`: how openraft runs here.
//! - `standing`: a removed node learns that it is one.
//! - `stop`: handing leadership over, and the orderly end.
//! - `stores`: whether log and state belong together.
//! - `tasks`: the background tasks, each with a name and a watcher.
//! - `timing`: intervals of its upkeep.

mod bootstrap;
mod compaction;
mod currency;
mod env;
mod error;
mod levels;
mod members;
pub mod offline;
mod opening;
mod proposals;
mod reach;
mod settings;
pub(crate) mod space;
mod standing;
mod status;
mod stop;
mod stores;
mod tasks;
mod timing;

use std::fmt::Display;
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

use crate::format::Reads;
use crate::index::Index;
use crate::limits::POLL_INTERVAL;
use crate::log::LogStore;
use crate::network::client::RpcClient;
use crate::network::heard::Heard;
use crate::network::identity::Identity;
use crate::network::names::Names;
use crate::network::peer::{Refusing, Streams};
use crate::network::reach::Scout;
use crate::network::server::{self, RpcState};
use crate::network::whereabouts::Whereabouts;
use crate::space::Guard;
use crate::state_machine::Raft;
use crate::types::{ClusterId, Member, NodeId, TypeConfig};
use crate::watch;

pub use crate::network::identity::NodeNames;
pub use crate::network::reach::ApiPort;
pub use crate::space::DiskSpace;
pub use compaction::Keep;
pub use currency::Behind;
pub use env::Env;
pub use error::{NodeFailure, StartError};
pub use levels::{LevelStatus, LevelTimes, NO_WAY_BACK, NextLevel};
pub use members::{BadWho, Change, MembersError, Phase, Progress, Refusal, Who};
pub use opening::Opened;
pub use proposals::{ProposeError, Proposed};
pub use status::{ClusterStatus, Contact, MemberInfo, Role};
pub use timing::Timing;

use levels::Counting;
use members::{Recent, Seeding};
use proposals::{Budget, Together};
use space::Disks;
use status::Reasons;

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
    /// A node without data that is alone in its list listens for so long before it founds a cluster: one that
    /// lost its disk is sent what was meant for the member that it was.
    pub found_after: Duration,
    /// Looks who answers at the API addresses of other servers; `None`: nobody does.
    pub api_port: Option<Arc<dyn ApiPort>>,
}

/// A handle on the node; clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    guard: Arc<Guard>,
    /// What the members said lately of their disks and formats; filled on the leader only.
    disks: Disks,
    /// Time during which all members could run at the next level; counted on the leader only.
    counting: Counting,
    refusing: Refusing,
    identity: Arc<Identity>,
    raft: Raft,
    log: LogStore,
    index: Index,
    client: RpcClient,
    whereabouts: Whereabouts,
    streams: Streams,
    heard: Arc<Heard>,
    /// See [`RpcState`].
    receiving: Arc<Semaphore>,
    messages: Arc<Semaphore>,
    looking: Arc<Semaphore>,
    /// Raft address of a member of the cluster that this node waits to be admitted to.
    join: Option<String>,
    /// How long this node listens before it founds a cluster: see [`NodeConfig::found_after`].
    found_after: Duration,
    api_port: Option<Arc<dyn ApiPort>>,
    /// One change of the membership at a time.
    changing: Semaphore,
    seeding: Seeding,
    recent: Recent,
    /// Spares each lookup the metrics.
    was_member: AtomicBool,
    reasons: Reasons,
    budget: Budget,
    together: Together,
    /// Bootstrap, flusher, compaction, proposals in flight, connections to other servers.
    tasks: TaskTracker,
    /// The background tasks stop; proposals and connections go on, to hand leadership over.
    stop: CancellationToken,
    /// Calls that wait for a quorum end: openraft logs those that it has to break off as errors.
    closing: CancellationToken,
    /// Connections are cut.
    ended: CancellationToken,
    failure: watch::Sender<Option<NodeFailure>>,
}

impl Node {
    /// The routes that other servers call, to be served on the raft listener.
    pub fn router(&self) -> Router {
        let inner = self.inner.clone();
        server::router(RpcState {
            end: Arc::new(move |error| {
                if let Err(failure) = inner.unless_stopping(Err(error)) {
                    inner.end(failure);
                }
            }),
            identity: self.inner.identity.clone(),
            raft: self.inner.raft.clone(),
            heard: self.inner.heard.clone(),
            receiving: self.inner.receiving.clone(),
            messages: self.inner.messages.clone(),
            looking: self.inner.looking.clone(),
            index: self.inner.index.clone(),
            guard: self.inner.guard.clone(),
            log: self.inner.log.clone(),
            threads: self.inner.env.threads.clone(),
            scout: self.inner.scout(),
            whereabouts: self.inner.whereabouts.clone(),
        })
    }

    /// What is known of the addresses of servers' names.
    pub fn names(&self) -> &Names {
        self.inner.client.names()
    }

    /// The index of this node.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }

    /// The cluster that this node belongs to; `None` while it is pristine.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.inner.identity.cluster_id()
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
            reasons.push(Behind::Unled.to_string());
        }
        reasons.extend(self.disk_reason());
        if leader.is_some() && self.is_member() {
            reasons.extend(self.inner.behind(&metrics).map(|behind| behind.to_string()));
        }
        let seen = |id: NodeId| match id == identity.node_id {
            true => (self.disk(), Some(Reads::of_this_build())),
            false => (self.inner.disks.get(id), self.inner.disks.reads(id)),
        };
        ClusterStatus {
            node_id: identity.node_id,
            cluster_id: identity.cluster_id(),
            leader,
            term: metrics.current_term,
            quorum: leader.is_some(),
            level: self.level_status(),
            members: status::members(&metrics, leader, seen),
            reasons,
        }
    }

    /// Resolves when the node has ended without being asked, with the reason.
    pub async fn failed(&self) -> NodeFailure {
        let mut metrics = self.inner.raft.metrics();
        let mut failure = self.inner.failure.subscribe();
        loop {
            if let Some(reason) = failure.latest() {
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
    fn scout(&self) -> Scout {
        Scout { client: self.client.clone(), api: self.api_port.clone() }
    }

    /// Behind most errors of the storage is one of the disk, which says more.
    fn broken(&self, error: impl Display) -> NodeFailure {
        if let Some(unknown) = self.index.refused_level() {
            return NodeFailure::Level(unknown);
        }
        match self.env.disk.fault() {
            Some(fault) => {
                tracing::error!(%error, "the storage failed");
                NodeFailure::Disk { reason: fault.to_string() }
            }
            None => NodeFailure::Broken { reason: error.to_string() },
        }
    }

    fn leader(&self, metrics: &RaftMetrics<TypeConfig>) -> Option<(NodeId, Member)> {
        let leader = self.leader_id(metrics)?;
        Some((leader, metrics.membership_config.membership().get_node(&leader)?.clone()))
    }
}

#[cfg(test)]
mod tests;
