//! Limits of blobs that are received and verified whole.

use std::time::Duration;

/// Size of blobs up to which they are verified whole before their first byte goes to containerd, bytes.
pub const VERIFIED_WHOLE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Size of a blob that several peers sent together, and wrong, up to which it is received and verified whole, bytes.
pub const DOUBTED_WHOLE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Size of blobs up to which they are kept in memory while they are verified, bytes; larger ones are spooled to an
/// unlinked file in the state folder.
pub const SPOOL_MEMORY_BYTES_MAX: u64 = 1024 * 1024;
/// Memory for what is gathered for one write to a spooled file, bytes.
pub const SPOOL_WRITE_BYTES: usize = 256 * 1024;
/// Memory for blobs that are verified whole, over all transfers, while there is a disk, bytes; what does not fit goes to
/// a file, too.
pub const SPOOL_MEMORY_TOTAL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Memory for blobs that are verified whole beyond [`SPOOL_MEMORY_TOTAL_BYTES_MAX`], where the state folder cannot be
/// written to, or is in memory itself, bytes. What does not fit waits.
pub const SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Size of unlinked files over all transfers, bytes. What does not fit waits.
pub const SPOOL_DISK_TOTAL_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Time that a request waits for room to spool before blobs are given up that are only kept for more of their parts.
pub const SPOOL_ROOM_WAIT: Duration = Duration::from_millis(50);
/// Time without a request for any part of it after which a kept blob is given up for room to spool.
pub const SPOOL_WHOLE_IDLE: Duration = Duration::from_secs(1);
/// Small blobs asked for in parts that are kept for their other parts.
pub const WHOLES_SHARED_MAX: usize = 8;
/// Time for which a small blob is kept after the last request for a part of it.
pub const WHOLE_KEPT: Duration = Duration::from_secs(10);

const _: () = assert!(SPOOL_MEMORY_BYTES_MAX < VERIFIED_WHOLE_BYTES_MAX);
const _: () = assert!(SPOOL_MEMORY_BYTES_MAX < SPOOL_MEMORY_TOTAL_BYTES_MAX as u64);
const _: () = assert!(VERIFIED_WHOLE_BYTES_MAX <= SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64);
const _: () = assert!(DOUBTED_WHOLE_BYTES_MAX <= SPOOL_DISK_TOTAL_BYTES_MAX);
