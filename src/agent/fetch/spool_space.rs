//! Room for blobs that are received and verified whole. A small one is kept in memory while there is
//! room, a larger one in a file in the state folder. Without a disk to write to (the folder is
//! unwritable, its disk is full, or it is in memory itself) they are all kept in memory, within a budget
//! that leaves the agent inside its limits. Every kind of room is bounded over all transfers; who finds
//! none waits for it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::agent::state_dir::StateDir;
use crate::limits::{
    FAILOVER_TIMEOUT, SPOOL_DISK_TOTAL_BYTES_MAX, SPOOL_MEMORY_BYTES_MAX, SPOOL_MEMORY_TOTAL_BYTES_MAX,
    SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX,
};

/// All room of one agent.
pub(super) struct Rooms {
    state: StateDir,
    small: Arc<Semaphore>,
    without_disk: Arc<Semaphore>,
    disk: Arc<Semaphore>,
}

/// Room for one blob.
pub(super) enum Room {
    Memory(MemoryRoom),
    Disk(File, DiskRoom),
}

/// Bytes in memory, taken until this is dropped.
#[derive(Debug)]
pub(super) struct MemoryRoom(#[expect(dead_code, reason = "it is held, not read")] OwnedSemaphorePermit);

/// Bytes on disk, taken until this is dropped.
#[derive(Debug)]
pub(super) struct DiskRoom(#[expect(dead_code, reason = "it is held, not read")] OwnedSemaphorePermit);

impl Rooms {
    pub(super) fn new(state: StateDir) -> Self {
        let disk = usize::try_from(SPOOL_DISK_TOTAL_BYTES_MAX).expect("a budget of bytes is an usize");
        Self {
            state,
            small: Arc::new(Semaphore::new(SPOOL_MEMORY_TOTAL_BYTES_MAX)),
            without_disk: Arc::new(Semaphore::new(SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX)),
            disk: Arc::new(Semaphore::new(disk)),
        }
    }

    /// Whether so many bytes have room at all, if they wait for it long enough.
    pub(super) fn can_hold(&self, length: u64) -> bool {
        let most = if self.state.has_disk() {
            SPOOL_DISK_TOTAL_BYTES_MAX
        } else {
            SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64
        };
        length <= most
    }

    /// Waits for room for `length` bytes. `None`: there is never so much.
    pub(super) async fn room(&self, length: u64) -> Option<Room> {
        if length <= SPOOL_MEMORY_BYTES_MAX
            && let Ok(taken) = Arc::clone(&self.small).try_acquire_many_owned(permits(length)?)
        {
            return Some(Room::Memory(MemoryRoom(taken)));
        }
        if self.state.has_disk() && length <= SPOOL_DISK_TOTAL_BYTES_MAX {
            let taken = Arc::clone(&self.disk).acquire_many_owned(permits(length)?).await;
            let taken = DiskRoom(taken.expect("the semaphore is never closed"));
            let state = self.state.clone();
            // What went wrong stands in the notices.
            if let Ok(Ok(file)) = tokio::task::spawn_blocking(move || state.spool_file(length)).await {
                return Some(Room::Disk(file, taken));
            }
        }
        self.in_memory(length).await.map(Room::Memory)
    }

    /// Room in memory for a blob of `length` bytes that the disk takes no more of. `None`: there is none
    /// soon enough for a sender that waits meanwhile.
    pub(super) async fn instead_of_disk(&self, length: u64) -> Option<MemoryRoom> {
        timeout(FAILOVER_TIMEOUT, self.in_memory(length)).await.ok().flatten()
    }

    /// A write to a file of this room has failed.
    pub(super) fn disk_failed(&self, error: &io::Error) {
        self.state.failed(error);
    }

    async fn in_memory(&self, length: u64) -> Option<MemoryRoom> {
        let permits = permits(length).filter(|_| length <= SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64)?;
        let taken = Arc::clone(&self.without_disk).acquire_many_owned(permits).await;
        Some(MemoryRoom(taken.expect("the semaphore is never closed")))
    }
}

fn permits(length: u64) -> Option<u32> {
    u32::try_from(length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::VERIFIED_WHOLE_BYTES_MAX;
    use futures_util::FutureExt;
    use std::time::Duration;

    const LARGE: u64 = VERIFIED_WHOLE_BYTES_MAX;

    #[tokio::test]
    async fn small_blobs_are_in_memory_and_large_ones_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = Rooms::new(StateDir::on_disk(folder.path()));
        let mut small = Vec::new();
        while small.len() as u64 * SPOOL_MEMORY_BYTES_MAX < SPOOL_MEMORY_TOTAL_BYTES_MAX as u64 {
            small.push(rooms.room(SPOOL_MEMORY_BYTES_MAX).await.unwrap());
        }
        assert!(small.iter().all(|room| matches!(room, Room::Memory(_))));
        let more = rooms.room(SPOOL_MEMORY_BYTES_MAX).await;
        assert!(matches!(more, Some(Room::Disk(..))), "more small ones than there may be in memory");
        assert!(matches!(rooms.room(LARGE).await, Some(Room::Disk(..))));
        assert!(
            rooms.can_hold(SPOOL_DISK_TOTAL_BYTES_MAX) && !rooms.can_hold(SPOOL_DISK_TOTAL_BYTES_MAX + 1)
        );
        assert!(rooms.room(SPOOL_DISK_TOTAL_BYTES_MAX + 1).await.is_none());
    }

    #[tokio::test]
    async fn all_files_together_take_no_more_than_their_budget() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = Rooms::new(StateDir::on_disk(folder.path()));
        // Empty files: the budget counts what they may grow to.
        let all = Arc::clone(&rooms.disk).try_acquire_many_owned((SPOOL_DISK_TOTAL_BYTES_MAX - LARGE) as u32);
        let last = rooms.room(LARGE).await.unwrap();
        // Time enough for the file, were there room.
        let more = timeout(Duration::from_millis(500), rooms.room(LARGE)).await;
        assert!(more.is_err(), "over the budget");
        drop(last);
        assert!(rooms.room(LARGE).await.is_some());
        drop(all);
    }

    #[tokio::test]
    async fn without_a_disk_all_are_in_memory_and_those_over_the_budget_wait() {
        let rooms = Rooms::new(StateDir::unwritable());
        let mut taken = Vec::new();
        while (taken.len() as u64 + 1) * LARGE <= SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64 {
            taken.push(rooms.room(LARGE).now_or_never().flatten().expect("room"));
        }
        assert!(taken.iter().all(|room| matches!(room, Room::Memory(_))));
        assert!(rooms.room(LARGE).now_or_never().is_none(), "over the budget");
        taken.pop();
        assert!(rooms.room(LARGE).now_or_never().flatten().is_some());
        assert!(!rooms.can_hold(SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64 + 1));
    }

    #[tokio::test]
    async fn a_folder_that_becomes_unwritable_sends_blobs_to_memory() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("state");
        let rooms = Rooms::new(StateDir::on_disk(&folder));
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::write(&folder, "a file is in the way").unwrap();
        assert!(matches!(rooms.room(LARGE).await, Some(Room::Memory(_))));
        assert!(!rooms.state.has_disk());
    }
}
