//! Limits of the requests that a server reads, and of its refusals.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::limits::API_BODY_BYTES_MAX;

/// Longest text of a request outside of lists, bytes: names, addresses and keys have a few hundred at most.
pub const API_TEXT_BYTES_MAX: usize = 1_024;
/// Largest body of a heartbeat, bytes: a few names and numbers. It does not count in
/// [`API_BODIES_BYTES_MAX`].
pub const HEARTBEAT_BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of all request bodies that a server holds, except those of heartbeats.
pub const API_BODIES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Time for a request's body to arrive.
pub const API_BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a heartbeat's body to arrive; a heartbeat holds its permit from the first byte on.
pub const HEARTBEAT_BODY_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a body without a permit that are still read: a client that has sent everything reads the answer.
pub const REFUSED_DISCARD_BYTES_MAX: usize = 256 * 1024;
/// Time for which a body without a permit is still read.
pub const REFUSED_DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a body over its limit that are still read: a client that has sent everything reads the answer.
pub const TOO_LARGE_DISCARD_BYTES_MAX: usize = 2 * API_BODY_BYTES_MAX;
/// Time for which a body over its limit is still read.
pub const TOO_LARGE_DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// Heartbeats that one server reads or holds; writes do not use these permits.
pub const HEARTBEATS_WAITING_MAX: usize = 4_096;
/// Heartbeats among those of one server that propose something (`Unhide`, `SetHost`).
pub const HEARTBEAT_CHANGES_WAITING_MAX: usize = 1_024;
/// Heartbeats of one holder that one server reads or holds.
pub const HOLDER_HEARTBEATS_WAITING_MAX: usize = 4;

/// `Retry-After` of an overloaded server, seconds: a random value of this range.
pub const OVERLOAD_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 1..=8;
/// `Retry-After` of a server without a leader, or still loading, seconds: a random value of this range.
pub const UNSERVED_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 1..=3;
/// `Retry-After` of a server whose index is full, seconds: a random value of this range.
pub const FULL_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 30..=60;
/// `Retry-After` of a server whose disk is low, seconds, a random value of this range. It is short so that an
/// operator who frees space sees the effect.
pub const NO_ROOM_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 5..=15;

const _: () = assert!(HEARTBEAT_CHANGES_WAITING_MAX < HEARTBEATS_WAITING_MAX);
const _: () = assert!(HEARTBEATS_WAITING_MAX * HEARTBEAT_BODY_BYTES_MAX <= API_BODIES_BYTES_MAX);
const _: () = assert!(API_BODIES_BYTES_MAX >= 4 * API_BODY_BYTES_MAX);
