//! The agent of one node: a registry mirror for containerd, a blob server for other nodes, and an inventory
//! that keeps the discovery index in step with what the node holds.

mod address;
pub mod backoff;
pub mod content;
pub mod counters;
mod discovery;
mod expiring_set;
pub(crate) mod fetch;
pub mod flight;
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

/// Settings of one agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// Base URLs of the discovery servers; a path prefix is kept. The agent begins with a random one.
    pub servers: Vec<String>,
    /// Group of this node: nodes of one group see each other, and nobody else.
    pub group: String,
    /// Listening address of the mirror, which containerd asks.
    pub mirror_listen: SocketAddr,
    /// Listening address of the blob server, which other nodes ask.
    pub peer_listen: SocketAddr,
    /// Address of the blob server that is advertised to other nodes. Absent: detected, and followed while it
    /// changes.
    pub advertise: Option<SocketAddr>,
    /// Which addresses of this node qualify when `advertise` is absent; by default all.
    pub advertise_among: Selection,
    /// Listening address for Prometheus and health probes.
    pub metrics_listen: SocketAddr,
    /// The store that holds this node's images.
    pub store: StoreConfig,
    /// Zone label; empty if there is none.
    pub zone: String,
    /// Longest time from a request at the mirror to the headers of its response.
    pub resolve_timeout: Duration,
    /// Concurrent uploads to peers; 0 means no limit.
    pub uploads_max: usize,
    /// Bytes per second to all peers together; 0 means no limit.
    pub upload_bytes_per_second: u64,
    /// Time between heartbeats; the lease is three of them.
    pub heartbeat_interval: Duration,
    /// Folder of the agent's files: blobs that are being verified, and records of verified ones.
    pub state_dir: PathBuf,
    /// Pid of the process whose workers may use the folder at the same time: the supervisor.
    pub supervisor: u32,
    /// Folders in which containerd looks for the hosts of a registry. Absent: detected.
    pub certs_dirs: Option<Vec<PathBuf>>,
    /// Policy of each registry, by `host[:port]`; `_default` applies to all others.
    pub registries: BTreeMap<String, RegistryPolicy>,
}

/// Kind and place of the image store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// The store of a containerd daemon.
    Containerd {
        /// Path of its gRPC socket.
        socket: PathBuf,
        /// The containerd namespace whose images are shared.
        namespace: String,
        /// Content folder of containerd. Absent: containerd is asked for it.
        content_path: Option<PathBuf>,
    },
    /// An OCI image layout folder.
    Layout {
        /// The folder with `oci-layout`, `index.json` and `blobs/`.
        folder: PathBuf,
    },
}

impl StoreConfig {
    /// Path of containerd's socket; `None` for a store without containerd.
    fn socket(&self) -> Option<PathBuf> {
        match self {
            StoreConfig::Containerd { socket, .. } => Some(socket.clone()),
            StoreConfig::Layout { .. } => None,
        }
    }
}

/// How content of one registry is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryPolicy {
    /// Where an answer for a tag may come from.
    pub tags: TagPolicy,
    /// Where manifests and indexes may come from.
    pub manifests: Sharing,
    /// Where configs and layers may come from.
    pub blobs: Sharing,
    /// Filters of image names: images that match are neither mirrored, advertised nor served.
    pub filter: Vec<Filter>,
    /// Base URL of the registry; `None`: `https://<name>`.
    pub origin: Option<String>,
    /// PEM file with the certificate authority of the registry.
    pub ca: Option<PathBuf>,
    /// Whether content is shared while it is still arriving.
    pub flights: FlightPolicy,
}

/// Whether content of a registry is shared while it is still arriving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlightPolicy {
    /// It is: one node fetches it from the registry, and all others receive it meanwhile.
    #[default]
    On,
    /// It is not: content is shared once a node has all of it.
    Off,
}

/// Where content of a registry may come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// From every holder.
    #[default]
    Peers,
    /// From the registry only: the content is not mirrored, advertised or served.
    Origin,
}

/// Where an answer for a tag may come from. A tag is mutable: its answer decides what runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TagPolicy {
    /// From the registry while it answers, otherwise from peers.
    #[default]
    OriginFirst,
    /// From peers, if those that were asked agree.
    Peers,
    /// From the registry only: the mirror answers 404 at once.
    Origin,
    /// From the registry only, and the tags of this node are not advertised.
    Off,
}
