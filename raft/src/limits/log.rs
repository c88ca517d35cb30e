//! Limits of the raft log, and of what is kept of it.

use std::time::Duration;

/// Size of redb's cache for the log, bytes. Its default is 1 GiB. What is not on disk yet is kept beside it.
pub const LOG_CACHE_BYTES: usize = 8 * 1024 * 1024;
/// Size of the encoded entries that one read hands to replication or to apply, bytes; one entry always goes.
pub const LOG_READ_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Jobs that wait for the log's writer. openraft awaits most of them, so a handful is the rule.
pub const LOG_JOBS_MAX: usize = 1024;
/// Size of the entries of one commit of several jobs, bytes; one job always goes.
pub const LOG_COMMIT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Size up to which entries are gathered into one segment, bytes. The row of the tail and its neighbour then fill one
/// page of redb, which has 4 KiB; a larger entry is a segment of its own.
pub const SEGMENT_BYTES_MAX: usize = 3_968;
/// Purged segments that one commit deletes at least, if there are any.
pub const PURGE_STEP: usize = 256;
/// Purged segments that one commit deletes while the file is made smaller: bounds its memory.
pub const SHRINK_DELETE_STEP: usize = 4096;

/// Age up to which entries are kept, unless there are more than [`LOG_KEEP_BYTES`] behind them.
pub const LOG_KEEP_TIME: Duration = Duration::from_secs(600);
/// Size of the entries behind an entry up to which it is kept, bytes.
pub const LOG_KEEP_BYTES: u64 = 1024 * 1024 * 1024;
/// Entries from which a purge is worth its work.
pub const PURGE_ENTRIES_MIN: u64 = 1024;
/// Entries that are kept on a low disk, for followers that are a moment behind.
pub const KEEP_ENTRIES_LOW: u64 = 256;
/// Entries from which a purge is worth its work on a low disk.
pub const PURGE_ENTRIES_MIN_LOW: u64 = 256;
/// Time between two looks for what can be purged.
pub const COMPACTION_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two looks for what can be purged on a low disk.
pub const COMPACTION_INTERVAL_LOW: Duration = Duration::from_secs(1);
/// Time that a member that is being sent what a purge is to delete has to take it.
pub const PURGE_READERS_PATIENCE: Duration = Duration::from_secs(2);
