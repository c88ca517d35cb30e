//! Limits of writes, of forwarding to the leader, and of the size of the index.

use std::time::Duration;

/// Writes that wait at one server.
pub const WRITES_WAITING_MAX: usize = 4_096;
/// Writes of one holder that wait at one server.
pub const HOLDER_WRITES_WAITING_MAX: usize = 64;
/// Syncs that one holder may send at once.
pub const SYNC_BURST: u32 = 32;
/// Time after which a holder that has used up its [`SYNC_BURST`] may send another sync.
pub const SYNC_EVERY: Duration = Duration::from_secs(2);
/// Holders whose syncs are counted before old entries are removed.
pub const SYNC_HOLDERS_REMEMBERED_MIN: usize = 1_024;
/// Rounds of a sync over the applied state. The first may find that the host is missing, or that nothing is
/// to do, which is checked again; the round after its own entries finds what an earlier write left in flight.
/// Nothing can add to that, because the sync holds the holder's lock.
pub const SYNC_ROUNDS: usize = 4;
/// Largest entry that a write is split into, bytes of keys; the rest is for holder and framing.
pub const ENTRY_KEY_BYTES_MAX: usize = piccolo_raft::model::COMMAND_BYTES_MAX - 1024;
/// Time that a write waits for a leader.
pub const LEADER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Pause between two checks for a leader.
pub const LEADER_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Time that a server waits for the leader's answer to a forwarded write.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);
/// Concurrent writes that a server forwards to the leader over kept connections; further ones wait. New
/// connections would wait at the leader behind those of its clients.
pub const FORWARDED_WRITES_MAX: usize = 512;
/// Concurrent heartbeats that a server forwards to the leader over kept connections; further ones wait.
pub const FORWARDED_HEARTBEATS_MAX: usize = 512;

/// Distinct groups in the index.
pub const INDEX_GROUPS_MAX: u64 = 10_000;
/// Hosts in the index, hidden ones included.
pub const INDEX_HOSTS_MAX: u64 = 200_000;
/// Keys of one holder in the index.
pub const INDEX_KEYS_OF_A_HOLDER_MAX: u64 = 200_000;
/// Pairs of key and holder in the index; ten times the size that it is designed for.
pub const INDEX_PAIRS_MAX: u64 = 200_000_000;
/// Largest epoch of a request, milliseconds since 1970: later than any clock shows, with room above for every
/// holder.
pub const EPOCH_MAX: u64 = 1 << 53;
/// Difference by which the epoch of a request may exceed the holder's stored one if that is at [`EPOCH_MAX`];
/// a writer increments by 1.
pub const EPOCH_STEP_MAX: u64 = 1_000;

const _: () = assert!(HOLDER_WRITES_WAITING_MAX * 16 < WRITES_WAITING_MAX);
// An index within its limits never has an id that a restart refuses.
const _: () = assert!(INDEX_PAIRS_MAX < piccolo_raft::model::KEY_IDS_MAX as u64);
const _: () = assert!(16 * INDEX_HOSTS_MAX < piccolo_raft::model::HOST_IDS_MAX as u64);
