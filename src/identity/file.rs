//! The file of a cluster secret: read only if nobody else can, made and changed in one step.

use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use super::secret::{ClusterSecret, SecretProblem};
use crate::limits::SECRET_BYTES_MAX;

/// The mode of the file: its owner reads and changes it.
const MODE: u32 = 0o600;
/// Bits of a mode that let others in.
const OTHERS: u32 = 0o077;

/// Why a file with a cluster secret cannot be used, made or changed.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file system returned an error.
    #[error("could not {action} the cluster secret {}", path.display())]
    File {
        /// The action that failed, for "could not …".
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// TLS needs a secret, and no file was named.
    #[error("TLS needs a cluster secret: no file is given")]
    NoFile,
    /// There is a file already.
    #[error("{} exists already, and is not replaced: a new secret would be another cluster", path.display())]
    Exists {
        /// Path of the file.
        path: PathBuf,
    },
    /// It is a folder, a pipe or a device.
    #[error("could not read the cluster secret {}: it is not a file", path.display())]
    NotAFile {
        /// Path of what is there.
        path: PathBuf,
    },
    /// Others than its owner can read or change it.
    #[error(
        "the cluster secret {0} is open to others than its owner (mode {mode:04o}, expected {MODE:04o}): run \
         chmod {MODE:o} {0}, and make a new one if others may have read it",
        path.display()
    )]
    TooOpen {
        /// Path of the file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is larger than a secret.
    #[error("could not use the cluster secret {}: it has more than {SECRET_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
    },
    /// The content is no secret, or does not allow the change.
    #[error("could not use the cluster secret {}", path.display())]
    Content {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SecretProblem,
    },
    /// Another call changes the file.
    #[error("the cluster secret {} is being changed by another call", path.display())]
    Busy {
        /// Path of the file.
        path: PathBuf,
    },
}

/// Reads the secret in the file at `path`.
///
/// # Errors
/// Any [`SecretError`] but [`SecretError::Exists`] and [`SecretError::Busy`].
pub fn read(path: &Path) -> Result<ClusterSecret, SecretError> {
    let (file, _) = open(path)?;
    read_from(&file, path)
}

/// Makes the file at `path` with a new secret, at `now` in seconds since 1970.
///
/// # Errors
/// [`SecretError::File`], and [`SecretError::Exists`] also for a link that leads nowhere.
pub fn create(path: &Path, now: i64) -> Result<ClusterSecret, SecretError> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(SecretError::Exists { path: path.to_owned() });
    }
    let secret = ClusterSecret::generate(now);
    let written = write_beside(path, &secret)?;
    written.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => SecretError::Exists { path: path.to_owned() },
        _ => failed("write", path)(error.error),
    })?;
    sync_folder(path)?;
    Ok(secret)
}

/// Changes the secret in the file at `path`, which keeps its owner.
///
/// # Errors
/// Any [`SecretError`] but [`SecretError::Exists`]; the file is then as it was.
pub fn change(
    path: &Path,
    change: impl FnOnce(&mut ClusterSecret) -> Result<(), SecretProblem>,
) -> Result<ClusterSecret, SecretError> {
    // A link stays a link.
    let path = &fs::canonicalize(path).map_err(failed("read", path))?;
    let (file, before) = open(path)?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        return Err(SecretError::Busy { path: path.clone() });
    }
    // Somebody may have replaced it before the lock was taken.
    let now = fs::metadata(path).map_err(failed("read", path))?;
    if (now.dev(), now.ino()) != (before.dev(), before.ino()) {
        return Err(SecretError::Busy { path: path.clone() });
    }
    let mut secret = read_from(&file, path)?;
    change(&mut secret).map_err(content(path))?;
    let written = write_beside(path, &secret)?;
    let made = written.as_file().metadata().map_err(failed("write", path))?;
    if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
        let owned = fchown(written.as_file(), Some(before.uid()), Some(before.gid()));
        owned.map_err(failed("keep the owner of", path))?;
    }
    written.persist(path).map_err(|error| failed("write", path)(error.error))?;
    sync_folder(path)?;
    Ok(secret)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecretError {
    let path = path.to_owned();
    move |source| SecretError::File { action, path, source }
}

fn content(path: &Path) -> impl FnOnce(SecretProblem) -> SecretError {
    let path = path.to_owned();
    move |source| SecretError::Content { path, source }
}

/// Opens the file, if it is one that nobody else can read.
fn open(path: &Path) -> Result<(File, Metadata), SecretError> {
    let is_file = |metadata: &Metadata| match metadata.is_file() {
        true => Ok(()),
        false => Err(SecretError::NotAFile { path: path.to_owned() }),
    };
    // Before it is opened: a pipe would wait for its other end.
    is_file(&fs::metadata(path).map_err(failed("read", path))?)?;
    let file = File::open(path).map_err(failed("read", path))?;
    let metadata = file.metadata().map_err(failed("read", path))?;
    is_file(&metadata)?;
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(SecretError::TooOpen { path: path.to_owned(), mode });
    }
    Ok((file, metadata))
}

fn read_from(file: &File, path: &Path) -> Result<ClusterSecret, SecretError> {
    let mut text = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed("read", path))?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(SecretError::TooLarge { path: path.to_owned() });
    }
    ClusterSecret::parse(&text).map_err(content(path))
}

/// A file in the same folder with the text of `secret`, on disk and without its name. It is removed if this
/// process ends before it gets that.
fn write_beside(path: &Path, secret: &ClusterSecret) -> Result<NamedTempFile, SecretError> {
    let mut file = Builder::new()
        .prefix(".cluster-secret-")
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(folder(path))
        .map_err(failed("write", path))?;
    file.write_all(secret.to_text().as_bytes()).map_err(failed("write", path))?;
    file.as_file().sync_all().map_err(failed("write", path))?;
    Ok(file)
}

fn sync_folder(path: &Path) -> Result<(), SecretError> {
    let synced = File::open(folder(path)).and_then(|folder| folder.sync_all());
    synced.map_err(failed("write the name of", path))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests;
