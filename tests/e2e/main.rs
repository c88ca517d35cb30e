//! The real binary with real containerds and a real registry, as an operator runs them. Needs root
//! and what `.ci/install run` installs; a missing part is a failure, not a skip.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the harness beside them")]
#![allow(unreachable_pub, reason = "the harness is a library to the scenarios beside it")]

mod bad_input;
mod cluster;
mod harness;
mod hosts;
mod policy;
mod pulls;
mod supervisor;
mod unreachable;
