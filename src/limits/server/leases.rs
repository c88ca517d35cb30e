//! Limits of leases: how long they last, and how fast hosts are hidden and forgotten.

use std::time::Duration;

/// Lease of a client that requests none: the Go `pi` sends a heartbeat every 10 minutes.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(31 * 60);
/// Time between two checks of the leader for leases that have ended.
pub const LEASE_SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two sweeps above which the later one counts as delayed, so that leases are extended.
pub const SWEEP_LATE_AFTER: Duration = Duration::from_secs(1);
/// Inverse of the share of a group's hosts that may be hidden within [`HIDE_WINDOW`].
pub const HIDE_SHARE_OF_GROUP: usize = 100;
/// Hosts of a group that may be hidden within [`HIDE_WINDOW`], even in a small group.
pub const HIDES_PER_GROUP_MIN: usize = 10;
/// Time over which the hidden hosts of a group are counted.
pub const HIDE_WINDOW: Duration = Duration::from_secs(1);
/// Hosts of all groups that one sweep hides; the next sweep continues.
pub const HIDES_PER_SWEEP_MAX: usize = 1_024;
/// Hidden hosts that one sweep forgets.
pub const FORGETS_PER_SWEEP_MAX: usize = 64;
/// Time for which a leader must have seen a host hidden before it forgets the host, whatever the wall clock
/// says. Shorter if [`FORGET_AFTER_DEFAULT`] is overridden with less.
pub const FORGET_SEEN_MIN: Duration = Duration::from_secs(60 * 60);
/// Difference between the clocks of two machines up to which both count as right, milliseconds.
pub const CLOCKS_APART_MAX_MS: u64 = 60 * 60 * 1_000;
/// `Hide` and `Forget` proposals in flight.
pub const LEASE_PROPOSALS_MAX: usize = 64;
/// Time after which a `Hide` or `Forget` that could not be proposed is due again.
pub const LEASE_PROPOSE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Time for which a hidden holder's inventory is kept.
pub const FORGET_AFTER_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest and longest time that `--forget-after` may have.
pub const FORGET_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(365 * 86_400));
/// Longest time that `--found-after` may have.
pub const FOUND_AFTER_MAX: Duration = Duration::from_secs(3600);
