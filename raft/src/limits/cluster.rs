//! Limits of one node's life: bootstrap, raft's timing, proposals, levels, the end.

use std::time::Duration;

use crate::model::COMMAND_BYTES_MAX;

/// Time for which a server without data that is alone in its list listens before it founds a cluster: the other members
/// of one that it was in elect a leader within two seconds, and that leader sends to it at once.
pub const FOUND_AFTER: Duration = Duration::from_secs(5);
/// First pause between two rounds of questions of a server that founds or joins a cluster; it doubles up to
/// [`BOOTSTRAP_ROUND_INTERVAL_MAX`].
pub const BOOTSTRAP_ROUND_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two rounds of questions of a server that founds or joins a cluster.
pub const BOOTSTRAP_ROUND_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Time between two looks at something that has no event.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Time between two heartbeats of a leader, milliseconds.
pub const HEARTBEAT_MS: u64 = 100;
/// Shortest and longest random time after which a follower that hears nothing starts an election, beyond a lease of the
/// longest, milliseconds.
pub const ELECTION_MS: (u64, u64) = (250, 500);
/// Entries in one append; [`LOG_READ_BYTES_MAX`] bounds its bytes.
///
/// [`LOG_READ_BYTES_MAX`]: super::LOG_READ_BYTES_MAX
pub const APPEND_ENTRIES_MAX: u64 = 1024;
/// Age of the last answer of a quorum, a leader or a member from which it counts as lost.
pub const QUORUM_HEARD_MAX: Duration = Duration::from_millis(1500);
/// Time for which a follower has not applied a committed entry from which it is behind. Less is the usual way of an
/// entry; a disk that is low takes none, however long one waits.
pub const BEHIND_AFTER: Duration = Duration::from_secs(2);
/// Time between two looks whether this node was removed.
pub const STANDING_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Time without a leader after which a node asks the others whether it was removed.
pub const STANDING_ASK_AFTER: Duration = Duration::from_secs(2);
/// Time between two rounds in which a server looks after its connections to the other members.
pub const REACH_ROUND_INTERVAL: Duration = Duration::from_millis(500);
/// Time after which a member that answers is asked again: before its connection has been idle for too long.
pub const REACH_WARM_INTERVAL: Duration = Duration::from_secs(1);

/// Size of the encoded commands that are proposed and not yet applied, bytes.
pub const PROPOSED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Proposals that wait for their result.
pub const PROPOSALS_MAX: usize = 4096;
/// Time that a proposal waits for its result; then its outcome is unknown.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for which a leader whose lease ended (nothing was proposed) is asked again.
pub const LEADER_LEASE_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest time that a write waits for others, to share a commit.
pub const LINGER: Duration = Duration::from_millis(50);
/// Other holders that wrote within [`LINGER_BUSY_WITHIN`] from which a write waits for others.
pub const LINGER_BUSY_HOLDERS: usize = 4;
/// Time over which holders that write are counted: at that rate there are as many writes as commits that wait the
/// longest.
pub const LINGER_BUSY_WITHIN: Duration = Duration::from_millis(200);
/// Size of the commands that wait together from which nobody waits any longer, bytes: what is large gains nothing by
/// it.
pub const LINGER_BYTES_MAX: usize = COMMAND_BYTES_MAX / 2;

/// Time between two looks of a leader at the levels of the members. A look that is later than twice this counts no
/// more: nobody knows what was between.
pub const LEVELS_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Time for which all members must have been able to run at a level before it is activated.
pub const ACTIVATE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Time of readiness for a level that one entry replicates.
pub const LEVEL_NOTE_INTERVAL: Duration = Duration::from_secs(600);

/// Time to find a voter that answers and to see it lead.
pub const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for messages that openraft has taken in to be answered while a node stops.
pub const STOP_MESSAGES_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for proposals and connections to end while a node stops.
pub const STOP_TASKS_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that an offline command waits for the files of a server: one that was killed just now may hold them for a
/// moment.
pub const OFFLINE_LOCK_WAIT: Duration = Duration::from_secs(2);
/// Pause between two attempts of an offline command to lock the files of a server.
pub const OFFLINE_LOCK_POLL: Duration = Duration::from_millis(50);
/// Size of what an offline command reads from a snapshot at a time, bytes.
pub const OFFLINE_READ_BYTES: usize = 1024 * 1024;

const _: () = assert!(HEARTBEAT_MS * 2 < ELECTION_MS.0);
const _: () = assert!(COMMAND_BYTES_MAX < PROPOSED_BYTES_MAX);
