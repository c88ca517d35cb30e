//! Other agents as sources: requests to them, what is known of their health, and who is asked in which order.

pub(super) mod candidates;
pub(crate) mod client;
pub(crate) mod error;
mod header_delay;
pub(super) mod health;
pub(super) mod hedging;
mod idle_connections;
pub(super) mod probe;
mod reachability;
mod silence;
pub(super) mod throughput;
mod wire;
