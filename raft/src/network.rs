//! Raft RPC over HTTP/1.1: `POST /raft/v1/{append,vote,pre-vote,transfer,snapshot,standing,reach,whoami}`.
//!
//! Every body but those of `whoami` and `reach` is a versioned frame (`frame`) that begins with a `Header`:
//! which cluster, from whom, to whom. Who is not the target, or belongs to another cluster, answers
//! 421 and openraft never sees the message: an address is not an identity. A sender that was removed
//! is told so with 410. Who has no room on its disk answers 507 to entries and snapshots. A sender that is
//! merely unknown is heard: it may be a new member of which this node has not heard yet, and without its
//! vote a cluster could be stuck; what it may do to an election is bounded by pre-vote and the leader's
//! lease. A message in another server's name than its connection has proved is answered 403 (`server/caller`).
//! What no member can have sent is answered 400 (`plausible`). `whoami` and `reach` are JSON, because
//! nodes of different formats must be able to read each other's; `whoami` says which levels and formats a
//! node reads.
//!
//! `standing` asks whether a message of that sender would be heard, and says where the sender is (or
//! nothing); it makes a pristine target join the sender's cluster, like any other.
//!
//! - `client`: requests, deadlines.
//! - `body`: their bodies.
//! - `frame`: messages as bytes.
//! - `wire`: what carries requests; `http`: the one of the system.
//! - `pool`: connections; `connect`: how they are made.
//! - `names`: which addresses names have, without DNS where something urgent waits.
//! - `whereabouts`: members that have moved.
//! - `peer`: what openraft calls to reach another node.
//! - `server`: the routes.
//! - `plausible`: what no member sends is refused before openraft sees it.
//! - `heard`: what a node hears of its leader.
//! - `reach`: whether a node reaches other servers.
//! - `identity`: who this node is, kept in the file `node`.
//! - `snapshot`: a snapshot in a request body.

pub(crate) mod body;
pub(crate) mod client;
mod connect;
pub(crate) mod frame;
pub(crate) mod heard;
mod http;
pub(crate) mod identity;
pub mod names;
pub(crate) mod peer;
pub(crate) mod plausible;
mod pool;
pub(crate) mod reach;
pub(crate) mod server;
pub(crate) mod snapshot;
pub(crate) mod whereabouts;
mod wire;

use serde::{Deserialize, Serialize};

use crate::format::{Level, Reads};
use crate::space::DiskSpace;
use crate::types::{ClusterId, NodeId};

pub use body::{Progress, RpcBody};
pub use connect::{Connect, Connected, Duplex, SystemConnect};
pub use frame::SentAppend;
pub use http::Http;
pub use identity::{IdentityError, ListHash};
pub use server::Caller;
pub use wire::{Answered, Network, Wire};

/// Prefix of the paths of the raft routes.
pub const RAFT_PREFIX: &str = "/raft/v1";

/// In front of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The sender's cluster.
    pub cluster_id: ClusterId,
    /// Hash of the list that the sender was started with; only pristine receivers compare it.
    pub list_hash: ListHash,
    pub sender: NodeId,
    /// Whom the sender means. A wiped node has another id at the same address.
    pub target: NodeId,
}

/// What a node says of itself, before and after it belongs to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whoami {
    /// Random, made at the first start.
    pub node_id: NodeId,
    /// Random, made at every start: a node finds itself in the list by it.
    pub boot_nonce: u64,
    /// 32 hex digits, or none while the node is pristine.
    pub cluster_id: Option<String>,
    /// Hash of `list`, 32 hex digits.
    pub list_hash: String,
    /// The sorted list that the node was started with.
    pub list: Vec<String>,
    /// Its own entry in the list, once it knows.
    pub raft_address: Option<String>,
    /// `host:port` of its discovery API.
    pub api_address: String,
    /// The levels and formats that it can read.
    pub reads: Reads,
    /// What its cluster writes, as far as it has applied; none while it is pristine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Last id in the server's log; none while the log is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_log_index: Option<u64>,
    /// Term of that entry: of two logs the one with the later term has more of what was acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_log_term: Option<u64>,
    /// Disk of the server's data folder; none if it has no bounds, or nobody has looked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskSpace>,
    /// Cluster of the last message that came to this node's address and was not for it, 32 hex digits. Said
    /// by a pristine node, it means that this cluster has lost a member here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_by: Option<String>,
}

impl Whoami {
    /// Hash of the server's list, as headers carry it.
    pub(crate) fn list_hash(&self) -> Option<ListHash> {
        u128::from_str_radix(&self.list_hash, 16).ok().map(ListHash)
    }
}
