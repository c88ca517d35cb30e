//! The real binary under real faults: kill -9, SIGSTOP, cut links, rolling restarts, servers that lose
//! everything, and an idle site. Cut links need root.
//!
//! A scenario starts a [`site`], puts a [`load`] on it, causes faults, heals them, and passes everything to
//! the [`checker`], which shares only the recorded history with the load.
//!
//! For longer runs: `PICCOLO_CHAOS_SECONDS=600 cargo test --test chaos -- soak_`. A seed is printed, and read
//! from `PICCOLO_CHAOS_SEED`; it repeats the choices, not the timing.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the harness beside them")]
#![allow(unreachable_pub, reason = "the harness is a library to the scenarios beside it")]

mod at_rest;
mod checker;
mod checks_can_fail;
mod cuts;
mod history;
mod kills;
mod load;
mod logs;
#[path = "../e2e/harness/network.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod network;
mod node;
mod pauses;
#[path = "../e2e/harness/process.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod process;
mod rebuild;
mod rolling;
mod server;
mod site;
#[path = "../support/site.rs"]
mod support;
mod upgrade;
mod wire;
mod witness;
