//! Identifies the content of a file, as far as the file system can tell.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use crate::oci::Digest;

/// Properties that change whenever the content of a file changes. The change time of the inode is one of them
/// because no program can set it: a file that was overwritten and given its old modification time still
/// differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileState {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size_bytes: u64,
    /// Modification time of the content: seconds and nanoseconds.
    pub(super) modified: (i64, i64),
    /// Change time of the content, the names or the permissions: seconds and nanoseconds.
    pub(super) changed: (i64, i64),
}

impl FileState {
    /// The state of an open file, and its number of names.
    pub(crate) fn of(file: &File) -> io::Result<(Self, u64)> {
        let meta = file.metadata()?;
        let state = Self {
            device: meta.dev(),
            inode: meta.ino(),
            size_bytes: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        };
        Ok((state, meta.nlink()))
    }

    /// Length of the file, bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

/// A file in one state, and the digest that its bytes should have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileVersion {
    pub(super) state: FileState,
    pub(super) digest: Digest,
}
