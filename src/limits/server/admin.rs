//! Limits of what operators ask of a server: the membership, and snapshots.

use std::time::Duration;

/// Time for the discovery API at the address of a server to answer before that server is admitted.
pub const MEMBERS_API_LOOK_TIMEOUT: Duration = Duration::from_millis(900);
/// Length of an address of a member, characters: all real ones are shorter.
pub const MEMBER_ADDRESS_CHARS_MAX: usize = 400;
/// Snapshots that a server sends to operators at once; each holds back what the state's file could free.
pub const SNAPSHOTS_SENT_MAX: usize = 2;
/// Chunks of a snapshot that are read ahead of its client.
pub const SNAPSHOT_CHUNKS_AHEAD: usize = 4;
/// Time after which a snapshot that is not taken is given up, however it moves.
pub const SNAPSHOT_SEND_TIMEOUT: Duration = Duration::from_secs(3600);
