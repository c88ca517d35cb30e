//! Limits of transfers that several peers send together.

use std::time::Duration;

/// Peers that send one large blob at the same time.
pub const STRIPE_SOURCES_MAX: usize = 4;
/// Size of what is left of a blob below which it comes from one peer, bytes.
pub const STRIPED_BLOB_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Size of what is asked of each peer of a striped transfer at a time, bytes.
pub const STRIPE_WINDOW_BYTES: u64 = 2 * 1024 * 1024;
/// Distance by which one striped transfer runs ahead of its reader, bytes.
pub const STRIPE_AHEAD_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Memory for what was received ahead of its turn, all transfers together, bytes.
pub const STRIPE_MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Transfers that take several sources at once: each has a few windows beside [`STRIPE_MEMORY_BYTES_MAX`].
pub const STRIPED_TRANSFERS_MAX: usize = 4;
/// Times that a peer that was too busy among several is asked again later.
pub const STRIPE_COMEBACKS_MAX: usize = 4;
/// Times in a row that a peer of a striped transfer may be busy, or break off.
pub const STRIPE_FAILURES_MAX: usize = 4;
/// Time over which a source is compared with its reader.
pub const STRIPE_JUDGED_AFTER: Duration = Duration::from_millis(250);
/// Wait for the source from which a transfer is striped, as a multiple of the wait for the reader.
pub const STRIPE_WAIT_FACTOR: u32 = 3;
/// Time of a window after which it is asked of another peer as well, as a multiple of the usual time.
pub const STRIPE_STRAGGLES_FACTOR: u32 = 3;
/// Shortest time after which a window is asked of another peer as well: below it a delay is noise.
pub const STRIPE_STRAGGLES_AFTER_MIN: Duration = Duration::from_millis(50);

const _: () = assert!(STRIPE_AHEAD_BYTES_MAX >= STRIPE_WINDOW_BYTES * STRIPE_SOURCES_MAX as u64);
const _: () = assert!(STRIPE_MEMORY_BYTES_MAX as u64 >= STRIPE_AHEAD_BYTES_MAX);
