//! Wire types of the membership.
//!
//! A change is asked for again and again until it is done: each answer says how far it is, and each
//! request may be repeated, at any server.

use serde::{Deserialize, Serialize};

use super::path;

/// What is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersAction {
    /// Waiting servers become members.
    Add,
    /// A waiting server takes the place of a member.
    Replace,
    /// A member leaves.
    Remove,
    /// Another voter leads.
    TransferLeader,
    /// The highest level that all members know begins.
    Activate,
}

impl MembersAction {
    /// Where it is posted.
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

/// Body of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersRequest {
    /// Raft addresses of the new servers; add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Raft address of the new server; replace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Node id (hex) or raft address of a member; replace (the old one), remove, and transfer-leader
    /// (absent: the one that is furthest).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

/// 200 of a change. 409 is [`super::Message`]: it is refused, nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersProgress {
    /// Nothing is left to do.
    pub done: bool,
    /// What it waits for: `snapshot` (position and goal in bytes, the goal is a guess), `log` (log
    /// indices), `leadership`, `step`; `done`.
    pub phase: String,
    /// Node id that it is about, 16 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How far.
    #[serde(default)]
    pub position: u64,
    /// Of how much; 0: unknown.
    #[serde(default)]
    pub goal: u64,
    /// For people.
    pub message: String,
}

/// 200 of members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersResponse {
    /// Cluster id, 32 hex digits; empty while none has formed.
    pub cluster: String,
    /// Node id of the answering server: of the leader, if there is one.
    pub node: String,
    /// Whether a majority answers.
    pub quorum: bool,
    /// Voters.
    pub voters: u64,
    /// Of those, how many must answer.
    pub majority: u64,
    /// Voters that answer the leader, itself included; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answering: Option<u64>,
    /// All of them, by node id.
    pub members: Vec<MemberEntry>,
    /// What keeps the answering server from being a healthy member.
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
    /// Log entries it lacks; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Whether it has answered the leader within the last moments; only the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<bool>,
    /// Milliseconds since the leader sent what it has answered; absent if this leader has had no answer of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_ms_ago: Option<u64>,
    /// Its removal has begun: asking for it again ends it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}
