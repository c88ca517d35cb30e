//! Which part of the log may go: what is older than ten minutes, or further back than 1 GiB. A member
//! that was away for less catches up from the log, without a snapshot. On a disk that is low as good as
//! nothing is kept: room is worth more than a short way back.

use std::collections::VecDeque;
use std::time::Duration;

use openraft::metrics::RaftMetrics;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits::{
    COMPACTION_INTERVAL, COMPACTION_INTERVAL_LOW, KEEP_ENTRIES_LOW, LOG_KEEP_BYTES, LOG_KEEP_TIME,
    PURGE_ENTRIES_MIN, PURGE_ENTRIES_MIN_LOW, PURGE_READERS_PATIENCE,
};
use crate::network::peer::Streams;
use crate::space::Fullness;
use crate::state_machine::Raft;
use crate::types::TypeConfig;

use super::stores::Stores;

/// How much of the log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Age up to which entries are kept, unless there are more bytes than `bytes` behind them.
    pub time: Duration,
    /// Size of the entries behind an entry up to which it is kept, bytes.
    pub bytes: u64,
    /// Fewer entries than this are not worth a purge.
    pub entries_min: u64,
    /// Time between two looks at the log.
    pub interval: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            time: LOG_KEEP_TIME,
            bytes: LOG_KEEP_BYTES,
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
}

impl Compaction {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, samples: VecDeque::new() }
    }

    /// Time between two looks at the log.
    pub(super) fn interval(&self) -> Duration {
        self.keep.interval
    }

    /// Up to where the log, which is purged up to `purged`, can be purged now, if it is worth it. `None` while
    /// nothing is applied: at rest nothing is written.
    pub(super) fn due(&mut self, at: Instant, applied: u64, purged: u64, bytes: u64) -> Option<u64> {
        if self.samples.back().is_some_and(|last| last.applied == applied) {
            return None;
        }
        self.samples.push_back(Sample { at, applied, bytes });
        let keep = self.keep;
        let old = |sample: &Sample| at - sample.at >= keep.time || bytes - sample.bytes >= keep.bytes;
        let upto = self.samples.iter().take_while(|sample| old(sample)).last()?.applied;
        if upto < purged + keep.entries_min {
            return None;
        }
        while self.samples.front().is_some_and(|sample| sample.applied <= upto) {
            self.samples.pop_front();
        }
        Some(upto)
    }

    /// On a disk that is low: the index up to which the log may be purged, if a purge is due.
    pub(super) fn due_low(&mut self, applied: u64, purged: u64) -> Option<u64> {
        let upto = applied.checked_sub(KEEP_ENTRIES_LOW)?;
        if upto < purged + PURGE_ENTRIES_MIN_LOW {
            return None;
        }
        self.samples.retain(|sample| sample.applied > upto);
        Some(upto)
    }
}

/// The task that lets old parts of the log go.
pub(super) struct LogCompaction {
    pub(super) stores: Stores,
    pub(super) raft: Raft,
    pub(super) streams: Streams,
    pub(super) keep: Keep,
    pub(super) stop: CancellationToken,
}

