//! Settings of a server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::identity::TlsMode;

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the index and the raft log.
    pub data_dir: PathBuf,
    /// Address of the discovery API.
    pub listen: SocketAddr,
    /// Address of raft. `None`: the port of this node's entry in `cluster` on all addresses, or
    /// 127.0.0.1:7790 for a cluster of one.
    pub raft_listen: Option<SocketAddr>,
    /// Host of the API address in the membership. `None`: the host of this node's entry in `cluster`.
    pub advertise: Option<String>,
    /// The raft addresses of all members, `host:port`; empty for a cluster of one.
    pub cluster: Vec<String>,
    /// Raft address of a member of the cluster to join: a server without data waits to be admitted to it, and
    /// founds none.
    pub join: Option<String>,
    /// The file of the cluster secret, with which this server proves itself to the others.
    pub cluster_secret: Option<PathBuf>,
    /// Which connections between servers are encrypted. Needs the secret, unless it is off.
    pub tls: TlsMode,
    /// Whether raft may listen in the clear on other than loopback addresses, and operators may call from
    /// there.
    pub insecure: bool,
    /// Lease of clients that name no length (Go `pi`).
    pub lease_default: Duration,
    /// How long the inventory of a hidden holder is kept.
    pub forget_after: Duration,
    /// How long a server without data and without others listens before it founds a cluster.
    pub found_after: Duration,
    /// Free bytes on the disk of the data folder below which the server stores nothing more; 0 turns the
    /// check off. `None`: a share of the disk.
    pub disk_free_min: Option<u64>,
}

/// The addresses on which a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Address of the discovery API.
    pub api: SocketAddr,
    /// Address of raft.
    pub raft: SocketAddr,
}
