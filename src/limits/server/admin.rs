//! Limits of operators' requests to a server: membership and snapshots.

use std::time::Duration;

/// Time for a new server's discovery API to answer before the server is added.
pub const MEMBERS_API_LOOK_TIMEOUT: Duration = Duration::from_millis(900);
/// Longest address of a member, characters; real ones are shorter.
pub const MEMBER_ADDRESS_CHARS_MAX: usize = 400;
/// Concurrent snapshots for operators; each delays the release of space in the state's file.
pub const SNAPSHOTS_SENT_MAX: usize = 2;
/// Chunks of a snapshot that are read ahead of its client.
pub const SNAPSHOT_CHUNKS_AHEAD: usize = 4;
/// Longest time for sending a snapshot.
pub const SNAPSHOT_SEND_TIMEOUT: Duration = Duration::from_secs(3600);
