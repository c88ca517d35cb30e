//! A small file system in memory that a test mounts, fills and removes.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;

/// A mounted file system, unmounted when dropped, also by a failing test.
pub(crate) struct Volume {
    folder: TempDir,
}

impl Volume {
    /// Mounts a file system of this size; needs root.
    pub(crate) fn of(bytes: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("piccolo-full-").tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "piccolo-test"])
            .arg(folder.path())
            .status();
        assert!(mounted.unwrap().success(), "could not mount a tmpfs: this test needs root");
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    pub(crate) fn free(&self) -> u64 {
        let space = statvfs(self.path()).unwrap();
        space.f_bavail * space.f_frsize
    }

    /// Fills the volume except for `left` bytes. A server may write at the same time.
    pub(crate) fn fill_up_to(&self, left: u64) {
        let filler = OpenOptions::new().append(true).create(true).open(self.filler()).unwrap();
        let has = filler.metadata().unwrap().len();
        loop {
            let more = self.free().saturating_sub(left);
            if more == 0 {
                return;
            }
            match fallocate(&filler, FallocateFlags::empty(), has, more) {
                // The server has written since the look at the volume.
                Err(Errno::NOSPC) => {}
                result => return result.unwrap(),
            }
        }
    }

    /// Removes the filler.
    pub(crate) fn clear(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Detached now, and released when the last file is closed, because a server may still be ending.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("could not unmount {}", self.path().display());
        }
    }
}
