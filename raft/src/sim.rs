//! The whole replicated index in a deterministic simulation: every server is a real [`crate::cluster::Node`]
//! with real openraft and our stores, on a simulated disk, with a runtime and a clock of its own; between
//! them is a simulated network. All of it runs on one thread, and one seed decides all of it.
//!
//! - `world`: what all hosts of one simulation share.
//! - `env`: what a server is given in place of what a system has; `log`: the faults of its log.
//! - `runtime`: openraft's runtime, whose RNG is the simulation's.
//! - `watch`: a watch channel that wakes its waiters in a fixed order.
//! - `net`: messages, and what becomes of them; `wire`: how a server sends them.
//! - `host`: one server; `cluster`: all of them, their clients and their clock.
//! - `client`: what clients ask of a server; `workload`: what they ask for.
//! - `history`: what may be shown after it; `judge`: holds it against all that servers show.
//! - `nemesis`: what goes wrong.
//! - `seeds`, `birth`, `moving`: the tests; `stores`: one server without network; `faults`: that they can fail; `endurance`: a long time; `upgrade`: from one build to the next.

#![expect(
    clippy::disallowed_methods,
    reason = "the simulation owns its runtimes, and tells how long it took"
)]

pub(crate) mod client;
mod cluster;
mod env;
mod history;
mod host;
mod judge;
mod log;
pub(crate) mod net;
pub(crate) mod runtime;
pub(crate) mod watch;
mod workload;
pub(crate) mod world;

mod birth;
mod endurance;
mod faults;
mod moving;
mod nemesis;
mod seeds;
mod stores;
mod upgrade;
mod wear;
mod wire;
