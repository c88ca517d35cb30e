//! Which part of the log may go: what is older than ten minutes, or further back than 1 GiB. A member
//! that was away for less catches up from the log, without a snapshot. On a disk that is low as good as
//! nothing is kept: room is worth more than a short way back.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Entries younger than this are kept ...
const KEEP_TIME: Duration = Duration::from_secs(600);
/// ... unless there are more bytes than this behind them.
pub(super) const KEEP_BYTES: u64 = 1024 * 1024 * 1024;
/// Fewer entries than this are not worth a purge.
const PURGE_ENTRIES_MIN: u64 = 1024;
/// On a low disk so many entries are kept, for followers that are a moment behind.
const KEEP_ENTRIES_LOW: u64 = 256;
/// There so many are worth a purge.
const PURGE_ENTRIES_MIN_LOW: u64 = 256;
/// Time between two looks.
pub(super) const COMPACTION_INTERVAL: Duration = Duration::from_secs(10);
/// The same on a low disk.
pub(super) const LOW_INTERVAL: Duration = Duration::from_secs(1);

/// What is kept.
#[derive(Clone, Copy, Debug)]
struct Keep {
    time: Duration,
    bytes: u64,
    entries_min: u64,
    interval: Duration,
}

/// So that a few seconds see many purges.
#[cfg(test)]
const IN_SIMULATION: Keep = Keep {
    time: Duration::from_millis(1500),
    bytes: 8 * 1024,
    entries_min: 16,
    interval: Duration::from_millis(300),
};

impl Default for Keep {
    fn default() -> Self {
        #[cfg(test)]
        if crate::sim::world::is_inside() {
            return IN_SIMULATION;
        }
        Self {
            time: KEEP_TIME,
            bytes: KEEP_BYTES,
            entries_min: PURGE_ENTRIES_MIN,
            interval: COMPACTION_INTERVAL,
        }
    }
}

/// How far the log had come at some time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    applied: u64,
    /// Appended since the start of the process.
    bytes: u64,
}

/// Looks at the log from time to time.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    keep: Keep,
    samples: VecDeque<Sample>,
    purged: u64,
}

impl Compaction {
    /// Time between two looks.
    pub(super) fn interval(&self) -> Duration {
        self.keep.interval
    }

    /// Up to where the log can be purged now, if it is worth it. `None` while nothing is applied:
    /// at rest nothing is written.
    pub(super) fn due(&mut self, at: Instant, applied: u64, bytes: u64) -> Option<u64> {
        if self.samples.back().is_some_and(|last| last.applied == applied) {
            return None;
        }
        self.samples.push_back(Sample { at, applied, bytes });
        let keep = self.keep;
        let old = |sample: &Sample| at - sample.at >= keep.time || bytes - sample.bytes >= keep.bytes;
        let upto = self.samples.iter().take_while(|sample| old(sample)).last()?.applied;
        if upto < self.purged + keep.entries_min {
            return None;
        }
        while self.samples.front().is_some_and(|sample| sample.applied <= upto) {
            self.samples.pop_front();
        }
        self.purged = upto;
        Some(upto)
    }

    /// The same on a disk that is low.
    pub(super) fn due_low(&mut self, applied: u64) -> Option<u64> {
        let upto = applied.checked_sub(KEEP_ENTRIES_LOW)?;
        if upto < self.purged + PURGE_ENTRIES_MIN_LOW {
            return None;
        }
        self.samples.retain(|sample| sample.applied > upto);
        self.purged = upto;
        Some(upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ten_minutes_of_entries_are_kept() {
        let (mut compaction, start) = (Compaction::default(), Instant::now());
        for minute in 0..=9u64 {
            let at = start + Duration::from_secs(60 * minute);
            assert_eq!(compaction.due(at, (minute + 1) * 2000, 0), None);
        }
        assert_eq!(compaction.due(start + KEEP_TIME, 22_000, 0), Some(2000));
        assert_eq!(compaction.due(start + KEEP_TIME + Duration::from_secs(1), 22_001, 0), None);
    }

    #[tokio::test]
    async fn more_than_the_bytes_are_not_kept() {
        let (mut compaction, start) = (Compaction::default(), Instant::now());
        assert_eq!(compaction.due(start, 2000, 0), None);
        assert_eq!(compaction.due(start, 4000, KEEP_BYTES - 1), None);
        assert_eq!(compaction.due(start, 4001, KEEP_BYTES), Some(2000));
    }

    #[tokio::test]
    async fn a_low_disk_keeps_a_handful_of_entries_and_is_done_once() {
        let (mut compaction, start) = (Compaction::default(), Instant::now());
        assert_eq!(compaction.due(start, 5000, 0), None);
        assert_eq!(compaction.due_low(100), None);
        assert_eq!(compaction.due_low(5000), Some(4744));
        assert_eq!(compaction.due_low(5255), None);
        assert_eq!(compaction.due_low(5256), Some(5000));
        assert_eq!(compaction.due(start + KEEP_TIME, 5257, 0), None, "its sample is gone with the entries");
    }

    #[tokio::test]
    async fn a_log_at_rest_is_left_alone() {
        let (mut compaction, start) = (Compaction::default(), Instant::now());
        assert_eq!(compaction.due(start, 5000, 0), None);
        assert_eq!(compaction.due(start + KEEP_TIME * 9, 5000, 0), None);
    }
}
