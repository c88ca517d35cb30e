//! Limits of writes, of their way to the leader, and of what the index may hold.

use std::time::Duration;

/// Writes that wait at one server.
pub const WRITES_WAITING_MAX: usize = 4_096;
/// Writes of one holder that wait at one server.
pub const HOLDER_WRITES_WAITING_MAX: usize = 64;
/// Syncs that one holder may send at once.
pub const SYNC_BURST: u32 = 32;
/// Time after which a holder that has used up its [`SYNC_BURST`] may send another sync.
pub const SYNC_EVERY: Duration = Duration::from_secs(2);
/// Holders whose syncs are counted before anybody looks for some to forget.
pub const SYNC_HOLDERS_REMEMBERED_MIN: usize = 1_024;
/// Looks that a sync takes at what is applied. The first may find a host to be introduced, or nothing to do, which is
/// then looked at again; the one after its own entries what an earlier write left under way; nothing can add to that,
/// because the sync holds the holder's lock.
pub const SYNC_ROUNDS: usize = 4;
/// Largest entry that a write is cut into, bytes of its keys: the rest is for holder and framing.
pub const ENTRY_KEY_BYTES_MAX: usize = piccolo_raft::model::COMMAND_BYTES_MAX - 1024;
/// Time that a write waits for a leader.
pub const LEADER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Pause between two looks for a leader.
pub const LEADER_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Time that a server waits for the leader's answer to a write that it has forwarded.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);
/// Writes that a server forwards to the leader at once, each over a connection that is kept for the next one; further
/// ones wait. A connection of its own for each would wait at the leader behind those of its clients.
pub const FORWARDED_WRITES_MAX: usize = 512;
/// Heartbeats that a server forwards to the leader at once, each over a connection that is kept for the next one;
/// further ones wait.
pub const FORWARDED_HEARTBEATS_MAX: usize = 512;

/// Distinct groups in the index.
pub const INDEX_GROUPS_MAX: u64 = 10_000;
/// Hosts in the index, hidden ones included.
pub const INDEX_HOSTS_MAX: u64 = 200_000;
/// Keys of one holder in the index.
pub const INDEX_KEYS_OF_A_HOLDER_MAX: u64 = 200_000;
/// Pairs of key and holder in the index; ten times what it is made for.
pub const INDEX_PAIRS_MAX: u64 = 200_000_000;
/// Largest epoch of a request, milliseconds since 1970: a time that no clock shows, with room for every holder to go
/// on above it.
pub const EPOCH_MAX: u64 = 1 << 53;
/// Distance by which the epoch of a request may be above the holder's stored one, if that is at [`EPOCH_MAX`]; a
/// writer goes on by 1.
pub const EPOCH_STEP_MAX: u64 = 1_000;

const _: () = assert!(HOLDER_WRITES_WAITING_MAX * 16 < WRITES_WAITING_MAX);
// An index within its limits never has an id that a restart refuses.
const _: () = assert!(INDEX_PAIRS_MAX < piccolo_raft::model::KEY_IDS_MAX as u64);
const _: () = assert!(16 * INDEX_HOSTS_MAX < piccolo_raft::model::HOST_IDS_MAX as u64);
