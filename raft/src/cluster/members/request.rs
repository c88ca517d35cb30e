//! What an operator asks for, and how far it is.

use std::fmt;
use std::str::FromStr;

use crate::address::is_address;
use crate::types::NodeId;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The servers at these raft addresses become voters, all in one change.
    Add {
        /// Raft addresses of these servers, each as `host:port`.
        addresses: Vec<String>,
    },
    /// The server at this raft address takes the place of a member. If it is that member, at a new
    /// address, the membership learns the address.
    Replace {
        /// The member that is replaced.
        old: Who,
        /// `host:port` of the new one.
        address: String,
    },
    /// A member leaves for good.
    Remove {
        /// The member that is meant.
        who: Who,
    },
    /// Another voter leads.
    Transfer {
        /// Which; `None`: the one that is furthest.
        to: Option<Who>,
    },
}

impl Change {
    /// Raft addresses of the servers that are to become members.
    pub(super) fn newcomers(&self) -> &[String] {
        match self {
            Change::Add { addresses } => addresses,
            Change::Replace { address, .. } => std::slice::from_ref(address),
            Change::Remove { .. } | Change::Transfer { .. } => &[],
        }
    }
}

/// A member as an operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Up to 16 hex digits.
    Id(NodeId),
    /// `host:port` of its raft RPC.
    Address(String),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Id(id) => write!(f, "{id:016x}"),
            Who::Address(address) => f.write_str(address),
        }
    }
}

/// What is neither an id nor an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is neither a node id (1 to 16 hex digits) nor an address (host:port)")]
pub struct BadWho;

impl FromStr for Who {
    type Err = BadWho;

    fn from_str(text: &str) -> Result<Self, BadWho> {
        if is_address(text) {
            return Ok(Who::Address(text.to_owned()));
        }
        let hex = (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok().filter(|id| hex && *id != 0);
        id.map(Who::Id).ok_or(BadWho)
    }
}

/// What a change waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The change is done: nothing is waited for.
    Done,
    /// A snapshot is on its way to the new server; position and goal are bytes, the goal is a guess.
    Snapshot,
    /// The new server takes in the log; position and goal are log indices.
    Log,
    /// Another server is about to lead; it goes on there.
    Leadership,
    /// A step that was begun.
    Step,
}

/// How far a change is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What the change waits for.
    pub phase: Phase,
    /// Id of the server that the phase is about, if it is about one.
    pub node_id: Option<NodeId>,
    /// How far the phase is, in the unit of `goal`.
    pub position: u64,
    /// Position at which the phase ends; 0 if it is not known.
    pub goal: u64,
    /// The progress in words, for an operator.
    pub message: String,
}

impl Progress {
    pub(in crate::cluster) fn of(phase: Phase, node_id: Option<NodeId>, message: String) -> Self {
        Self { phase, node_id, position: 0, goal: 0, message }
    }
}
