//! One node's life in its cluster: birth, proposals, leadership, status, stop.
//!
//! A node is made of parts, each of which is given what it uses of the others:
//!
//! - `stores`: disk, log and state, and whether they belong together.
//! - `contacts`: the other servers, and how to ask them.
//! - `leadership`: who leads, as far as this node has heard.
//! - `lifetime`: the tasks of a node, each with a name and a watcher, and the signals that end them.
//! - `handover`: handing leadership over.
//! - `proposals`: writes, and what bounds them.
//! - `members`: add, replace, remove.
//! - `levels`: what the servers have agreed to write.
//! - `compaction`: which part of the log may go.
//! - `disks`: what a leader knows of the members' disks and formats.
//!
//! Tasks that are made of these parts, all started in `tasks`:
//!
//! - `bootstrap`: how a cluster is born, and how a node waits to be admitted to one.
//! - `standing`: a removed node learns that it is one.
//! - `reach`: where the other members are, and connections that are there before they are needed.
//! - `disk_watch`: the node's own disk, which may get full.
//! - `room`: what a leader does about disks that get full.
//!
//! What happens to a node as a whole:
//!
//! - `env`: all that a node takes from outside.
//! - `reasons`: why the cluster has not formed.
//! - `settings`: how openraft runs here.
//! - `timing`: intervals of its upkeep.
//! - `opening`: its start: files first, then names.
//! - `status`: what a node says of its cluster.
//! - `currency`: whether a node has all that was acknowledged.
//! - `stop`: the orderly end.
//! - `error`: why a node does not start, and why it ends.
//! - `offline`: a new cluster of one from a snapshot, or from what is left of another.

mod bootstrap;
mod compaction;
mod contacts;
mod currency;
mod disk_watch;
mod disks;
mod env;
mod error;
mod handover;
mod leadership;
mod levels;
mod lifetime;
mod members;
pub mod offline;
mod opening;
mod proposals;
mod reach;
mod reasons;
mod room;
mod settings;
mod standing;
mod status;
mod stop;
mod stores;
mod tasks;
mod timing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use crate::index::Index;
use crate::limits::POLL_INTERVAL;
use crate::network::names::Names;
use crate::network::server::{self, Permits, RpcState};
use crate::types::{ClusterId, Member, NodeId};

pub use crate::network::identity::NodeNames;
pub use crate::network::reach::ApiPort;
pub use crate::space::{DiskSpace, NoRoom, VoterWithoutRoom};
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

use compaction::LogCompaction;
use contacts::Contacts;
use disks::Disks;
use handover::Handover;
use leadership::Leadership;
use levels::Leveling;
use lifetime::Lifetime;
use members::Changes;
use proposals::Proposals;
use reasons::Reasons;
use stores::Stores;

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
    /// How long a node without data that is alone in its list listens before it founds a cluster: one that lost its
    /// disk is sent what was meant for the member that it was.
    pub found_after: Duration,
    /// Looks who answers at the API addresses of other servers; `None`: nobody does.
    pub api_port: Option<Arc<dyn ApiPort>>,
}

/// A handle on the node; clones share it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// The parts of a node. Each part is given what it uses of the others.
struct Inner {
    stores: Stores,
    contacts: Contacts,
    leadership: Leadership,
    /// For messages of other servers.
    permits: Permits,
    proposals: Proposals,
    handover: Handover,
    changes: Arc<Changes>,
    leveling: Arc<Leveling>,
    compaction: Arc<LogCompaction>,
    /// What the members said lately of their disks and formats; filled on the leader only.
    disks: Arc<Disks>,
    /// Why the cluster has not formed.
    reasons: Arc<Reasons>,
    /// Spares each lookup the metrics.
    was_member: AtomicBool,
    lifetime: Lifetime,
}

impl Node {
    /// The routes that other servers call, to be served on the raft listener.
    pub fn router(&self) -> Router {
        let Inner { stores, contacts, leadership, permits, lifetime, .. } = &*self.inner;
        let Stores { disk: _, threads, guard, log, index } = stores.clone();
        let (ending, of) = (lifetime.clone(), stores.clone());
        server::router(RpcState {
            end: Arc::new(move |error| {
                if let Err(failure) = ending.unless_stopping(&of, Err(error)) {
                    ending.end(failure);
                }
            }),
            identity: contacts.identity.clone(),
            raft: leadership.raft.clone(),
            heard: leadership.heard.clone(),
            permits: permits.clone(),
            index,
            guard,
            log,
            threads,
            scout: contacts.scout(),
            whereabouts: contacts.whereabouts.clone(),
        })
    }

    /// What is known of the addresses of servers' names.
    pub fn names(&self) -> &Names {
        self.inner.contacts.client.names()
    }

    /// The index of this node.
    pub fn index(&self) -> &Index {
        &self.inner.stores.index
    }

    /// The cluster that this node belongs to; `None` while it is pristine.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.inner.contacts.identity.cluster_id()
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.inner.leadership.is_own()
    }

    /// Whether this node is in the membership that it knows: false while it is pristine or waits to be
    /// admitted, also with the snapshot that it was brought before. Who once was stays so: a removed
    /// node ends.
    pub fn is_member(&self) -> bool {
        let inner = &self.inner;
        if inner.was_member.load(Ordering::Relaxed) {
            return true;
        }
        let metrics = inner.leadership.raft.metrics();
        let me = inner.leadership.node_id;
        let member = metrics.borrow_watched().membership_config.membership().get_node(&me).is_some();
        if member {
            inner.was_member.store(true, Ordering::Relaxed);
        }
        member
    }

    /// The leader, if one is known and was heard lately (of this node: by a quorum).
    pub fn leader(&self) -> Option<(NodeId, Member)> {
        self.inner.leadership.leader()
    }

    /// On the leader: a majority answered lately; elsewhere: a leader was heard lately.
    pub fn has_quorum(&self) -> bool {
        self.leader().is_some()
    }

    /// The raft term.
    pub fn term(&self) -> u64 {
        self.inner.leadership.raft.metrics().borrow_watched().current_term
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

    /// Resolves when the node has ended without being asked, with the reason.
    pub async fn failed(&self) -> NodeFailure {
        let Inner { leadership, lifetime, stores, .. } = &*self.inner;
        let mut metrics = leadership.raft.metrics();
        let mut failure = lifetime.failure.subscribe();
        loop {
            if let Some(reason) = failure.latest() {
                return reason;
            }
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                return stores.failure(fatal.clone());
            }
            tokio::select! {
                biased;
                _ = failure.changed() => {}
                changed = metrics.changed() => if changed.is_err() {
                    return NodeFailure::RaftEnded;
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
