//! The real binary with real containerds and a real registry, as an operator runs them. Needs root and what
//! `.ci/install run` installs; a missing part fails the test instead of skipping it.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the harness beside them")]
#![allow(unreachable_pub, reason = "the harness is a library to the scenarios beside it")]

mod air_gapped;
mod bad_input;
#[path = "../support/blob.rs"]
mod blob;
#[path = "../support/cells.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod cells;
mod client_certificates;
mod cluster;
#[path = "../support/fault.rs"]
mod fault;
mod faults;
mod flights;
mod growing;
mod harbor_behind_us;
mod harness;
mod holders;
mod hosts;
#[path = "../support/lag.rs"]
mod lag;
mod moving_addresses;
mod nobody_asks;
mod peers_walled_off;
mod policy;
mod pulls;
#[path = "../support/scripted.rs"]
mod scripted;
mod supervisor;
mod unreachable;
mod unusual_stores;
