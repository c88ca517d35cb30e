//! How long a node waits before it does what it does now and then. Constants of a server; a simulation has shorter
//! ones, so that a few seconds see much of it.

use std::time::Duration;

use crate::index::FLUSH_INTERVAL;

use super::compaction::Keep;
use super::levels::LevelTimes;

/// The times of one node.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Longest time between an applied entry and the flush that has it.
    pub flush_interval: Duration,
    /// How much of the log is kept.
    pub keep: Keep,
    /// When a level begins.
    pub levels: LevelTimes,
}

impl Default for Timing {
    fn default() -> Self {
        Self { flush_interval: FLUSH_INTERVAL, keep: Keep::default(), levels: LevelTimes::default() }
    }
}
