//! Limits of a disk that is getting full.

use std::time::Duration;

/// Time between two looks at the own disk.
pub const DISK_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two questions of a leader for the disks of the others.
pub const DISK_ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Time without an answer from which a member's disk counts as unknown.
pub const DISK_SILENT_AFTER: Duration = Duration::from_secs(3);
/// Time without a leader after which a node whose disk is low stands for election: nobody with room could win.
pub const CANDIDATE_AFTER: Duration = Duration::from_secs(3);
/// Pause before a ballast that could not be made is tried again.
pub const BALLAST_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Size of what is written of a ballast at once where the file system cannot allocate, bytes.
pub const BALLAST_PIECE_BYTES: usize = 1024 * 1024;
/// Part of the disk that a node wants free by itself, as its inverse.
pub const MINIMUM_SHARE: u64 = 20;
/// Least room that a node wants free by itself, bytes: a log at its largest, and what redb adds to it.
pub const MINIMUM_BYTES_LEAST: u64 = 1024 * 1024 * 1024;
/// Most room that a node wants free by itself, bytes, several times what a node ever has: 5 % of a disk of 4 TB are
/// 200 GB, on which it could go on for good.
pub const MINIMUM_BYTES_MOST: u64 = 8 * 1024 * 1024 * 1024;
/// Part of the disk that a node wants free by itself at most, as its inverse: more, and a small disk would be too full
/// when it is empty.
pub const MINIMUM_SHARE_MOST: u64 = 4;
/// Part of the minimum by which more must be free for a low disk to have room again, as its inverse.
pub const RESUME_SHARE: u64 = 8;
/// Part of the minimum below which the next write may fail, so that the ballast is given back, as its inverse.
pub const CRITICAL_SHARE: u64 = 8;
/// Size of the ballast on a large disk, bytes: a durable state commit, a purge and some elections.
pub const BALLAST_BYTES: u64 = 64 * 1024 * 1024;
/// Part of the disk that the ballast has at most, as its inverse; it also has half of the minimum at most.
pub const BALLAST_SHARE: u64 = 64;
/// Part of the minimum that a node whose disk is low still takes of entries, as its inverse: what is under way when its
/// leader hears of it, and the first entry of a new leader.
pub const GRACE_SHARE: u64 = 16;
/// Size of the entries that a node whose disk is low still takes at most, bytes.
pub const GRACE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Room that a snapshot takes on disk, as a multiple of its size on the way: it is replaced in one transaction, while
/// the state before it is there too.
pub const SNAPSHOT_ROOM_FACTOR: u64 = 2;
/// Time for which a snapshot that found no room makes the node want more.
pub const SNAPSHOT_WANTED_FOR: Duration = Duration::from_secs(600);
/// Free space from which the state has enough room to wait with a flush, as a multiple of the minimum.
pub const LITTLE_ROOM: u64 = 4;
/// Free space beyond the minimum from which the state has enough room to wait with a flush, bytes: more than a late
/// flush takes.
pub const FLUSH_BYTES_MOST: u64 = 512 << 20;
/// Length of another process's command line that an error shows, characters.
pub const COMMAND_CHARS_MAX: usize = 200;

const _: () = assert!(GRACE_BYTES_MAX < MINIMUM_BYTES_LEAST / CRITICAL_SHARE);
const _: () = assert!(BALLAST_BYTES <= MINIMUM_BYTES_LEAST / 2);
