//! Whether this node still is a member: a removed one must end, and say why, instead of asking for
//! votes forever.
//!
//! Nobody tells it while it is away, and the leader stops sending to it as soon as the membership has
//! forgotten it. But it asks the members that it knows all the time (`reach`), and one that has applied
//! the removal answers 410. Its own vote requests are answered the same. A node whose build does not know the level
//! that the cluster has begun meanwhile hears no leader: it ends too, and names both.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::format::{Reads, UnknownLevel};
use crate::limits::{STANDING_ASK_AFTER, STANDING_LOOK_INTERVAL};

use super::NodeFailure;
use super::contacts::Contacts;
use super::leadership::Leadership;
use super::members::Changes;
use super::stores::Stores;

/// The task that learns of this node's removal.
pub(super) struct StandingWatch {
    pub(super) contacts: Contacts,
    pub(super) leadership: Leadership,
    pub(super) stores: Stores,
    pub(super) changes: Arc<Changes>,
    pub(super) stop: CancellationToken,
}

impl StandingWatch {
    /// Watches this node's standing until the node stops, or learns that it was removed.
    pub(super) async fn run(&self) -> Result<(), NodeFailure> {
        let identity = &self.contacts.identity;
        let mut removed = identity.removed();
        loop {
            let wait = tokio::time::timeout(STANDING_LOOK_INTERVAL, removed.wait_for(|removed| *removed));
            match self.stop.run_until_cancelled(wait).await {
                None => return Ok(()),
                Some(Ok(_)) => break,
                Some(Err(_)) => {}
            }
            if self.is_removed() {
                break;
            }
            let last = self.leadership.metrics().last_log_index;
            self.changes.recent.note(Instant::now(), last.unwrap_or(0));
            self.stop.run_until_cancelled(self.changes.finish_joint()).await;
            if identity.cluster_id().is_some() && !self.leadership.is_led_within(STANDING_ASK_AFTER) {
                self.stop.run_until_cancelled(self.ask_standing()).await;
                if let Some(known) = self.stop.run_until_cancelled(self.ask_level()).await {
                    known?;
                }
            }
        }
        let node_id = identity.node_id;
        let identity = identity.clone();
        let stored = self.stores.threads.blocking(move || identity.store_removed()).await;
        if let Ok(Err(error)) = stored {
            tracing::warn!(%error, "could not note that this server was removed");
        }
        Err(NodeFailure::Removed { node_id })
    }

    /// This node has applied its own removal.
    fn is_removed(&self) -> bool {
        let me = self.contacts.identity.node_id;
        self.stores.index.is_tombstone(me)
            && self.stores.index.applied_state().1.membership().get_node(&me).is_none()
    }

    /// Who was removed before the first entry reached it knows only the member that it was to join by; the
    /// members that a node knows are asked anyway (`reach`).
    async fn ask_standing(&self) {
        let Contacts { identity, client, join, .. } = &self.contacts;
        let Some(address) = join else { return };
        if let Ok(member) = client.whoami(address).await
            && let Some(header) = identity.header(member.node_id)
            && let Err(error) = self.contacts.say_where(address, header).await
        {
            identity.hear(&error);
        }
    }

    /// Whether the cluster writes what this build does not know: then no leader can be heard here.
    async fn ask_level(&self) -> Result<(), NodeFailure> {
        let reads = Reads::of_this_build().level;
        let own = self.contacts.identity.cluster_id().map(|id| id.to_string());
        for (id, member) in self.contacts.other_members() {
            let Some(whoami) = self.contacts.ask(id, &member).await else { continue };
            let Some(active) = whoami.level.filter(|level| !reads.contains(level.0)) else { continue };
            if whoami.cluster_id == own {
                return Err(UnknownLevel { active, reads }.into());
            }
        }
        Ok(())
    }
}
