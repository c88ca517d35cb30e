//! Room for blobs that are received and verified whole. A small blob is kept in memory while there is
//! room, a larger one in a file in the state folder. Without a disk to write to (the folder is
//! unwritable, its disk is full, or it is in memory itself) all blobs are kept in memory, within a budget
//! that leaves the agent inside its limits. Every kind of room is bounded over all transfers; a transfer that
//! finds none waits for it.

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

/// All room of one agent: the state folder, and a budget in bytes for each kind.
pub(crate) struct SpoolSpace {
    state: StateDir,
    /// Memory for small blobs.
    small: Arc<Semaphore>,
    /// Memory for blobs that would be on disk.
    without_disk: Arc<Semaphore>,
    disk: Arc<Semaphore>,
}

/// Room for one blob.
pub(crate) enum SpoolRoom {
    Memory(MemoryRoom),
    Disk(File, DiskRoom),
}

/// Bytes in memory, taken until this is dropped.
#[derive(Debug)]
pub(crate) struct MemoryRoom(#[expect(dead_code, reason = "it is held, not read")] OwnedSemaphorePermit);

/// Bytes on disk, taken until this is dropped.
#[derive(Debug)]
pub(crate) struct DiskRoom(#[expect(dead_code, reason = "it is held, not read")] OwnedSemaphorePermit);

impl SpoolSpace {
    /// All room is free.
    pub(crate) fn new(state: StateDir) -> Self {
        let disk = usize::try_from(SPOOL_DISK_TOTAL_BYTES_MAX).expect("a budget of bytes is an usize");
        Self {
            state,
            small: Arc::new(Semaphore::new(SPOOL_MEMORY_TOTAL_BYTES_MAX)),
            without_disk: Arc::new(Semaphore::new(SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX)),
            disk: Arc::new(Semaphore::new(disk)),
        }
    }

    /// Whether `length` bytes have room at all, if they wait for it long enough.
    pub(crate) fn can_hold(&self, length: u64) -> bool {
        let most = if self.state.has_disk() {
            SPOOL_DISK_TOTAL_BYTES_MAX
        } else {
            SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64
        };
        length <= most
    }

    /// Waits for room for `length` bytes. `None`: this node never has so much.
    pub(crate) async fn room(&self, length: u64) -> Option<SpoolRoom> {
        if length <= SPOOL_MEMORY_BYTES_MAX
            && let Ok(taken) = Arc::clone(&self.small).try_acquire_many_owned(permits(length)?)
        {
            return Some(SpoolRoom::Memory(MemoryRoom(taken)));
        }
        if self.state.has_disk() && length <= SPOOL_DISK_TOTAL_BYTES_MAX {
            let taken = Arc::clone(&self.disk).acquire_many_owned(permits(length)?).await;
            let taken = DiskRoom(taken.expect("the semaphore is never closed"));
            let state = self.state.clone();
            // The state folder has told the operator what went wrong.
            if let Ok(Ok(file)) = tokio::task::spawn_blocking(move || state.spool_file(length)).await {
                return Some(SpoolRoom::Disk(file, taken));
            }
        }
        self.in_memory(length).await.map(SpoolRoom::Memory)
    }

    /// Waits for room in memory for a blob of `length` bytes that the disk takes no more of. `None`: there is
    /// none before the sender, which waits meanwhile, gives up.
    pub(crate) async fn instead_of_disk(&self, length: u64) -> Option<MemoryRoom> {
        timeout(FAILOVER_TIMEOUT, self.in_memory(length)).await.ok().flatten()
    }

    /// Notes that a write to a file has failed.
    pub(crate) fn disk_failed(&self, error: &io::Error) {
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
    use crate::agent::fetch::spool::Spool;
    use crate::agent::flight::growing::Growing;
    use crate::limits::VERIFIED_WHOLE_BYTES_MAX;
    use futures_util::FutureExt;
    use std::time::Duration;

    const LARGE: u64 = VERIFIED_WHOLE_BYTES_MAX;

    #[tokio::test]
    async fn small_blobs_are_in_memory_and_large_ones_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let space = SpoolSpace::new(StateDir::on_disk(folder.path()));
        let mut small = Vec::new();
        while small.len() as u64 * SPOOL_MEMORY_BYTES_MAX < SPOOL_MEMORY_TOTAL_BYTES_MAX as u64 {
            small.push(space.room(SPOOL_MEMORY_BYTES_MAX).await.unwrap());
        }
        assert!(small.iter().all(|room| matches!(room, SpoolRoom::Memory(_))));
        let more = space.room(SPOOL_MEMORY_BYTES_MAX).await;
        assert!(matches!(more, Some(SpoolRoom::Disk(..))), "more small ones than there may be in memory");
        assert!(matches!(space.room(LARGE).await, Some(SpoolRoom::Disk(..))));
        assert!(
            space.can_hold(SPOOL_DISK_TOTAL_BYTES_MAX) && !space.can_hold(SPOOL_DISK_TOTAL_BYTES_MAX + 1)
        );
        assert!(space.room(SPOOL_DISK_TOTAL_BYTES_MAX + 1).await.is_none());
    }

    #[tokio::test]
    async fn all_files_together_take_no_more_than_their_budget() {
        let folder = tempfile::tempdir().unwrap();
        let space = SpoolSpace::new(StateDir::on_disk(folder.path()));
        // Empty files: the budget counts what they may grow to.
        let all = Arc::clone(&space.disk).try_acquire_many_owned((SPOOL_DISK_TOTAL_BYTES_MAX - LARGE) as u32);
        let last = space.room(LARGE).await.unwrap();
        // Time enough for the file, were there room.
        let more = timeout(Duration::from_millis(500), space.room(LARGE)).await;
        assert!(more.is_err(), "over the budget");
        drop(last);
        assert!(space.room(LARGE).await.is_some());
        drop(all);
    }

    /// What broke: other nodes could read a part of a blob that this one had begun to receive and given up, but its room
    /// was free already, so that files on disk took more than their budget.
    #[tokio::test]
    async fn a_file_that_is_still_read_by_other_nodes_keeps_its_room() {
        let folder = tempfile::tempdir().unwrap();
        let space = SpoolSpace::new(StateDir::on_disk(folder.path()));
        let free_bytes = || space.disk.available_permits() as u64;
        let spool = Spool::new(space.room(LARGE).await.unwrap(), LARGE);
        let growing = Growing::new(LARGE, None);
        let (spooled, written) = spool.file().unwrap();
        growing.spooled(spooled.file(), written, Arc::clone(spooled) as _);
        drop(spool);
        assert_eq!(free_bytes(), SPOOL_DISK_TOTAL_BYTES_MAX - LARGE);
        growing.forget_spool();
        assert_eq!(free_bytes(), SPOOL_DISK_TOTAL_BYTES_MAX);
    }

    #[tokio::test]
    async fn without_a_disk_all_are_in_memory_and_those_over_the_budget_wait() {
        let space = SpoolSpace::new(StateDir::unwritable());
        let mut taken = Vec::new();
        while (taken.len() as u64 + 1) * LARGE <= SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64 {
            taken.push(space.room(LARGE).now_or_never().flatten().expect("room"));
        }
        assert!(taken.iter().all(|room| matches!(room, SpoolRoom::Memory(_))));
        assert!(space.room(LARGE).now_or_never().is_none(), "over the budget");
        taken.pop();
        assert!(space.room(LARGE).now_or_never().flatten().is_some());
        assert!(!space.can_hold(SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX as u64 + 1));
    }

    #[tokio::test]
    async fn a_folder_that_becomes_unwritable_sends_blobs_to_memory() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("state");
        let space = SpoolSpace::new(StateDir::on_disk(&folder));
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::write(&folder, "a file is in the way").unwrap();
        assert!(matches!(space.room(LARGE).await, Some(SpoolRoom::Memory(_))));
        assert!(!space.state.has_disk());
    }
}
