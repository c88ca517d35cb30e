//! Whether this node still is a member: a removed one must end, and say why, instead of asking for
//! votes forever.
//!
//! Nobody tells it while it is away, and the leader stops sending to it as soon as the membership has
//! forgotten it. But it asks the members that it knows all the time (`reach`), and one that has applied
//! the removal answers 410. Its own vote requests are answered the same. A node whose build does not know the level
//! that the cluster has begun meanwhile hears no leader: it ends too, and names both.

use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use crate::format::{Reads, UnknownLevel};
use crate::limits::{STANDING_ASK_AFTER, STANDING_LOOK_INTERVAL};
use crate::network::Header;
use crate::network::client::CallError;

use super::{Inner, NodeFailure};

/// Until this node learns that it was removed, or stops.
pub(super) async fn run(inner: &Inner) -> Result<(), NodeFailure> {
    let mut removed = inner.identity.removed();
    loop {
        let wait = tokio::time::timeout(STANDING_LOOK_INTERVAL, removed.wait_for(|removed| *removed));
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
            if let Some(known) = inner.stop.run_until_cancelled(inner.ask_level()).await {
                known?;
            }
        }
    }
    let identity = inner.identity.clone();
    let stored = inner.env.threads.blocking(move || identity.store_removed()).await;
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
        self.heard.within(STANDING_ASK_AFTER) || self.raft.metrics().borrow_watched().state.is_leader()
    }

    /// Who was removed before the first entry reached it knows only the member that it was to join by; the
    /// members that a node knows are asked anyway (`reach`).
    async fn ask_standing(&self) {
        let Some(address) = &self.join else { return };
        if let Ok(member) = self.client.whoami(address).await
            && let Some(header) = self.identity.header(member.node_id)
            && let Err(error) = self.say_where(address, header).await
        {
            self.identity.hear(&error);
        }
    }

    /// Whether the cluster writes what this build does not know: then no leader can be heard here.
    async fn ask_level(&self) -> Result<(), NodeFailure> {
        let reads = Reads::of_this_build().level;
        let own = self.identity.cluster_id().map(|id| id.to_string());
        for (id, member) in self.other_members() {
            let address = self.whereabouts.address(id, &member);
            let Ok(whoami) = self.client.whoami(&address).await else { continue };
            let Some(active) = whoami.level.filter(|level| !reads.contains(level.0)) else { continue };
            if whoami.node_id == id && whoami.cluster_id == own {
                return Err(UnknownLevel { active, reads }.into());
            }
        }
        Ok(())
    }

    /// Asks whether messages of this node are heard at `address`, and says where it is.
    pub(super) async fn say_where(&self, address: &str, header: Header) -> Result<(), CallError> {
        let (level, own) = (self.identity.level(), self.identity.raft_address());
        self.client.standing(address, header, level, own).await
    }
}
