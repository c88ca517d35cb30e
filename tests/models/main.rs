//! Models of containerd as a client, for versions that Debian does not have, and the fault matrix: every
//! fault of a peer, at every place of its answer, through the real mirror. And nodes that pull the same image at once.

#![allow(unreachable_pub, reason = "a test crate exports nothing")]
#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "../support/blob.rs"]
mod blob;
#[path = "../support/cells.rs"]
mod cells;
mod containerd;
#[path = "../support/fault.rs"]
mod fault;
mod flights;
#[path = "../support/lag.rs"]
mod lag;
mod matrix;
#[path = "../support/ports.rs"]
mod ports;
mod product;
mod rules;
#[path = "../support/scripted.rs"]
mod scripted;
