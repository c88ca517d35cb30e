//! Limits of the search for this node's own address.

use std::time::Duration;

/// Time between two looks whether the address of this node has changed.
pub const ADDRESS_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// First and longest pause between two looks for an address that is not known yet.
pub const ADDRESS_RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Looks in a row that use the addresses of the servers which the last resolution gave.
pub const ADDRESS_LOOKS_PER_RESOLUTION: u32 = 30;
/// Time that a starting agent waits for its address before it serves without one.
pub const ADDRESS_START_WAIT: Duration = Duration::from_secs(2);
/// Addresses that this node had before and whose keys are still to be taken out of the index.
pub const ADDRESSES_LEFT_MAX: usize = 4;
/// Attempts to take the keys of one former address out of the index; then the end of its lease does.
pub const ADDRESS_LEFT_ATTEMPTS: usize = 5;
/// Stale writes within [`CLAIM_WINDOW`] that show another agent at the same address.
pub const CLAIM_STALES: usize = 3;
/// Time over which stale writes are counted; longer where heartbeats are seldom.
pub const CLAIM_WINDOW: Duration = Duration::from_secs(15 * 60);
/// Heartbeats, of the other agent too, that the window of a claim has at least.
pub const CLAIM_WINDOW_HEARTBEATS: u32 = 10;
/// Pause before an address that another agent has as well is claimed again.
pub const CLAIM_CONTESTED_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Size of the buffer for one message of the kernel about addresses, bytes: those have at most 32 KiB.
pub const NETLINK_BUFFER_BYTES: usize = 64 * 1024;

const _: () = assert!(CLAIM_CONTESTED_PAUSE.as_secs() * 2 < CLAIM_WINDOW.as_secs());
