//! Limits of what a server reads, and of how it refuses.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::limits::API_BODY_BYTES_MAX;

/// Length of one text of a request that is not in a list, bytes: names, addresses and keys are a few hundred at most.
pub const API_TEXT_BYTES_MAX: usize = 1_024;
/// Size of the body of one heartbeat, bytes: a few names and numbers. It counts outside of [`API_BODIES_BYTES_MAX`].
pub const HEARTBEAT_BODY_BYTES_MAX: usize = 64 * 1024;
/// Size of all bodies of requests that a server holds, those of heartbeats excepted, bytes.
pub const API_BODIES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Time for a request's body to arrive.
pub const API_BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a heartbeat's body to arrive: a heartbeat has its permit from its first byte on.
pub const HEARTBEAT_BODY_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Size of what is still read of a body that gets no permit, bytes: whoever has sent it all reads the answer.
pub const REFUSED_DISCARD_BYTES_MAX: usize = 256 * 1024;
/// Time for which a body that gets no permit is still read.
pub const REFUSED_DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
/// Size of what is still read of a body that is over its limit, bytes: whoever has sent it all reads the answer.
pub const TOO_LARGE_DISCARD_BYTES_MAX: usize = 2 * API_BODY_BYTES_MAX;
/// Time for which a body that is over its limit is still read.
pub const TOO_LARGE_DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// Heartbeats that are being read, or wait, at one server: writes take none of their permits.
pub const HEARTBEATS_WAITING_MAX: usize = 4_096;
/// Heartbeats among those at one server that have something to propose (`Unhide`, `SetHost`).
pub const HEARTBEAT_CHANGES_WAITING_MAX: usize = 1_024;
/// Heartbeats of one holder that are being read, or wait, at one server.
pub const HOLDER_HEARTBEATS_WAITING_MAX: usize = 4;

/// `Retry-After` of a server that has too much to do, seconds: a random one of this range.
pub const OVERLOAD_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 1..=8;
/// `Retry-After` of a server that has no leader, or is loading, seconds: a random one of this range.
pub const UNSERVED_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 1..=3;
/// `Retry-After` of a server whose index may not hold more, seconds: a random one of this range.
pub const FULL_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 30..=60;
/// `Retry-After` of a server whose disk is low, seconds, a random one of this range: an operator who frees space wants
/// to see it help.
pub const NO_ROOM_RETRY_AFTER_SECONDS: RangeInclusive<u64> = 5..=15;

const _: () = assert!(HEARTBEAT_CHANGES_WAITING_MAX < HEARTBEATS_WAITING_MAX);
const _: () = assert!(HEARTBEATS_WAITING_MAX * HEARTBEAT_BODY_BYTES_MAX <= API_BODIES_BYTES_MAX);
const _: () = assert!(API_BODIES_BYTES_MAX >= 4 * API_BODY_BYTES_MAX);
