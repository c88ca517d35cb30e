//! Limits of changes of the membership.

use std::time::Duration;

use super::LOG_KEEP_BYTES;

/// Members of a cluster, learners included.
pub const MEMBERS_MAX: usize = 9;
/// Time for one step of a change; one that takes longer goes on by itself, and the caller asks again.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(6);
/// Steps of a change that are done before the caller hears of it.
pub const STEPS_MAX: usize = 8;
/// Log entries that a learner may lack and vote; so may one that lacks more, but has what the leader had
/// [`LAG_SAMPLE_AGE`] ago.
pub const LAG_MAX: u64 = 1024;
/// Age of the end of the log that a learner has that keeps pace.
pub const LAG_SAMPLE_AGE: Duration = Duration::from_secs(2);
/// Age from which a sample of the end of the log says nothing.
pub const LAG_SAMPLE_AGE_MAX: Duration = Duration::from_secs(4);
/// Log entries from which an empty server is brought a snapshot before it becomes a member. A log that is whole says at
/// least as many bytes as the state that came of it, and one that is not whole leads to a snapshot anyway.
pub const SEED_ENTRIES_MIN: u64 = 1024;
/// Size of what is appended to the log, which is kept for it, from which the transfer of a snapshot to a newcomer is
/// given up, bytes.
pub const SEED_APPENDED_BYTES_MAX: u64 = 3 * LOG_KEEP_BYTES;
/// Time between two looks at the log during the transfer of a snapshot to a newcomer.
pub const SEED_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Length of the address of a member, bytes.
pub const MEMBER_ADDRESS_BYTES_MAX: usize = 300;
