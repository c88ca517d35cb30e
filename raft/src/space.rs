//! How full a node's disk is, and what may still come in.
//!
//! - `fullness`: the marks of a disk, and how full it is by them; pure.
//! - `guard`: the disk as it was last seen, and what the node still takes in.
//! - `no_room`: why a leader takes no writes.
//!
//! What a node and its leader do about a disk that is getting full is in `cluster/disk_watch.rs` and `cluster/room.rs`.

mod fullness;
mod guard;
mod no_room;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::disk::Bytes;

pub(crate) use fullness::Fullness;
pub(crate) use guard::{DiskLow, Guard};
pub use no_room::{NoRoom, VoterWithoutRoom};

/// The disk of a node's data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpace {
    /// Path of the data folder.
    pub folder: String,
    /// What can still be written, bytes.
    pub free_bytes: u64,
    /// What it can hold, bytes.
    pub total_bytes: u64,
    /// With less than this it is low, bytes.
    pub minimum_bytes: u64,
    /// The node stores no more entries.
    pub low: bool,
}

impl fmt::Display for DiskSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (free, minimum) = (Bytes(self.free_bytes), Bytes(self.minimum_bytes));
        write!(f, "{} has {free} free, the minimum is {minimum}", self.folder)
    }
}
