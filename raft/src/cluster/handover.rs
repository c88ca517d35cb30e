//! Hands leadership to another voter.

use std::sync::Arc;

use tokio::time::timeout;

use crate::limits::{POLL_INTERVAL, TRANSFER_TIMEOUT};
use crate::types::NodeId;

use super::Node;
use super::contacts::Contacts;
use super::disks::Disks;
use super::leadership::Leadership;

impl Node {
    /// Hands leadership to the voter that is furthest and answers; true if another node leads then.
    /// Best effort: a transfer cannot be taken back, so the target is asked first.
    pub async fn transfer_leader(&self) -> bool {
        timeout(TRANSFER_TIMEOUT, self.inner.handover.transfer()).await.unwrap_or(false)
    }
}

/// Hands leadership to other voters. Clones share what they know of them.
#[derive(Clone)]
pub(super) struct Handover {
    pub(super) leadership: Leadership,
    pub(super) contacts: Contacts,
    pub(super) disks: Arc<Disks>,
}

impl Handover {
    /// Hands leadership to the voter that is furthest and answers; true if another node leads then.
    pub(super) async fn transfer(&self) -> bool {
        if !self.leadership.is_own() {
            return false;
        }
        for (target, address) in self.candidates() {
            if let Some(done) = self.hand_over(target, &address).await {
                return done;
            }
        }
        false
    }

    /// Hands leadership to the first of them that answers; true if it leads then.
    pub(super) async fn hand_over_to_any(&self, to: &mut impl Iterator<Item = (NodeId, String)>) -> bool {
        for (target, address) in to {
            match timeout(TRANSFER_TIMEOUT, self.hand_over(target, &address)).await {
                Ok(None) => {}
                Ok(Some(done)) => return done,
                Err(_) => return false,
            }
        }
        false
    }

    /// Hands leadership to one voter; true if it leads then.
    pub(super) async fn hand_over_to(&self, target: NodeId, address: &str) -> bool {
        let handed_over = timeout(TRANSFER_TIMEOUT, self.hand_over(target, address)).await;
        matches!(handed_over, Ok(Some(true))) && self.leadership.leader().is_some_and(|(id, _)| id == target)
    }

    /// `None`: it does not answer, nothing was done.
    async fn hand_over(&self, target: NodeId, address: &str) -> Option<bool> {
        let answer = self.contacts.client.whoami(address).await;
        if !answer.is_ok_and(|whoami| whoami.node_id == target) {
            return None;
        }
        tracing::info!(target, "hands leadership over");
        if self.leadership.raft.trigger().transfer_leader(target).await.is_err() {
            return Some(false);
        }
        while self.leadership.is_own() || self.leadership.leader().is_none() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Some(true)
    }

    /// The other voters with their raft addresses, the furthest first, those whose disks are low last.
    pub(super) fn candidates(&self) -> Vec<(NodeId, String)> {
        let metrics = self.leadership.metrics();
        let membership = metrics.membership_config.membership();
        let matched =
            |id: &NodeId| metrics.replication.as_ref().and_then(|all| all.get(id).copied().flatten());
        let mut voters: Vec<NodeId> = membership.voter_ids().filter(|id| *id != metrics.id).collect();
        voters.sort_by_key(|id| (self.disks.is_low(*id), std::cmp::Reverse(matched(id))));
        let address = |id: NodeId| Some((id, self.contacts.address(id, membership.get_node(&id)?)));
        voters.into_iter().filter_map(address).collect()
    }
}
