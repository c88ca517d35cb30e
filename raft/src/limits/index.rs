//! Limits of the index: its files, its locks, and the work of one turn.

use std::time::Duration;

/// Size of redb's page cache of the state, bytes; its own default is 1 GiB. What is read often is in memory anyway, and
/// the kernel caches the file once more.
pub const STATE_CACHE_BYTES: usize = 8 * 1024 * 1024;
/// Longest time between an applied entry and the flush that has it. A flush writes whole pages, and the hosts of a fleet
/// write one after the other: the longer the time, the more of them share one. The log is kept for longer.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(300);
/// Time between two looks at how much is not flushed.
pub const FLUSH_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Entries applied since the last flush from which there is another: a restart applies them again.
pub const UNFLUSHED_ENTRIES_MAX: u64 = 65_536;
/// Keys that were added to inventories or taken out since the last flush from which there is another; they are kept in
/// memory, 8 bytes each.
pub const UNFLUSHED_KEYS_MAX: usize = 262_144;
/// Keys that are looked up in one stretch: writers wait for readers, and other readers for them.
pub const KEYS_UNDER_LOCK_MAX: usize = 1_024;
/// Hosts that are copied in one stretch.
pub const HOSTS_UNDER_LOCK_MAX: usize = 1_024;
/// Reads of an inventory that its host changes while it is read.
pub const INVENTORY_READS_MAX: usize = 16;
/// Forgotten hosts that are remembered; who asks for older ones is given all hosts.
pub const GONE_HOSTS_MAX: usize = 4_096;
/// Host ids in one chunk of a list of holders.
pub const CHUNK_HOSTS_MAX: usize = 512;
/// Host ids up to which two neighbouring chunks become one: half of a full chunk, so that a chunk that was just merged
/// is not split by the next insert.
pub const MERGED_HOSTS_MAX: usize = CHUNK_HOSTS_MAX / 2;
/// Entries that are applied in one go: bounds their memory when a server catches up.
pub const APPLY_ENTRIES_MAX: usize = 1_024;
/// Keys in the entries that are applied in one go, or one entry: some milliseconds of work, after which others get their
/// turn. Raft's heartbeats run on the same threads.
pub const APPLY_KEYS_MAX: usize = 8 * 1_024;
/// Size of the free part of the state's file from which making it smaller is worth the time, bytes, which is less than a
/// second for a file of 100 MiB.
pub const SHRINK_FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Free part of the state's file from which it is made smaller, as a multiple of the used part. A flush of all hosts
/// needs room for their new pages beside the old ones, so as many as that come back.
pub const SHRINK_FREE_SHARE_MIN: u64 = 2;
