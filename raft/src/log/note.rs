//! Which log a server has spoken by, in the small file `log.id` beside it.
//!
//! The log holds the votes. Who lost it and starts again could vote a second time in one term. A state
//! that is ahead of an empty log tells of that, but not when both are lost, or in a node's first second.
//! So the log has a random id of its own, and the server notes it before it speaks to anybody. At each
//! step on the way a crash leaves a folder that starts: a log without a note has promised nothing yet,
//! or is from before there were notes.

use crate::disk::Disk;
use crate::format::{Level, STORAGE};

use super::LogError;

/// Name of the file on the disk.
pub const LOG_NOTE_FILE: &str = "log.id";

pub(super) fn check(disk: &dyn Disk, level: Level, id: u128) -> Result<(), LogError> {
    let stored = disk.read(LOG_NOTE_FILE).map_err(|source| LogError::Note { verb: "read", source })?;
    let Some(bytes) = stored else { return write(disk, level, id) };
    match STORAGE.decode::<u128>("note of the raft log", &bytes)? {
        noted if noted == id => Ok(()),
        _ => Err(LogError::Other),
    }
}

pub(super) fn write(disk: &dyn Disk, level: Level, id: u128) -> Result<(), LogError> {
    disk.write(LOG_NOTE_FILE, &STORAGE.encode(level, &id))
        .map_err(|source| LogError::Note { verb: "write", source })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a deadline of a test is in real time")]
mod tests {
    use super::*;
    use crate::disk::FolderDisk;
    use crate::log::{LOG_FILE, LogStore};

    fn start(disk: &FolderDisk) -> Result<LogStore, LogError> {
        // The one before closes its file on a thread of its own.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let log = loop {
            match LogStore::open(disk) {
                Err(LogError::Open { .. }) if std::time::Instant::now() < end => std::thread::yield_now(),
                log => break log?,
            }
        };
        log.check_note(disk).map(|()| log)
    }

    #[test]
    fn a_lost_log_is_refused_at_every_start_until_the_right_one_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FolderDisk::open(folder.path()).unwrap();
        drop(start(&disk).unwrap());
        drop(start(&disk).unwrap());
        let (log, aside) = (folder.path().join(LOG_FILE), folder.path().join("aside"));
        std::fs::rename(&log, &aside).unwrap();
        for _ in 0..2 {
            let error = start(&disk).err().unwrap();
            assert!(
                matches!(error, LogError::Other) && error.to_string().contains("members replace"),
                "{error}"
            );
        }
        std::fs::rename(&aside, &log).unwrap();
        drop(start(&disk).unwrap());
    }

    #[test]
    fn a_crash_before_the_note_and_a_folder_from_before_there_were_notes_start() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FolderDisk::open(folder.path()).unwrap();
        drop(LogStore::open(&disk).unwrap());
        let log = start(&disk).unwrap();
        let id = log.id;
        drop(log);
        std::fs::remove_file(folder.path().join(LOG_NOTE_FILE)).unwrap();
        assert_eq!(start(&disk).unwrap().id, id);
        assert!(disk.read(LOG_NOTE_FILE).unwrap().is_some());
    }
}
