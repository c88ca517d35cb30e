//! The words of the index, which servers, agents and clients share: keys, holders, the order of writes,
//! fingerprints, and the limits of all of them. This module names no other module of the crate.

mod fingerprint;
mod holder;
mod key;

pub use fingerprint::{Fingerprint, key_fingerprint};
pub use holder::{Holder, Pair};
pub use key::{Key, KeyError};

/// Longest key, bytes. The limit of the Go Piccolo's column.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest group name, bytes. The limit of the Go Piccolo's column.
pub const GROUP_BYTES_MAX: usize = 64;
/// Longest zone name, bytes.
pub const ZONE_BYTES_MAX: usize = 64;
/// Largest encoded command, bytes. openraft's own limits count entries; this one bounds the bytes of an
/// append before openraft sees them.
pub const COMMAND_BYTES_MAX: usize = 256 * 1024;
/// Ids of keys are below this number. The index makes room for all ids up to the largest one, and gives out
/// the lowest free id: a stored id that is not below it is damage.
pub const KEY_IDS_MAX: u32 = 1 << 28;
/// Ids of hosts are below this number; see [`KEY_IDS_MAX`].
pub const HOST_IDS_MAX: u32 = 1 << 22;
