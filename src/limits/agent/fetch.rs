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

/// Transfers from peers at once; further requests wait for one to end, as long as they are held.
pub const TRANSFERS_MAX: usize = 48;
/// Pause between two lookups of one transfer.
pub const TRANSFER_LOOKUP_PAUSE: Duration = Duration::from_millis(500);
/// Time before the deadline of a request at which who has not answered is silent, whoever has to say so.
pub const REQUEST_DEADLINE_MARGIN: Duration = Duration::from_millis(20);
/// Time that a transfer whose source broke off looks for another one.
pub const FAILOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Size of what is asked of a peer at a time where containerd asks for a range without end, bytes: it may close after
/// any part of it.
pub const OPEN_RANGE_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// Time that a range without a source waits for those before it to end first.
pub const CUT_ORDER_WAIT: Duration = Duration::from_secs(5);
/// Time that an ingest may rest while it is followed; then it is given up.
pub const FOLLOW_IDLE_MAX: Duration = Duration::from_secs(3);
/// Time that the last bytes of a rest wait for the file to have come so far.
pub const FOLLOW_VERDICT_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks at a followed file that did not grow.
pub const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// Size of what is hashed of a followed file before the thread is given back, bytes.
pub const FOLLOW_TURN_BYTES: u64 = 32 * 1024 * 1024;
/// Size of what is kept of a blob's end, because containerd may not have written it yet (it writes in steps of 1 MiB,
/// behind what its socket holds), bytes.
pub const FOLLOW_TAIL_BYTES: u64 = 4 * 1024 * 1024;
/// Time for a look at the ingests, and for containerd to abort one.
pub const INGESTS_TIMEOUT: Duration = Duration::from_millis(250);
/// Time after which a complete ingest that nobody has written to is nobody's any more.
pub const INGEST_UNTOUCHED_MIN: Duration = Duration::from_secs(60);
/// Pause before the second try to abort the ingest of bad bytes: containerd may still have been writing.
pub const ABORT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Time for which it is remembered how a transfer of a digest went.
pub const TRANSFER_MEMORY_TTL: Duration = Duration::from_secs(60);
/// Digests of which it is remembered how their transfers went.
pub const TRANSFERS_REMEMBERED_MAX: usize = 1_024;
/// Offsets of one digest at which answers were cut.
pub const CUTS_REMEMBERED_MAX: usize = 64;
