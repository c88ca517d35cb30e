//! Holders, and the order of their writes.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One agent: a group and the address of its blob server.
///
/// IPv4-mapped IPv6 addresses are stored as IPv4, so that one host has one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// Who sees whom: holders of another group do not exist for the asker (I6).
    pub group: String,
    /// `ip:port` of the blob server.
    pub address: SocketAddr,
}

/// Order among the writes of one holder: a lower pair than the stored one is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// Unix milliseconds of the agent's start; `stale` answers make it grow.
    pub epoch: u64,
    /// Counts the writes of one epoch.
    pub seq: u64,
}
