//! Piccolo: nodes of a cluster pull container images from each other instead of from the registry.
//!
//! One binary, two roles. `server` is discovery: an index from digest to the nodes that hold it, replicated
//! by `piccolo-raft`. `agent` runs on every node: containerd's mirror, a blob server for its peers, and the
//! watcher that keeps the index up to date. They meet only in [`api`]; ARCHITECTURE.md follows one pull
//! through both.

pub mod agent;
pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod hosts_toml;
pub mod http;
pub mod identity;
pub mod limits;
pub mod metrics;
pub mod oci;
pub mod proxies;
pub mod server;
pub mod task;
pub mod value;
