//! Whether this node has all that the cluster has acknowledged, as far as it can know: who may lack
//! something must not be the last word on what is not there.

use std::time::Duration;

use openraft::metrics::RaftMetrics;

use crate::limits::BEHIND_AFTER;
use crate::network::heard::Following;
use crate::types::TypeConfig;

use super::leadership::Leadership;
use super::stores::Stores;
use super::{Inner, Node};

/// Why a node may lack what others have acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Behind {
    /// The node is not in the membership that it knows.
    #[error("this server is not a member of its cluster yet")]
    NoMember,
    /// The node hears no leader, or leads and hears no majority: the others may have gone on.
    #[error("no leader with a quorum is known")]
    Unled,
    /// The node was started, cut off or elected, and has not applied yet what was committed before that.
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
        let Inner { leadership, stores, .. } = &*self.inner;
        behind(leadership, stores, &leadership.metrics())
    }

    /// API addresses of the other members; of a node that is no member, of those that it was started
    /// with and that belong to a cluster.
    pub async fn other_apis(&self) -> Vec<String> {
        let Inner { contacts, lifetime, .. } = &*self.inner;
        let others = contacts.other_members().into_iter();
        let mut apis: Vec<String> = others.map(|(_, member)| member.api_address).collect();
        if !self.is_member() {
            let asking = contacts.clone();
            let listed = lifetime.spawn_on_runtime(async move { asking.listed_apis().await });
            apis.extend(listed.await.unwrap_or_default());
        }
        apis.sort();
        apis.dedup();
        apis
    }
}

/// Why a member may lack what others have.
pub(super) fn behind(
    leadership: &Leadership,
    stores: &Stores,
    metrics: &RaftMetrics<TypeConfig>,
) -> Option<Behind> {
    let applied = stores.index.applied_index();
    if metrics.state.is_leader() {
        let applied_term = metrics.last_applied.as_ref().map(|id| id.leader_id.term);
        return match () {
            () if leadership.leader_id(metrics).is_none() => Some(Behind::Unled),
            // Its own first entry comes behind everything that was committed before.
            () if applied_term != Some(metrics.current_term) => Some(Behind::CatchingUp),
            () => None,
        };
    }
    match leadership.heard.standing(applied) {
        Following::Silent => Some(Behind::Unled),
        Following::CatchingUp => Some(Behind::CatchingUp),
        Following::Follows { committed, missing_for: since } => {
            let lags = committed > applied && (stores.guard.is_refusing() || since >= BEHIND_AFTER);
            lags.then_some(Behind::Lags { applied, committed, since })
        }
    }
}
