//! The agent of one node: containerd's mirror, blob server for its peers, and the watcher that
//! keeps the index true to what the node holds.

mod address;
pub mod backoff;
pub mod content;
pub mod counters;
mod discovery;
mod expiring_set;
pub(crate) mod fetch;
mod health;
pub mod inventory;
mod log_throttle;
mod notices;
mod origin;
mod policy;
mod run;
mod serve;
mod state_dir;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use address::own::OwnAddress;
pub use address::{Cidr, Selection};
pub use policy::Filter;
pub use run::{Addresses, Error, Listeners, run, run_on};
pub use serve::mirror_bypass::MIRROR_BYPASSED;

/// Everything that an agent can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Base URLs of discovery servers; a path prefix is kept. The agent begins with a random one.
    pub servers: Vec<String>,
    /// Who sees whom.
    pub group: String,
    /// Where containerd asks.
    pub mirror_listen: SocketAddr,
    /// Where peers ask.
    pub peer_listen: SocketAddr,
    /// What peers are told; found out and followed when absent.
    pub advertise: Option<SocketAddr>,
    /// Which of this node's addresses it may be then; by default any.
    pub advertise_among: Selection,
    /// Where Prometheus and probes ask.
    pub metrics_listen: SocketAddr,
    /// Where this node's images are.
    pub store: StoreConfig,
    /// Zone label, empty if none.
    pub zone: String,
    /// How long the mirror holds a request until its headers.
    pub resolve_timeout: Duration,
    /// Concurrent uploads to peers; 0: no limit.
    pub uploads_max: usize,
    /// Bytes per second to all peers together; 0: no limit.
    pub upload_bytes_per_second: u64,
    /// Time between heartbeats; the lease is three of them.
    pub heartbeat_interval: Duration,
    /// Folder of what the agent keeps on disk: blobs that are being verified, and verdicts.
    pub state_dir: PathBuf,
    /// Pid of the process whose workers may use the folder at the same time: the supervisor.
    pub supervisor: u32,
    /// Folders in which containerd looks for the hosts of a registry; found out when absent.
    pub certs_dirs: Option<Vec<PathBuf>>,
    /// Policy per registry, by `host[:port]`; `_default` holds for the others.
    pub registries: BTreeMap<String, RegistryPolicy>,
}

/// Which store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// A containerd daemon.
    Containerd {
        /// Its gRPC socket.
        socket: PathBuf,
        /// Whose images.
        namespace: String,
        /// Its content folder; found by introspection when absent.
        content_path: Option<PathBuf>,
    },
    /// An OCI image layout folder.
    Layout {
        /// The folder with `oci-layout`, `index.json` and `blobs/`.
        folder: PathBuf,
    },
}

impl StoreConfig {
    /// containerd's socket, if the store is a containerd's.
    fn socket(&self) -> Option<PathBuf> {
        match self {
            StoreConfig::Containerd { socket, .. } => Some(socket.clone()),
            StoreConfig::Layout { .. } => None,
        }
    }
}

/// What is done with one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryPolicy {
    /// Who answers tags.
    pub tags: TagPolicy,
    /// Who gives manifests and indexes.
    pub manifests: Sharing,
    /// Who gives configs and layers.
    pub blobs: Sharing,
    /// What we have nothing to do with, by its name.
    pub filter: Vec<Filter>,
    /// Base URL of the registry where `https://<name>` is wrong.
    pub origin: Option<String>,
    /// PEM file with the CA of that registry.
    pub ca: Option<PathBuf>,
}

/// Who gives content of a registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Whoever holds it.
    #[default]
    Peers,
    /// The registry alone: not mirrored, not advertised, not served.
    Origin,
}

/// Who answers a tag. A tag is mutable, and whoever answers it decides what runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TagPolicy {
    /// Peers only while the origin does not answer.
    #[default]
    OriginFirst,
    /// Peers, if those asked agree.
    Peers,
    /// Never we: 404 at once.
    Origin,
    /// Never we, and tags are not advertised.
    Off,
}
