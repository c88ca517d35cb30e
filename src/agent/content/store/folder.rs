//! A folder of blobs, `<root>/blobs/<algorithm>/<hex>`, the layout of OCI image layouts and of containerd's
//! content store. Only well-formed digests become paths.

mod watch;
mod watching;

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;

use super::StoreError;
use crate::oci::{Algorithm, Digest};

use watch::FolderWatch;

pub(super) use watch::Change;
pub(super) use watching::{Watching, poll_pause};

/// Algorithms that have a folder below `blobs`.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

/// A folder of blobs. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlobFolder {
    root: PathBuf,
}

impl BlobFolder {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    fn of(&self, algorithm: Algorithm) -> PathBuf {
        self.blobs().join(algorithm.name())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.of(digest.algorithm()).join(digest.hex())
    }

    /// Checks that this process can list the folder and those of its blobs, as far as they exist. They may
    /// belong to a daemon in another mount namespace, or to another user. The error names the path.
    pub(super) fn check_visible(&self) -> io::Result<()> {
        let look = |path: &Path| std::fs::read_dir(path).map(|_| ()).map_err(|error| at(path, &error));
        look(&self.root)?;
        let below = [self.blobs()].into_iter().chain(ALGORITHMS.map(|algorithm| self.of(algorithm)));
        for path in below {
            match look(&path) {
                Err(error) if !is_absent(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Opens a blob at its start, and returns its length as well; `None` if there is no such blob. The error
    /// names the path.
    pub(super) async fn open(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        let path = self.path(digest);
        let opened = match open_cached(&path) {
            Some(opened) => opened,
            None => {
                let opening = move || with_metadata(open(path, flags(), Mode::empty())?);
                tokio::task::spawn_blocking(opening)
                    .await
                    .unwrap_or_else(|ended| Err(io::Error::other(ended)))
            }
        };
        match opened {
            Ok((file, metadata)) if metadata.is_file() => Ok(Some((file, metadata.len()))),
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(at(&self.path(digest), &error)),
        }
    }

    /// Length of a blob; `None` if there is no such blob.
    pub(super) async fn size_bytes(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.path(digest);
        match tokio::fs::metadata(&path).await {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(StoreError::io("look at a blob", &at(&path, &error))),
        }
    }

    /// When a blob's file came to this folder; `None` if there is no such blob. This is the change time of
    /// the inode, which a copy that keeps modification times (rsync -t, tar) does not keep.
    pub(super) async fn arrived(&self, digest: &Digest) -> Result<Option<SystemTime>, StoreError> {
        let path = self.path(digest);
        match tokio::fs::metadata(&path).await {
            Ok(metadata) => {
                let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
                let nanoseconds = u32::try_from(metadata.ctime_nsec()).unwrap_or(0);
                let arrived = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
                Ok(metadata.is_file().then_some(arrived))
            }
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(StoreError::io("look at a blob", &at(&path, &error))),
        }
    }

    /// Lists all blobs with their lengths. A folder that does not exist yet has none; anything else that
    /// cannot be read is an error (I3).
    pub(super) async fn list(&self) -> Result<BTreeMap<Digest, u64>, StoreError> {
        let folder = self.clone();
        let listed = tokio::task::spawn_blocking(move || folder.list_blocking()).await;
        listed
            .unwrap_or_else(|ended| Err(io::Error::other(ended)))
            .map_err(|error| StoreError::io("list the blob folder", &error))
    }

    fn list_blocking(&self) -> io::Result<BTreeMap<Digest, u64>> {
        // The list is freed as a whole. A map that is built from it at once has full nodes.
        let mut found = Vec::new();
        for algorithm in ALGORITHMS {
            let folder = self.of(algorithm);
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(at(&folder, &error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| at(&folder, &error))?;
                let Some(digest) = digest_of(algorithm, &entry.file_name()) else { continue };
                match std::fs::metadata(entry.path()) {
                    Ok(metadata) if metadata.is_file() => found.push((digest, metadata.len())),
                    Ok(_) => {}
                    Err(error) if is_absent(&error) => {} // removed meanwhile
                    Err(error) => return Err(at(&entry.path(), &error)),
                }
            }
        }
        Ok(found.into_iter().collect())
    }
}

/// Flags that do not wait for the writer of a pipe, which somebody may have put there.
fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK
}

fn with_metadata(file: OwnedFd) -> io::Result<(File, Metadata)> {
    let file = File::from(file);
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// Opens a path that is in the kernel's cache of names. `None` if the kernel would have to read the disk, or
/// cannot tell (before Linux 5.12, in some sandboxes). Never blocks: it takes two system calls, and a change
/// of threads would cost more than it saves.
fn open_cached(path: &Path) -> Option<io::Result<(File, Metadata)>> {
    match openat2(CWD, path, flags(), Mode::empty(), ResolveFlags::CACHED) {
        Ok(file) => Some(with_metadata(file)),
        Err(Errno::NOENT) => Some(Err(io::ErrorKind::NotFound.into())),
        Err(_) => None,
    }
}

/// The digest of a file with this name below `blobs/<algorithm>`.
fn digest_of(algorithm: Algorithm, file_name: &std::ffi::OsStr) -> Option<Digest> {
    format!("{}:{}", algorithm.name(), file_name.to_str()?).parse().ok()
}

/// An error of the same kind that names the path as well.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_files_named_by_a_digest_are_blobs() {
        let root = tempfile::tempdir().unwrap();
        let folder = BlobFolder::new(root.path());
        assert_eq!(folder.list().await.unwrap(), BTreeMap::new(), "nothing there yet");
        let blobs = root.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let digest = Digest::of(b"layer");
        std::fs::write(blobs.join(digest.hex()), b"layer").unwrap();
        std::fs::write(blobs.join("oci-put-blob123"), b"half").unwrap();
        std::fs::create_dir(blobs.join(Digest::of(b"folder").hex())).unwrap();
        assert_eq!(folder.list().await.unwrap(), BTreeMap::from([(digest.clone(), 5)]));
        assert_eq!(folder.open(&digest).await.unwrap().unwrap().1, 5);
        assert!(folder.open(&Digest::of(b"folder")).await.unwrap().is_none());
        assert!(folder.open(&Digest::of(b"absent")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_pipe_in_the_place_of_a_blob_is_none_and_keeps_nobody_waiting() {
        let root = tempfile::tempdir().unwrap();
        let folder = BlobFolder::new(root.path());
        let digest = Digest::of(b"layer");
        std::fs::create_dir_all(folder.of(digest.algorithm())).unwrap();
        rustix::fs::mknodat(CWD, folder.path(&digest), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let opened = tokio::time::timeout(std::time::Duration::from_secs(60), folder.open(&digest)).await;
        assert!(opened.expect("it does not wait").unwrap().is_none());
    }
}
