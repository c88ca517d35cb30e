//! Limits of the search for this node's own address.

use std::time::Duration;

/// Time between two looks whether the address of this node has changed.
pub const ADDRESS_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// First and longest pause between two looks for an address that is not known yet.
pub const ADDRESS_RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Consecutive checks that reuse the server addresses of the last resolution.
pub const ADDRESS_LOOKS_PER_RESOLUTION: u32 = 30;
/// Time that a starting agent waits for its address before it serves without one.
pub const ADDRESS_START_WAIT: Duration = Duration::from_secs(2);
/// Former addresses of this node whose keys are still to be withdrawn.
pub const ADDRESSES_LEFT_MAX: usize = 4;
/// Attempts to withdraw the keys of one former address; after that its lease ends.
pub const ADDRESS_LEFT_ATTEMPTS: usize = 5;
/// Stale writes within [`CLAIM_WINDOW`] that show another agent at the same address.
pub const CLAIM_STALES: usize = 3;
/// Shortest time over which stale writes are counted; it is longer if heartbeats are rare.
pub const CLAIM_WINDOW: Duration = Duration::from_secs(15 * 60);
/// Heartbeats, including those of the other agent, that the window of a claim holds at least.
pub const CLAIM_WINDOW_HEARTBEATS: u32 = 10;
/// Pause before an address that another agent has as well is claimed again.
pub const CLAIM_CONTESTED_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Buffer for one message of the kernel about addresses, bytes; such a message has at most 32 KiB.
pub const NETLINK_BUFFER_BYTES: usize = 64 * 1024;

const _: () = assert!(CLAIM_CONTESTED_PAUSE.as_secs() * 2 < CLAIM_WINDOW.as_secs());
