//! Limits of blobs that are received and verified whole.

use std::time::Duration;

/// Size up to which a blob is verified whole before its first byte goes to containerd, bytes.
pub const VERIFIED_WHOLE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Size up to which a blob is received and verified whole after several peers together sent wrong bytes of
/// it, bytes.
pub const DOUBTED_WHOLE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Size up to which a blob is kept in memory while it is verified, bytes; a larger one is spooled to an
/// unlinked file in the state folder.
pub const SPOOL_MEMORY_BYTES_MAX: u64 = 1024 * 1024;
/// Buffer for one write to a spooled file, bytes.
pub const SPOOL_WRITE_BYTES: usize = 256 * 1024;
/// Memory of all transfers for blobs that are verified whole, while there is a disk, bytes. What does not fit
/// is spooled to a file.
pub const SPOOL_MEMORY_TOTAL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Additional memory for blobs that are verified whole if the state folder is not writable, or is in memory
/// itself, bytes. What does not fit waits.
pub const SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Size of the unlinked files of all transfers, bytes. What does not fit waits.
pub const SPOOL_DISK_TOTAL_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Time that a request waits for room to spool before blobs are dropped that are only kept for later
/// requests.
pub const SPOOL_ROOM_WAIT: Duration = Duration::from_millis(50);
/// Time without a request after which a kept blob is dropped to make room to spool.
pub const SPOOL_WHOLE_IDLE: Duration = Duration::from_secs(1);
/// Small blobs that are kept because only parts of them have been requested.
pub const WHOLES_SHARED_MAX: usize = 8;
/// Time for which a small blob is kept after the last request for a part of it.
pub const WHOLE_KEPT: Duration = Duration::from_secs(10);

const _: () = assert!(SPOOL_MEMORY_BYTES_MAX < VERIFIED_WHOLE_BYTES_MAX);
const _: () = assert!(SPOOL_MEMORY_BYTES_MAX < SPOOL_MEMORY_TOTAL_BYTES_MAX as u64);
const _: () = assert!(VERIFIED_WHOLE_BYTES_MAX <= SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64);
const _: () = assert!(DOUBTED_WHOLE_BYTES_MAX <= SPOOL_DISK_TOTAL_BYTES_MAX);
