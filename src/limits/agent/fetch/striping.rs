//! Limits of transfers that several peers send together.

use std::time::Duration;

/// Peers that send one large blob at the same time.
pub const STRIPE_SOURCES_MAX: usize = 4;
/// Remaining size of a blob below which it comes from one peer, bytes.
pub const STRIPED_BLOB_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Bytes that are requested from each peer of a striped transfer at a time.
pub const STRIPE_WINDOW_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes that one striped transfer may be ahead of its reader.
pub const STRIPE_AHEAD_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Memory of all transfers for windows that were received before earlier ones, bytes.
pub const STRIPE_MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Concurrent striped transfers: each has a few windows beside [`STRIPE_MEMORY_BYTES_MAX`].
pub const STRIPED_TRANSFERS_MAX: usize = 4;
/// Times that a busy peer of a striped transfer is asked again later.
pub const STRIPE_COMEBACKS_MAX: usize = 4;
/// Consecutive failures of a peer of a striped transfer, busy answers included.
pub const STRIPE_FAILURES_MAX: usize = 4;
/// Time over which a source is compared with its reader.
pub const STRIPE_JUDGED_AFTER: Duration = Duration::from_millis(250);
/// Factor by which a transfer must wait longer for its source than for its reader before it is striped.
pub const STRIPE_WAIT_FACTOR: u32 = 3;
/// Multiple of the usual time of a window after which it is requested from another peer as well.
pub const STRIPE_STRAGGLES_FACTOR: u32 = 3;
/// Shortest time after which a window is requested from another peer as well; shorter delays are noise.
pub const STRIPE_STRAGGLES_AFTER_MIN: Duration = Duration::from_millis(50);

const _: () = assert!(STRIPE_AHEAD_BYTES_MAX >= STRIPE_WINDOW_BYTES * STRIPE_SOURCES_MAX as u64);
const _: () = assert!(STRIPE_MEMORY_BYTES_MAX as u64 >= STRIPE_AHEAD_BYTES_MAX);
