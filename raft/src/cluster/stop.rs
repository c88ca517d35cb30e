//! Handing leadership over, and the orderly end.

use openraft::async_runtime::WatchReceiver;
use tokio::time::timeout;

use crate::limits::{
    MESSAGES_MAX, POLL_INTERVAL, STOP_MESSAGES_TIMEOUT, STOP_TASKS_TIMEOUT, TRANSFER_TIMEOUT,
};
use crate::types::NodeId;

use super::{Inner, Node};

impl Node {
    /// Hands leadership to the voter that is furthest and answers; true if another node leads then.
    /// Best effort: a transfer cannot be taken back, so the target is asked first.
    pub async fn transfer_leader(&self) -> bool {
        timeout(TRANSFER_TIMEOUT, self.transfer()).await.unwrap_or(false)
    }

    async fn transfer(&self) -> bool {
        if !self.is_leader() {
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
        matches!(handed_over, Ok(Some(true))) && self.leader().is_some_and(|(id, _)| id == target)
    }

    /// `None`: it does not answer, nothing was done.
    async fn hand_over(&self, target: NodeId, address: &str) -> Option<bool> {
        let answer = self.inner.client.whoami(address).await;
        if !answer.is_ok_and(|whoami| whoami.node_id == target) {
            return None;
        }
        tracing::info!(target, "hands leadership over");
        if self.inner.raft.trigger().transfer_leader(target).await.is_err() {
            return Some(false);
        }
        while self.is_leader() || self.leader().is_none() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Some(true)
    }

    /// The other voters with their raft addresses, the furthest first, those whose disks are low last.
    pub(super) fn candidates(&self) -> Vec<(NodeId, String)> {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let matched =
            |id: &NodeId| metrics.replication.as_ref().and_then(|all| all.get(id).copied().flatten());
        let mut voters: Vec<NodeId> = membership.voter_ids().filter(|id| *id != metrics.id).collect();
        voters.sort_by_key(|id| (self.inner.disks.is_low(*id), std::cmp::Reverse(matched(id))));
        let address = |id: NodeId| Some((id, self.inner.whereabouts.address(id, membership.get_node(&id)?)));
        voters.into_iter().filter_map(address).collect()
    }

    /// Ends raft and the tasks, makes everything durable and closes both files: they can be opened
    /// again at once, whoever still holds a clone of the index. A leader should call
    /// [`Node::transfer_leader`] before.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.stop.cancel();
        if timeout(STOP_MESSAGES_TIMEOUT, inner.refuse_messages()).await.is_err() {
            tracing::info!("a message of another server is still coming in");
        }
        inner.closing.cancel();
        if let Err(error) = inner.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end cleanly");
        }
        inner.ended.cancel();
        inner.tasks.close();
        if timeout(STOP_TASKS_TIMEOUT, inner.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = inner.tasks.len(), "tasks of the node did not end");
        }
        if let Err(error) = inner.index.close().await {
            tracing::warn!(%error, "could not make the state durable");
        }
        inner.log.close().await;
    }
}

impl Inner {
    /// Runs a call that waits for a quorum; `None` if the node closes meanwhile, also where the call has just failed
    /// by that.
    pub(super) async fn unless_closing<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => None,
            done = call => Some(done),
        }
    }

    /// From now on other servers get 503; returns when what they sent before is answered.
    async fn refuse_messages(&self) {
        self.messages.close();
        while self.messages.available_permits() < MESSAGES_MAX || self.receiving.available_permits() < 1 {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
