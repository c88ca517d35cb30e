//! Where the other members are, if not where the membership says.
//!
//! An address is not an identity: a member may have another one after a restart, and the membership learns it
//! only when there is a leader again. Until then each node uses what it has found out by itself: an address
//! at which that member's id and cluster have answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;

use crate::limits::WHEREABOUTS_SILENT_AFTER;
use crate::types::{Member, NodeId};

/// What is known of all other members; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whereabouts(Arc<Mutex<BTreeMap<NodeId, Known>>>);

/// What is known of one member.
#[derive(Debug, Default)]
struct Known {
    /// Raft address of the member in the membership, when that was last looked at.
    listed: String,
    /// Where it has answered since, if that is elsewhere.
    found: Option<String>,
    /// Where it says that it is; not verified.
    claimed: Option<String>,
    /// Since when it does not answer.
    silent_since: Option<Instant>,
    /// Address of the member's discovery API, as its last whoami said.
    api_address: Option<String>,
}

impl Whereabouts {
    fn all(&self) -> MutexGuard<'_, BTreeMap<NodeId, Known>> {
        self.0.lock().expect("nothing panics while it holds the whereabouts")
    }

    /// `host:port` of a member's raft RPC.
    pub(crate) fn address(&self, node_id: NodeId, member: &Member) -> String {
        self.found(node_id, member).unwrap_or_else(|| member.raft_address.clone())
    }

    /// The raft address at which a member was found, if it is not the one of the membership.
    pub(crate) fn found(&self, node_id: NodeId, member: &Member) -> Option<String> {
        let all = self.all();
        // A membership that has changed since knows better.
        let known = all.get(&node_id).filter(|known| known.listed == member.raft_address)?;
        known.found.clone()
    }

    /// Notes that a member has answered, by its id, where it was asked.
    pub(crate) fn answers(&self, node_id: NodeId) {
        self.all().entry(node_id).or_default().silent_since = None;
    }

    /// Notes that a member has not answered; true if that has gone on for [`WHEREABOUTS_SILENT_AFTER`].
    pub(crate) fn is_silent(&self, node_id: NodeId) -> bool {
        let mut all = self.all();
        let since = *all.entry(node_id).or_default().silent_since.get_or_insert_with(Instant::now);
        since.elapsed() >= WHEREABOUTS_SILENT_AFTER
    }

    /// Its id and its cluster have answered at `address`.
    pub(crate) fn found_at(&self, node_id: NodeId, member: &Member, address: &str) {
        let mut all = self.all();
        let known = all.entry(node_id).or_default();
        known.listed.clone_from(&member.raft_address);
        known.found = Some(address.to_owned()).filter(|found| *found != member.raft_address);
        known.silent_since = None;
    }

    /// A message in its name says that it is at `address`.
    pub(crate) fn claims(&self, node_id: NodeId, address: String) {
        self.all().entry(node_id).or_default().claimed = Some(address);
    }

    /// Where it says that it is; whoever uses that asks there first who answers.
    pub(crate) fn claimed(&self, node_id: NodeId) -> Option<String> {
        self.all().get(&node_id)?.claimed.clone()
    }

    /// Its whoami says that its discovery API is there.
    pub(crate) fn note_api(&self, node_id: NodeId, address: &str) {
        self.all().entry(node_id).or_default().api_address = Some(address.to_owned());
    }

    /// Where its discovery API is by its last whoami, if it has answered one.
    pub(crate) fn api(&self, node_id: NodeId) -> Option<String> {
        self.all().get(&node_id)?.api_address.clone()
    }

    /// Forgets all servers that are no members.
    pub(crate) fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        self.all().retain(|node_id, _| is_member(*node_id));
    }
}
