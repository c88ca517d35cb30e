//! Whether this node has all that the cluster has acknowledged, as far as it can know: who may lack
//! something must not be the last word on what is not there.

use std::time::Duration;

use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;

use crate::limits::BEHIND_AFTER;
use crate::network::heard::Standing;
use crate::types::{NodeId, TypeConfig};

use super::{Inner, Node};

/// Why a node may lack what others have acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Behind {
    /// It is not in the membership that it knows.
    #[error("this server is not a member of its cluster yet")]
    NoMember,
    /// It hears no leader, or leads and hears no majority: the others may have gone on.
    #[error("no leader with a quorum is known")]
    Unled,
    /// It was started, cut off or elected, and has not applied yet what was committed before that.
    #[error("this server catches up with what the others have committed")]
    CatchingUp,
    /// Entries have been committed for some time that it has not applied.
    #[error("this server has applied the log up to entry {applied}, the others have committed {committed}")]
    Lags {
        /// Index of the last log entry that this server has applied.
        applied: u64,
        /// Index of the last log entry that the leader has reported as committed.
        committed: u64,
        /// How long the server has known of an entry that it lacks.
        since: Duration,
    },
}

impl Node {
    /// Why this node may lack what others have; `None` as long as it has all that it knows to be
    /// committed, and would know of more.
    pub fn behind(&self) -> Option<Behind> {
        if !self.is_member() {
            return Some(Behind::NoMember);
        }
        self.inner.behind(&self.inner.raft.metrics().borrow_watched())
    }

    /// API addresses of the other members; of a node that is no member, of those that it was started
    /// with and that belong to a cluster.
    pub async fn other_apis(&self) -> Vec<String> {
        let inner = &self.inner;
        let metrics = inner.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let others = membership.nodes().filter(|(id, _)| **id != metrics.id);
        let mut apis: Vec<String> = others.map(|(_, member)| member.api_address.clone()).collect();
        if !self.is_member() {
            let asking = self.inner.clone();
            let listed = async move { asking.listed_apis().await };
            // On the node's threads: the connections are kept for its messages.
            apis.extend(inner.tasks.spawn_on(listed, &inner.env.runtime).await.unwrap_or_default());
        }
        apis.sort();
        apis.dedup();
        apis
    }
}

impl Inner {
    /// API addresses of the servers that this node was started with and that belong to a cluster.
    async fn listed_apis(&self) -> Vec<String> {
        let listed = self.identity.list.iter().chain(&self.join);
        let answers = join_all(listed.map(|address| self.client.whoami(address))).await;
        let others = answers.into_iter().flatten();
        let others = others.filter(|other| other.boot_nonce != self.identity.boot_nonce);
        others.filter(|other| other.cluster_id.is_some()).map(|other| other.api_address).collect()
    }

    pub(super) fn behind(&self, metrics: &RaftMetrics<TypeConfig>) -> Option<Behind> {
        let applied = self.index.applied_index();
        if metrics.state.is_leader() {
            let applied_term = metrics.last_applied.as_ref().map(|id| id.leader_id.term);
            return match () {
                () if self.leader_id(metrics).is_none() => Some(Behind::Unled),
                // Its own first entry comes behind everything that was committed before.
                () if applied_term != Some(metrics.current_term) => Some(Behind::CatchingUp),
                () => None,
            };
        }
        match self.heard.standing(applied) {
            Standing::Silent => Some(Behind::Unled),
            Standing::CatchingUp => Some(Behind::CatchingUp),
            Standing::Follows { committed, missing_for: since } => {
                let lags = committed > applied && (self.guard.is_refusing() || since >= BEHIND_AFTER);
                lags.then_some(Behind::Lags { applied, committed, since })
            }
        }
    }

    /// The leader, if one is known and was heard lately (of this node: by a quorum).
    pub(super) fn leader_id(&self, metrics: &RaftMetrics<TypeConfig>) -> Option<NodeId> {
        let leader = metrics.current_leader?;
        let heard = if leader != self.identity.node_id {
            self.heard.within(crate::limits::QUORUM_HEARD_MAX)
        } else if !metrics.state.is_leader() {
            false
        } else if metrics.membership_config.membership().voter_ids().eq([leader]) {
            true
        } else {
            let acked =
                metrics.last_quorum_acked.map(|acked| openraft::Instant::elapsed(&acked.into_inner()));
            acked.is_some_and(|age| age <= crate::limits::QUORUM_HEARD_MAX)
        };
        heard.then_some(leader)
    }
}
