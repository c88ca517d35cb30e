//! Wire types of the membership.
//!
//! A client repeats the request for a change until the change is done. Each answer has the progress, and each
//! request may be repeated at any server.

use serde::{Deserialize, Serialize};

use super::path;

/// Kind of a change of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersAction {
    /// Adds waiting servers as members.
    Add,
    /// Replaces a member by a waiting server.
    Replace,
    /// Removes a member.
    Remove,
    /// Makes another voter the leader.
    TransferLeader,
    /// Begins the highest level that all members know.
    Activate,
}

impl MembersAction {
    /// Path that the change is posted to.
    pub fn path(self) -> &'static str {
        match self {
            Self::Add => path::MEMBERS_ADD,
            Self::Replace => path::MEMBERS_REPLACE,
            Self::Remove => path::MEMBERS_REMOVE,
            Self::TransferLeader => path::MEMBERS_TRANSFER,
            Self::Activate => path::MEMBERS_ACTIVATE,
        }
    }
}

/// Body of a request for a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersRequest {
    /// For add: raft addresses of the new servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// For replace: raft address of the new server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// For replace (the old one), remove and transfer-leader: node id (hex) or raft address of a member.
    /// Absent for transfer-leader: the voter with the most recent log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

/// Answer 200 of a change. A 409 has a [`super::Message`]: the change is refused, and nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersProgress {
    /// True if nothing is left to do.
    pub done: bool,
    /// What the change waits for: `snapshot` (position and goal in bytes, the goal is an estimate), `log`
    /// (log indices), `leadership` or `step`; `done` at the end.
    pub phase: String,
    /// Node id of the server that the step is about, 16 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Progress so far, in the unit of the phase.
    #[serde(default)]
    pub position: u64,
    /// Progress at the end of the phase; 0: unknown.
    #[serde(default)]
    pub goal: u64,
    /// Text for people.
    pub message: String,
}

/// Answer 200 of members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersResponse {
    /// Cluster id, 32 hex digits; empty before the server has joined a cluster.
    pub cluster: String,
    /// Node id of the answering server, which is the leader if there is one.
    pub node: String,
    /// True if a majority answers.
    pub quorum: bool,
    /// Number of voters.
    pub voters: u64,
    /// Number of voters that must answer.
    pub majority: u64,
    /// Number of voters that answer the leader, itself included; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answering: Option<u64>,
    /// All members, sorted by node id.
    pub members: Vec<MemberEntry>,
    /// What is wrong with the answering server as a member.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// One server in [`MembersResponse`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEntry {
    /// Node id, 16 hex digits.
    pub node: String,
    /// `host:port` of its raft RPC.
    pub raft_address: String,
    /// `host:port` of its API.
    pub api_address: String,
    /// `leader`, `voter` or `learner`.
    pub role: String,
    /// Log entries that the member lacks; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Whether the member has answered the leader recently; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<bool>,
    /// Milliseconds since the leader sent the last request that the member has answered; absent if there is
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_ms_ago: Option<u64>,
    /// True if its removal has begun. The same request again completes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}
