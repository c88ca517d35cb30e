//! Limits of leases: how long they last, and how fast hosts are hidden and forgotten.

use std::time::Duration;

/// Lease of a client that names none: the Go `pi` sends a heartbeat every 10 minutes.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(31 * 60);
/// Time between two looks of the leader for leases that have ended.
pub const LEASE_SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two sweeps above which the later one was held up, so that leases are extended.
pub const SWEEP_LATE_AFTER: Duration = Duration::from_secs(1);
/// Hosts of a group of which one may be hidden within [`HIDE_WINDOW`].
pub const HIDE_SHARE_OF_GROUP: usize = 100;
/// Hosts of a group that may be hidden within [`HIDE_WINDOW`], however small the group is.
pub const HIDES_PER_GROUP_MIN: usize = 10;
/// Time over which the hosts of a group that are hidden are counted.
pub const HIDE_WINDOW: Duration = Duration::from_secs(1);
/// Hosts of all groups that one sweep hides; the next sweep goes on.
pub const HIDES_PER_SWEEP_MAX: usize = 1_024;
/// Hidden hosts that one sweep forgets.
pub const FORGETS_PER_SWEEP_MAX: usize = 64;
/// Time for which a leader has seen a host hidden before it forgets it, whatever the wall clock says, unless
/// [`FORGET_AFTER_DEFAULT`] is set to less.
pub const FORGET_SEEN_MIN: Duration = Duration::from_secs(60 * 60);
/// Difference of two machines' clocks up to which both count as right, milliseconds.
pub const CLOCKS_APART_MAX_MS: u64 = 60 * 60 * 1_000;
/// `Hide` and `Forget` proposals on their way at once.
pub const LEASE_PROPOSALS_MAX: usize = 64;
/// Time after which a `Hide` or `Forget` is due again that could not be proposed.
pub const LEASE_PROPOSE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Time for which a hidden holder's inventory is kept.
pub const FORGET_AFTER_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest and longest time that `--forget-after` may have.
pub const FORGET_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(365 * 86_400));
/// Longest time that `--found-after` may have.
pub const FOUND_AFTER_MAX: Duration = Duration::from_secs(3600);
