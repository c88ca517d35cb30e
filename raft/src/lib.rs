//! The replicated index of Piccolo: which holder has which key, replicated by openraft onto redb.
//!
//! Knows no discovery route and no containerd. The shape of the house:
//!
//! - [`model`]: keys, holders, fingerprints and their limits: the words that agents share, too.
//! - [`command`]: what may be replicated; versioned bytes.
//! - [`limits`]: every limit of this crate by name.
//! - [`index`]: postings in memory, inventories in redb, the pure `apply`.
//! - [`log`]: raft log and vote on redb.
//! - [`snapshot`]: the state as a stream.
//! - [`state_machine`]: the index and its snapshots as openraft uses them.
//! - [`network`]: raft RPC over HTTP, client and server.
//! - [`cluster`]: one node's life: bootstrap, proposals, leadership, status.
//! - `damage`: files that are damaged are found out before anything is done with them.
//! - `space`: a disk that is getting full, and what may still come in.
//! - [`task`]: tasks with a name and a watcher, for servers and agents alike.
//! - [`disk`]: every byte that must survive a power cut goes through this trait.
//! - [`threads`]: where work is done that waits for the disk.
//! - [`random`]: ids and nonces.

pub mod address;
pub mod cluster;
pub mod command;
pub(crate) mod damage;
pub mod disk;
pub mod errors;
pub mod format;
pub mod index;
pub mod limits;
pub mod log;
pub mod model;
pub mod network;
pub mod random;
#[cfg(test)]
mod sim;
pub mod snapshot;
mod space;
pub mod state_machine;
pub mod task;
#[cfg(test)]
pub(crate) mod testing;
pub mod threads;
pub mod types;
mod watch;

/// The runtime under openraft, which openraft knows by its type alone: the one thing that is chosen when this crate
/// is compiled. By `cfg(test)` and not by a feature: cargo would unify a feature of this crate's tests with what
/// else it builds beside them, and the binary that integration tests run would have the simulation's runtime. No
/// other crate, and no release, can ever see `cfg(test)` of this one.
mod runtime {
    #[cfg(not(test))]
    pub use openraft::impls::TokioRuntime as Runtime;

    #[cfg(test)]
    pub use crate::sim::runtime::SimRuntime as Runtime;
}
