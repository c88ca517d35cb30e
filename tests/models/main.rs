//! Models of containerd as a client, of the versions that Debian does not have, and the fault matrix:
//! every way in which a peer can misbehave, at every place of its answer, seen through the real mirror.

#![allow(unreachable_pub, reason = "a test crate exports nothing")]
#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

mod blob;
mod containerd;
mod fault;
mod lag;
mod matrix;
mod product;
mod rules;
mod scripted;
