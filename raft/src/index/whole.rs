//! A whole state outside of an index: a snapshot becomes one, and an index takes it.

use std::collections::HashMap;

use super::state::{Counts, IndexState};
use super::tables::Applied;

/// A state that was verified, and replaces the one of an index.
pub struct WholeState {
    pub(crate) state: IndexState,
    /// Encoded key ids, as they are stored, by host id.
    pub(crate) inventories: HashMap<u32, Vec<u8>>,
}

impl WholeState {
    /// Log index, state checksum (I2) and counts.
    pub fn summary(&self) -> Summary {
        let Applied { log_id, checksum, .. } = Applied::of(&self.state);
        Summary { log_index: log_id.map_or(0, |id| id.index), checksum, counts: self.state.counts() }
    }
}

/// Summary of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Log index of the last entry in it.
    pub log_index: u64,
    /// Checksum of the state: servers that have applied the same entries have the same one.
    pub checksum: u128,
    /// Numbers of hosts, keys and pairs.
    pub counts: Counts,
}
