//! Whether this node still is a member: a removed one must end, and say why, instead of asking for
//! votes forever.
//!
//! Nobody tells it while it is away, and the leader stops sending to it as soon as the membership has
//! forgotten it. So a node that hears no leader asks the members that it knows; one that has applied
//! the removal answers 410. Its own vote requests are answered the same.

use std::time::Duration;

use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use crate::blocking::blocking;
use crate::types::NodeId;

use super::{Inner, NodeFailure};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A node that has heard no leader for so long asks the others.
const ASK_AFTER: Duration = Duration::from_secs(2);

/// Until this node learns that it was removed, or stops.
pub(super) async fn run(inner: &Inner) -> Result<(), NodeFailure> {
    let mut removed = inner.identity.removed();
    loop {
        let wait = tokio::time::timeout(LOOK_INTERVAL, removed.wait_for(|removed| *removed));
        match inner.stop.run_until_cancelled(wait).await {
            None => return Ok(()),
            Some(Ok(_)) => break,
            Some(Err(_)) => {}
        }
        if inner.is_removed() {
            break;
        }
        let last = inner.raft.metrics().borrow_watched().last_log_index;
        inner.recent.note(Instant::now(), last.unwrap_or(0));
        inner.stop.run_until_cancelled(inner.finish_joint()).await;
        if inner.identity.cluster_id().is_some() && !inner.hears_a_leader() {
            inner.stop.run_until_cancelled(inner.ask_standing()).await;
        }
    }
    let identity = inner.identity.clone();
    let stored = blocking(move || identity.store_removed()).await;
    if let Ok(Err(error)) = stored {
        tracing::warn!(%error, "could not note that this server was removed");
    }
    Err(NodeFailure::Removed { node_id: inner.identity.node_id })
}

impl Inner {
    /// This node has applied its own removal.
    fn is_removed(&self) -> bool {
        let me = self.identity.node_id;
        self.index.is_tombstone(me) && self.index.applied_state().1.membership().get_node(&me).is_none()
    }

    fn hears_a_leader(&self) -> bool {
        self.heard.within(ASK_AFTER) || self.raft.metrics().borrow_watched().state.is_leader()
    }

    /// Asks everybody that this node knows. Who was removed before the first entry reached it knows
    /// only the member that it was to join by.
    async fn ask_standing(&self) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let others = membership.nodes().filter(|(id, _)| **id != metrics.id);
        let mut others: Vec<(NodeId, String)> =
            others.map(|(id, member)| (*id, member.raft_address.clone())).collect();
        if let Some(address) = &self.join
            && let Ok(member) = self.client.whoami(address).await
        {
            others.push((member.node_id, address.clone()));
        }
        join_all(others.iter().map(|(id, address)| self.ask_standing_of(*id, address))).await;
    }

    async fn ask_standing_of(&self, node_id: NodeId, address: &str) {
        let Some(header) = self.identity.header(node_id) else { return };
        if let Err(error) = self.client.standing(address, header).await {
            self.identity.hear(&error);
        }
    }
}
