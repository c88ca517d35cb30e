//! Settings of a server.

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
    /// Raft address of a member of the cluster to wait for; a server without data founds none then.
    pub join: Option<String>,
    /// Allows raft in the clear on other than loopback, and changes of the membership from there.
    pub insecure: bool,
    /// Lease of clients that name none (Go `pi`).
    pub lease_default: Duration,
    /// How long a hidden holder's inventory is kept.
    pub forget_after: Duration,
    /// Without data and others it listens for so long before it founds a cluster.
    pub found_after: Duration,
    /// With less free bytes in its data folder it stores nothing more; 0: it does not look. Absent: what
    /// fits the disk.
    pub disk_free_min: Option<u64>,
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Discovery API.
    pub api: SocketAddr,
    /// Raft RPC.
    pub raft: SocketAddr,
}
