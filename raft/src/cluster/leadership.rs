//! Who leads, as far as this node has heard.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;

use crate::limits::QUORUM_HEARD_MAX;
use crate::network::heard::Heard;
use crate::state_machine::Raft;
use crate::types::{Member, NodeId, TypeConfig};

/// This node's knowledge of its leader; clones share it.
#[derive(Clone)]
pub(super) struct Leadership {
    pub(super) node_id: NodeId,
    pub(super) raft: Raft,
    pub(super) heard: Arc<Heard>,
}

impl Leadership {
    /// What openraft says at this moment.
    pub(super) fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// Whether this node leads.
    pub(super) fn is_own(&self) -> bool {
        self.raft.is_leader()
    }

    /// The leader, if one is known and was heard lately (of this node: by a quorum).
    pub(super) fn leader(&self) -> Option<(NodeId, Member)> {
        self.leader_in(&self.raft.metrics().borrow_watched())
    }

    /// The leader at the time of `metrics`.
    pub(super) fn leader_in(&self, metrics: &RaftMetrics<TypeConfig>) -> Option<(NodeId, Member)> {
        let leader = self.leader_id(metrics)?;
        Some((leader, metrics.membership_config.membership().get_node(&leader)?.clone()))
    }

    /// Id of the leader at the time of `metrics`.
    pub(super) fn leader_id(&self, metrics: &RaftMetrics<TypeConfig>) -> Option<NodeId> {
        let leader = metrics.current_leader?;
        let heard = if leader != self.node_id {
            self.heard.within(QUORUM_HEARD_MAX)
        } else if !metrics.state.is_leader() {
            false
        } else if metrics.membership_config.membership().voter_ids().eq([leader]) {
            true
        } else {
            let acked =
                metrics.last_quorum_acked.map(|acked| openraft::Instant::elapsed(&acked.into_inner()));
            acked.is_some_and(|age| age <= QUORUM_HEARD_MAX)
        };
        heard.then_some(leader)
    }

    /// Whether this node leads, or has heard its leader no longer ago than `age`.
    pub(super) fn is_led_within(&self, age: Duration) -> bool {
        self.heard.within(age) || self.raft.metrics().borrow_watched().state.is_leader()
    }
}
