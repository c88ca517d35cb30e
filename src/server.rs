//! A discovery server: the API over the replicated index.

pub mod body;
pub mod entries;
pub mod leases;
pub mod locks;
pub mod ranking;
pub mod request;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that a server can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its data folder.
    pub data_dir: PathBuf,
    /// Where agents ask.
    pub listen: SocketAddr,
    /// Where the other servers ask. Absent: the port of this node's entry in `cluster` on all
    /// addresses, or 127.0.0.1:7790 for a cluster of one.
    pub raft_listen: Option<SocketAddr>,
    /// Host of the API address in the membership. Absent: the host of its entry in `cluster`.
    pub advertise: Option<String>,
    /// The raft addresses of all members, `host:port`; empty: a cluster of one.
    pub cluster: Vec<String>,
    /// Allows raft in the clear on other than loopback.
    pub insecure: bool,
    /// Lease of clients that name none (Go `pi`).
    pub lease_default: Duration,
    /// How long a hidden holder's inventory is kept.
    pub forget_after: Duration,
}
