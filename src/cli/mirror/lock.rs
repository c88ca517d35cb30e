//! Allows one `piccolo mirror` at a time: a lock on the folders of `--certs-dir` themselves. It leaves no
//! file behind and ends with the process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::FileError;
use super::roots::Roots;

use crate::limits::MIRROR_LOCK_PAUSE;

/// A lock on the folders, held until this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _folders: Vec<File>,
    /// Folders that were made to be locked, outermost first.
    made: Vec<PathBuf>,
}

impl Lock {
    /// Locks the folders of `roots` that exist. With `make` the first one is made if it is missing.
    pub(super) fn take(roots: &Roots, make: bool, wait: Duration) -> Result<Self, FileError> {
        let deadline = Instant::now() + wait;
        loop {
            let mut made = Vec::new();
            if make {
                let missing = roots
                    .first()
                    .ancestors()
                    .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
                made = missing.map(Path::to_owned).collect();
                made.reverse();
                fs::create_dir_all(roots.first()).map_err(FileError::io("make this folder"))?;
            }
            // Sorted, so that all processes lock in the same order, and each folder once.
            let paths: BTreeSet<PathBuf> =
                roots.all().iter().filter_map(|root| fs::canonicalize(root).ok()).collect();
            let locked = paths.iter().map(|path| lock(path, deadline)).collect::<io::Result<Vec<_>>>();
            let folders = match locked {
                Ok(folders) => folders,
                // Another process has removed the folder in the meantime.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(FileError::Locked { seconds: wait.as_secs() });
                }
                Err(source) => return Err(FileError::Io { action: "lock it", source }),
            };
            let is_there = |(path, file): (&PathBuf, &File)| {
                let (now, locked) = (fs::metadata(path), file.metadata());
                now.is_ok_and(|now| {
                    locked.is_ok_and(|locked| (now.dev(), now.ino()) == (locked.dev(), locked.ino()))
                })
            };
            if paths.iter().zip(&folders).all(is_there) && (!make || roots.first().is_dir()) {
                return Ok(Self { _folders: folders, made });
            }
        }
    }

    /// Number of folders that were made, the first root included.
    pub(super) fn folders_made(&self) -> usize {
        self.made.len()
    }

    /// Removes the folders that were made, unless they have content.
    pub(super) fn unmake(self) {
        for folder in self.made.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn lock(path: &Path, deadline: Instant) -> io::Result<File> {
    let folder = File::open(path)?;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(MIRROR_LOCK_PAUSE)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(io::ErrorKind::TimedOut.into()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    #[test]
    fn a_second_one_waits_for_the_first_and_says_so_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let certs = folder.path().join("containerd/certs.d");
        let roots = Roots::parse(&format!("{}:/nowhere", certs.display())).unwrap();
        let first = Lock::take(&roots, true, NO_TIME).unwrap();
        assert_eq!(first.folders_made(), 2);
        let error = Lock::take(&roots, true, NO_TIME).unwrap_err();
        assert!(matches!(error, FileError::Locked { .. }), "{error}");
        first.unmake();
        assert!(!folder.path().join("containerd").exists());
        // A missing folder is neither locked nor made.
        Lock::take(&roots, false, NO_TIME).unwrap();
        assert!(!certs.exists());
        drop(Lock::take(&roots, true, NO_TIME).unwrap());
        Lock::take(&roots, true, NO_TIME).unwrap();
    }
}
