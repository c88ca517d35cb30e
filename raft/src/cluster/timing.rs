//! Intervals of a node's upkeep. A server has the constants of each subsystem; a simulation has shorter ones, so that
//! a few seconds contain many flushes, purges and changes of the level.

use std::time::Duration;

use super::compaction::Keep;
use super::levels::LevelTimes;

use crate::limits::FLUSH_INTERVAL;

/// Intervals of the upkeep of one node.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Longest time between an applied entry and the flush that has it.
    pub flush_interval: Duration,
    /// How much of the log is kept.
    pub keep: Keep,
    /// When the next level begins.
    pub levels: LevelTimes,
}

impl Default for Timing {
    fn default() -> Self {
        Self { flush_interval: FLUSH_INTERVAL, keep: Keep::default(), levels: LevelTimes::default() }
    }
}
