//! The types openraft is instantiated with.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::command::{Command, Reply};

/// The async runtime under openraft: tokio, in this crate's own tests with random numbers that a simulation seeds.
pub use crate::runtime::Runtime;

/// Random and non-zero, made at a node's first start, never used again after a removal.
pub type NodeId = u64;

/// Random 128 bits, made when a cluster is born. A node speaks raft with its own cluster only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

/// What the membership says of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` of its raft RPC.
    pub raft_address: String,
    /// `host:port` of its discovery API, where followers forward writes to.
    pub api_address: String,
}

openraft::declare_raft_types!(
    /// openraft with our commands, u64 node ids, `Member` as node data and advanced leader ids.
    pub TypeConfig:
        D = Command,
        R = Reply,
        NodeId = NodeId,
        Node = Member,
        LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

/// A log id: leader id and index.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// An entry of the log.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// A vote as openraft stores it.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// The membership as the state machine stores it.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// Metadata of a snapshot as openraft has it.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
