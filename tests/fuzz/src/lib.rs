//! Garbage for everything that reads what others send, and what must hold of it whatever they send.
//!
//! - [`targets`]: one function a reader; a panic is a finding. Each asserts more than that it does not
//!   panic, where there is more: what is read is written and read again alike, an answer is no 500, a
//!   snapshot that is accepted has the checksum that it claims.
//! - [`corpus`]: inputs that are kept, `corpus/<target>/<file>`. `seeds` (a binary) makes those that come
//!   from golden files and from hand; the others were found by a driver.
//! - [`mutate`]: an input from others, by chance, from a seed.
//! - [`watch`]: limits of time and memory, and panics on other threads.
//!
//! Two drivers: `tests/short.rs` (`make test`) runs all that is kept and mutates it for some seconds;
//! the binary `guided` (`make soak`, [`soak`](../soak)) lets libFuzzer follow the coverage.

pub mod corpus;
pub mod mutate;
pub mod seeds;
pub mod targets;
pub mod watch;
