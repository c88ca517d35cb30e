//! Every limit of this crate by name, with its unit: a file for each subsystem. Relations between limits are asserted
//! at compile time. The limits of names, commands and ids are words that agents share: they are in [`crate::model`].

mod cluster;
mod index;
mod log;
mod members;
mod network;
mod snapshot;
mod space;

pub use cluster::*;
pub use index::*;
pub use log::*;
pub use members::*;
pub use network::*;
pub use snapshot::*;
pub use space::*;

const _: () = assert!(crate::model::COMMAND_BYTES_MAX < LOG_READ_BYTES_MAX);
const _: () = assert!(LOG_READ_BYTES_MAX + SMALL_BODY_BYTES_MAX <= APPEND_BODY_BYTES_MAX);
const _: () = assert!(FLUSH_INTERVAL.as_secs() < LOG_KEEP_TIME.as_secs());
