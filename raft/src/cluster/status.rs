//! What a node says of its cluster.

use std::time::Duration;

use openraft::Membership;
use openraft::metrics::RaftMetrics;

use crate::format::{Range, Reads};
use crate::limits::QUORUM_HEARD_MAX;
use crate::network::identity::Identity;
use crate::space::DiskSpace;
use crate::types::{ClusterId, Member, NodeId, TypeConfig};

use super::currency::{Behind, behind};
use super::{Inner, LevelStatus, Node};

/// The part that a member has in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The member takes the writes.
    Leader,
    /// The member votes.
    Follower,
    /// Gets the log, does not vote.
    Learner,
}

/// When a member last answered its leader: an append, or a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Time since the leader sent what the member has answered; `None`: this leader has had no answer of it.
    pub age: Option<Duration>,
}

impl Contact {
    const NOW: Self = Self { age: Some(Duration::ZERO) };

    /// Whether the answer is younger than [`QUORUM_HEARD_MAX`].
    pub fn is_fresh(self) -> bool {
        self.age.is_some_and(|age| age <= QUORUM_HEARD_MAX)
    }
}

/// A member, as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Id of the member.
    pub node_id: NodeId,
    /// Addresses of the member.
    pub member: Member,
    /// What it does, as far as the answering node knows.
    pub role: Role,
    /// Log entries that it does not have yet; only the leader knows.
    pub lag: Option<u64>,
    /// When it last answered; only the leader knows.
    pub contact: Option<Contact>,
    /// Its disk; the leader knows all of them, others only their own.
    pub disk: Option<DiskSpace>,
    /// Levels that it can run at, as it said a moment ago; the leader knows all of them, others only their own.
    pub reads: Option<Range>,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Id of the node that answers.
    pub node_id: NodeId,
    /// `None` while the node is pristine.
    pub cluster_id: Option<ClusterId>,
    /// The leader, if one is known and heard.
    pub leader: Option<NodeId>,
    /// The raft term.
    pub term: u64,
    /// Whether a majority was heard of lately.
    pub quorum: bool,
    /// The level at which the cluster writes.
    pub level: LevelStatus,
    /// Members by node id.
    pub members: Vec<MemberInfo>,
    /// What keeps the node from being a healthy member; empty when all is well.
    pub reasons: Vec<String>,
}

impl Node {
    /// The cluster as this node sees it.
    pub fn status(&self) -> ClusterStatus {
        let Inner { leadership, contacts, stores, disks, reasons, .. } = &*self.inner;
        let metrics = leadership.metrics();
        let leader = leadership.leader_in(&metrics).map(|(id, _)| id);
        let identity = &contacts.identity;
        let mut reasons = reasons.get();
        reasons.extend(objections(identity, metrics.membership_config.membership()));
        if identity.cluster_id().is_some() && leader.is_none() {
            reasons.push(Behind::Unled.to_string());
        }
        reasons.extend(self.disk_reason());
        if leader.is_some() && self.is_member() {
            reasons.extend(behind(leadership, stores, &metrics).map(|behind| behind.to_string()));
        }
        let seen = |id: NodeId| match id == identity.node_id {
            true => (self.disk(), Some(Reads::of_this_build())),
            false => (disks.get(id), disks.reads(id)),
        };
        ClusterStatus {
            node_id: identity.node_id,
            cluster_id: identity.cluster_id(),
            leader,
            term: metrics.current_term,
            quorum: leader.is_some(),
            level: self.level_status(),
            members: members(&metrics, leader, seen),
            reasons,
        }
    }

    /// The disk of this node; `None` if it has no bounds, or could not be looked at.
    pub fn disk(&self) -> Option<DiskSpace> {
        self.inner.stores.guard.disk()
    }

    /// What an operator should know of the disks.
    fn disk_reason(&self) -> Option<String> {
        if let Some(reason) = self.no_room() {
            return Some(format!("no writes: {reason}"));
        }
        let disk = self.disk().filter(|disk| disk.low)?;
        Some(format!("the disk is low, no more entries are stored: {disk}"))
    }

    /// Why nothing should be made durable here that can wait, if that is so: on a disk without any room that
    /// would end the node, which can still answer lookups.
    pub fn no_room_for_upkeep(&self) -> Option<String> {
        let guard = &self.inner.stores.guard;
        let disk = guard.disk().filter(|_| !guard.has_room_for_upkeep())?;
        Some(format!("the disk is all but full: {disk}"))
    }
}

/// Members with roles and, on the leader, lags.
fn members(
    metrics: &RaftMetrics<TypeConfig>,
    leader: Option<NodeId>,
    seen: impl Fn(NodeId) -> (Option<DiskSpace>, Option<Reads>),
) -> Vec<MemberInfo> {
    let membership = metrics.membership_config.membership();
    let voters: Vec<NodeId> = membership.voter_ids().collect();
    let last = metrics.last_log_index.map_or(0, |index| index + 1);
    let info = |(id, member): (&NodeId, &Member)| {
        let role = match () {
            () if leader == Some(*id) => Role::Leader,
            () if voters.contains(id) => Role::Follower,
            () => Role::Learner,
        };
        let matched = metrics.replication.as_ref().and_then(|all| all.get(id));
        let lag = matched.map(|matched| last.saturating_sub(matched.map_or(0, |matched| matched.index + 1)));
        let lag = if *id == metrics.id && metrics.replication.is_some() { Some(0) } else { lag };
        let contact = metrics.heartbeat.as_ref().map(|answered| match answered.get(id) {
            _ if *id == metrics.id => Contact::NOW,
            Some(Some(sent)) => Contact { age: Some(openraft::Instant::elapsed(&**sent)) },
            _ => Contact { age: None },
        });
        let (disk, reads) = seen(*id);
        let reads = reads.map(|reads| reads.level);
        MemberInfo { node_id: *id, member: member.clone(), role, lag, contact, disk, reads }
    };
    membership.nodes().map(info).collect()
}

/// What this node was started with and its membership says otherwise. It goes by the membership.
fn objections(identity: &Identity, membership: &Membership<NodeId, Member>) -> Vec<String> {
    let mut members: Vec<&str> = membership.nodes().map(|(_, member)| member.raft_address.as_str()).collect();
    members.sort();
    let mut objections = Vec::new();
    if !members.is_empty() && !identity.list.is_empty() && members != identity.list {
        let (list, members) = (identity.list.join(","), members.join(","));
        objections.push(format!("the list of servers is {list}, but the membership says {members}"));
    }
    let Some(own) = membership.get_node(&identity.node_id) else { return objections };
    if let Some(is) = identity.raft_address()
        && is != own.raft_address
    {
        let was = &own.raft_address;
        objections.push(format!("raft is at {is}, but the membership says {was}: the others look there"));
    }
    let is = identity.api_address();
    if is != own.api_address {
        let was = &own.api_address;
        objections.push(format!("the discovery API is at {is}, but the membership says {was}"));
    }
    objections
}