impl LogCompaction {
    /// Purges old parts of the log until the node stops.
    pub(super) async fn run(&self) {
        let mut compaction = Compaction::new(self.keep);
        let mut ticks = tokio::time::interval(compaction.interval().min(COMPACTION_INTERVAL_LOW));
        let (mut next, mut next_low) = (Instant::now(), Instant::now());
        while self.stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let (now, applied) = (Instant::now(), self.stores.index.applied_index());
            let purged = self.stores.log.purged().map_or(0, |id| id.index);
            if self.stores.guard.fullness() > Fullness::Fine {
                if now >= next_low
                    && self.stores.guard.has_room_for_upkeep()
                    && let Some(upto) = compaction.due_low(applied, purged)
                {
                    // What could not be purged is tried again, as long as it is there.
                    next_low = now + compaction.interval();
                    if self.compact(upto).await {
                        self.shrink_log().await;
                    }
                }
            } else if now >= next {
                next = now + compaction.interval();
                if let Some(upto) = compaction.due(now, applied, purged, self.stores.log.appended_bytes()) {
                    self.compact(upto).await;
                }
            }
        }
    }

    /// Makes the state durable up to there, tells openraft so, and lets the log go up to `upto`, or up to a snapshot
    /// that is under way; true if it went.
    pub(super) async fn compact(&self, upto: u64) -> bool {
        let upto = upto.min(self.streams.lowest().unwrap_or(u64::MAX));
        if self.stores.index.durable_applied().is_none_or(|id| id.index < upto)
            && let Err(error) = self.stores.index.flush_durable().await
        {
            tracing::warn!(%error, upto, "could not make the state durable before a purge");
            return false;
        }
        let trigger = self.raft.trigger();
        if trigger.snapshot().await.is_err() {
            return false;
        }
        let covers = |metrics: &RaftMetrics<TypeConfig>| metrics.snapshot.is_some_and(|id| id.index >= upto);
        let wait = self.raft.wait(Some(COMPACTION_INTERVAL));
        if let Err(error) = wait.metrics(covers, "a snapshot that covers the purge").await {
            tracing::warn!(%error, upto, "could not purge the raft log");
            return false;
        }
        tracing::info!(upto, "purges the raft log");
        trigger.purge_log(upto).await.ok();
        let purged = |metrics: &RaftMetrics<TypeConfig>| metrics.purged.is_some_and(|id| id.index >= upto);
        let wait = self.raft.wait(Some(PURGE_READERS_PATIENCE));
        if wait.metrics(purged, "the purge").await.is_ok() {
            return true;
        }
        // openraft keeps what a follower is still being sent, however slowly it takes it.
        tracing::info!(upto, "a follower is further back than the log that is kept: it gets a snapshot");
        self.streams.cut_below(upto);
        let wait = self.raft.wait(Some(COMPACTION_INTERVAL));
        let gone = wait.metrics(purged, "the purge").await.is_ok();
        if !gone {
            tracing::warn!(upto, "the raft log is not purged yet");
        }
        gone
    }

    /// Gives what a purge has freed back to the disk. What the node stores meanwhile waits: on a low disk that
    /// is votes, and little else.
    async fn shrink_log(&self) {
        let start = Instant::now();
        match self.stores.log.shrink().await {
            Ok(()) => tracing::info!(ms = start.elapsed().as_millis(), "the raft log was compacted"),
            Err(error) => tracing::warn!(%error, "could not compact the raft log"),
        }
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
            assert_eq!(compaction.due(at, (minute + 1) * 2000, 0, 0), None);
        }
        assert_eq!(compaction.due(start + LOG_KEEP_TIME, 22_000, 0, 0), Some(2000));
        assert_eq!(compaction.due(start + LOG_KEEP_TIME + Duration::from_secs(1), 22_001, 0, 0), None);
    }

    #[tokio::test]
    async fn more_than_the_bytes_are_not_kept() {
        let (mut compaction, start) = (Compaction::default(), Instant::now());
        assert_eq!(compaction.due(start, 2000, 0, 0), None);
        assert_eq!(compaction.due(start, 4000, 0, LOG_KEEP_BYTES - 1), None);
        assert_eq!(compaction.due(start, 4001, 0, LOG_KEEP_BYTES), Some(2000));
    }

    #[tokio::test]
    async fn a_low_disk_keeps_a_handful_of_entries_and_is_tried_until_it_is_done() {
        let (mut compaction, start) = (Compaction::default(), Instant::now());
        assert_eq!(compaction.due(start, 5000, 0, 0), None);
        assert_eq!(compaction.due_low(100, 0), None);
        assert_eq!(compaction.due_low(5000, 0), Some(4744));
        assert_eq!(compaction.due_low(5000, 0), Some(4744), "again, as long as it is not purged");
        assert_eq!(compaction.due_low(5255, 4744), None);
        assert_eq!(compaction.due_low(5256, 4744), Some(5000));
        assert_eq!(
            compaction.due(start + LOG_KEEP_TIME, 5257, 0, 0),
            None,
            "its sample is gone with the entries"
        );
    }

    #[tokio::test]
    async fn a_log_at_rest_is_left_alone() {
        let (mut compaction, start) = (Compaction::default(), Instant::now());
        assert_eq!(compaction.due(start, 5000, 0, 0), None);
        assert_eq!(compaction.due(start + LOG_KEEP_TIME * 9, 5000, 0, 0), None);
    }
}
