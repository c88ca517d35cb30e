//! The discovery API from outside: real servers in this process, on loopback ports, over HTTP.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

mod bad_input;
mod bounds;
mod flights;
mod go_pi;
mod golden;
mod harness;
mod holders;
mod leases;
mod order;
#[path = "../support/ports.rs"]
mod ports;
mod report;
mod start;
mod three_servers;
