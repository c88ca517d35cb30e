//! The whole replicated index in a deterministic simulation: every server is a real [`crate::cluster::Node`]
//! with real openraft and our stores, on a simulated disk, with a runtime and a clock of its own; between
//! them is a simulated network. All of it runs on one thread, and one seed decides all of it.
//!
//! - `world`: what the product's code finds of the simulation that it runs in.
//! - `runtime`: openraft's runtime, whose dice are the simulation's.
//! - `net`: messages, and what becomes of them.

pub(crate) mod client;
pub(crate) mod net;
pub(crate) mod runtime;
pub(crate) mod world;
