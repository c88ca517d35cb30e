//! `GET /api/v1/status`: the cluster as this server sees it.

use axum::Json;
use axum::extract::FromRef;
use piccolo_raft::cluster::{Contact, DiskSpace, Node, Role};
use piccolo_raft::index::Index;

use crate::api::{DiskStatus, MemberStatus, StatusResponse};
use crate::server::app::{App, Loaded};
use crate::server::cluster::level;
use crate::server::leases::fleet::FleetUsage;
use crate::task::Stop;

/// The parts that the status is made of.
#[derive(Clone)]
pub struct Status {
    node: Node,
    index: Index,
    fleet: FleetUsage,
    stop: Stop,
}

impl FromRef<App> for Status {
    fn from_ref(app: &App) -> Self {
        let (node, index) = (app.node.clone(), app.index.clone());
        Self { node, index, fleet: app.fleet.clone(), stop: app.stop.clone() }
    }
}

/// Answers with members, counts and checksum.
pub async fn handle(Loaded(status): Loaded<Status>) -> Json<StatusResponse> {
    let Status { node, index, fleet, stop } = status;
    let cluster = node.status();
    let counts = index.counts();
    let (applied_index, checksum) = index.checksum();
    let members = cluster.members.into_iter().map(|info| MemberStatus {
        node: node_id(info.node_id),
        raft_address: info.member.raft_address,
        api_address: info.member.api_address,
        role: role(info.role).to_owned(),
        lag: info.lag,
        answers: info.contact.map(Contact::is_fresh),
        answered_ms_ago: info.contact.and_then(answered_ms_ago),
        disk: info.disk.map(disk),
        reads: info.reads.map(level::range),
    });
    let sums = fleet.sums();
    Json(StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: cluster.cluster_id.map(|id| id.to_string()).unwrap_or_default(),
        node: node_id(cluster.node_id),
        leader: cluster.leader.map(node_id),
        quorum: cluster.quorum,
        current: node.behind().is_none() && !stop.is_cancelled(),
        term: cluster.term,
        applied_index,
        checksum: format!("{checksum:032x}"),
        level: level::answer(cluster.level),
        members: members.collect(),
        hosts: counts.hosts,
        hosts_hidden: counts.hosts_hidden,
        keys: counts.keys,
        pairs: counts.pairs,
        bytes_from_peers: sums.map(|sums| sums.bytes_from_peers),
        bytes_served: sums.map(|sums| sums.bytes_served),
        misses: sums.map(|sums| sums.misses),
        reasons: cluster.reasons,
    })
}

fn disk(disk: DiskSpace) -> DiskStatus {
    let DiskSpace { folder: _, free_bytes, total_bytes, minimum_bytes, low } = disk;
    DiskStatus { free_bytes, total_bytes, minimum_bytes, low }
}

/// Milliseconds since the last answer of a member, as answers name it.
pub fn answered_ms_ago(contact: Contact) -> Option<u64> {
    contact.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// A role as answers name it.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "voter",
        Role::Learner => "learner",
    }
}

/// A node id as answers name it: 16 hex digits.
pub fn node_id(id: u64) -> String {
    format!("{id:016x}")
}
