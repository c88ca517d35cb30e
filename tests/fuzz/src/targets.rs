//! Fuzz targets: one function for each kind of input. A panic in it, or on another thread while it runs, is a
//! finding.

mod agent;
mod client;
mod discovery;
mod in_process;
mod manifest;
mod names;
mod raft_rpc;
mod raw;
mod settings;
mod snapshot;
mod store_folder;
mod stored;
mod wire;

pub(crate) use raft_rpc::ROUTES as RAFT_ROUTES;
pub(crate) use stored::{LOG_ROWS, SEGMENTS, VALUES};

/// A parser of foreign input.
pub struct Target {
    /// Name of the target and of its corpus folder.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "names", run: names::run },
    Target { name: "path", run: names::run_path },
    Target { name: "manifest", run: manifest::run },
    Target { name: "wire", run: wire::run },
    Target { name: "discovery", run: discovery::run },
    Target { name: "raft_rpc", run: raft_rpc::run },
    Target { name: "snapshot", run: snapshot::run },
    Target { name: "snapshot_file", run: snapshot::run_file },
    Target { name: "stored_values", run: stored::run_values },
    Target { name: "stored_state", run: stored::run_state },
    Target { name: "stored_log", run: stored::run_log },
    Target { name: "stored_node", run: stored::run_node },
    Target { name: "settings", run: settings::run },
    Target { name: "hosts_toml", run: settings::run_hosts_toml },
    Target { name: "server_answer", run: client::run },
    Target { name: "peer_answer", run: agent::run },
    Target { name: "store_folder", run: store_folder::run },
];

/// The target with this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
