//! Limits of snapshots: their transfer, their stream, and their file.

use std::time::Duration;

/// Largest snapshot that is taken in, bytes; 20 million pairs are a few hundred megabytes.
pub const SNAPSHOT_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Snapshots that are received at once: a state is built in memory.
pub const SNAPSHOTS_RECEIVED_MAX: usize = 1;
/// Time without progress after which a snapshot is dropped; its installation counts as one step.
pub const SNAPSHOT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time after which a snapshot that is not there is given up, however it moves: it holds the log.
pub const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(3600);
/// Time for which the log is kept for a receiver whose snapshot has just ended: it goes on from there.
pub const SNAPSHOT_HOLD: Duration = Duration::from_secs(60);
/// Size from which a chunk of the stream is sent, bytes; it is at most one record longer.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Longest record of the stream, bytes. Ours are far below; a longer one is garbage.
pub const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Keys in one record of the stream.
pub const RECORD_KEYS_MAX: usize = 256;
/// Key ids in one inventory record of the stream: at most 5 bytes each.
pub const RECORD_IDS_MAX: usize = 8 * 1024;
/// Longest head of a saved snapshot, bytes.
pub const SAVED_BYTES_MAX: usize = 4 * 1024;
