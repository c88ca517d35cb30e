//! Limits of transfers from peers.

mod peers;
mod registry;
mod spool;
mod striping;

use std::time::Duration;

pub use peers::*;
pub use registry::*;
pub use spool::*;
pub use striping::*;

/// Concurrent transfers from peers. Further requests wait, for as long as a request is held.
pub const TRANSFERS_MAX: usize = 48;
/// Pause between two lookups of one transfer.
pub const TRANSFER_LOOKUP_PAUSE: Duration = Duration::from_millis(500);
/// Time before the deadline of a request at which a peer without an answer counts as silent.
pub const REQUEST_DEADLINE_MARGIN: Duration = Duration::from_millis(20);
/// Time for which a transfer whose source failed looks for another one.
pub const FAILOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that are requested from a peer at a time if containerd requests a range without an end: containerd
/// may close after any part of it.
pub const OPEN_RANGE_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// Time that a range without a source waits for earlier ranges to end first.
pub const CUT_ORDER_WAIT: Duration = Duration::from_secs(5);
/// Time without growth after which a followed ingest is abandoned.
pub const FOLLOW_IDLE_MAX: Duration = Duration::from_secs(3);
/// Time that the last bytes of a resumed blob wait until the followed file has been hashed up to them.
pub const FOLLOW_VERDICT_MAX: Duration = Duration::from_secs(5);
/// Pause between two checks of a followed file that did not grow.
pub const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a followed file that are hashed before the thread is released.
pub const FOLLOW_TURN_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes of a blob's end that are kept because containerd may not have written them yet: it writes in steps
/// of 1 MiB, behind the buffer of its socket.
pub const FOLLOW_TAIL_BYTES: u64 = 4 * 1024 * 1024;
/// Time for a list of the ingests, and for containerd to abort one.
pub const INGESTS_TIMEOUT: Duration = Duration::from_millis(250);
/// Time after which a complete ingest without writes is considered abandoned.
pub const INGEST_UNTOUCHED_MIN: Duration = Duration::from_secs(60);
/// Pause before the second attempt to abort an ingest of bad bytes: containerd may still have been writing.
pub const ABORT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Time for which the outcome of a transfer is remembered.
pub const TRANSFER_MEMORY_TTL: Duration = Duration::from_secs(60);
/// Digests for which the outcome of transfers is remembered.
pub const TRANSFERS_REMEMBERED_MAX: usize = 1_024;
/// Offsets at which answers for one digest were cut that are remembered.
pub const CUTS_REMEMBERED_MAX: usize = 64;
