//! Fuzzing of every parser of foreign input, with assertions that must hold for any input.
//!
//! - [`targets`]: one function for each parser; a panic is a finding. Where possible, a target asserts more
//!   than that: what is read can be written and read again, an answer is not 500, an accepted snapshot has
//!   the checksum that it claims.
//! - [`corpus`]: kept inputs, `corpus/<target>/<file>`. The binary `seeds` makes those from golden files and
//!   hand-written ones; the drivers found the others.
//! - [`mutate`]: makes an input from others, at random, from a seed.
//! - [`watch`]: limits of time and memory, and panics on other threads.
//!
//! There are two drivers: `tests/short.rs` (`make test`) runs all kept inputs and mutates them for some
//! seconds; the binary `guided` (`make soak`, [`soak`](../soak)) runs libFuzzer, guided by coverage.

pub mod corpus;
pub mod mutate;
pub mod seeds;
pub mod targets;
pub mod watch;
