//! Whether this server may decide on writes and heartbeats, or who else may.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use piccolo_raft::cluster::Node;

/// No term: this server is not ready to decide.
const NONE: u64 = 0;

/// The leadership of this server; clones share it.
#[derive(Clone)]
pub struct Leadership {
    node: Node,
    /// The term in which this server is ready to decide, or [`NONE`].
    ready_term: Arc<AtomicU64>,
}

impl Leadership {
    /// Not ready to decide in any term.
    pub fn new(node: Node) -> Self {
        Self { node, ready_term: Arc::new(AtomicU64::new(NONE)) }
    }

    /// This server leads `term`, has applied every entry from before it, and has a lease for every host.
    pub fn begin_term(&self, term: u64) {
        self.ready_term.store(term, Ordering::Release);
    }

    /// This server is no longer ready to decide, or not yet in its new term.
    pub fn end_term(&self) {
        self.begin_term(NONE);
    }

    /// Whether this server may decide now: it leads with a quorum, in a term that it is ready for.
    pub fn is_ready(&self) -> bool {
        let ready = self.ready_term.load(Ordering::Acquire);
        ready != NONE && self.node.is_leader() && self.node.term() == ready && self.node.has_quorum()
    }

    /// API address of the leader, if another server leads and was heard of within the last election timeout.
    pub fn other_leader(&self) -> Option<String> {
        if self.node.is_leader() || !self.node.has_quorum() {
            return None;
        }
        self.node.leader().map(|(_, member)| member.api_address)
    }

    /// Whether a node other than the one with this API address leads.
    pub fn has_moved_from(&self, api_address: &str) -> bool {
        let leader = self.node.leader();
        leader.is_some_and(|(_, member)| self.node.is_leader() || member.api_address != api_address)
    }
}
