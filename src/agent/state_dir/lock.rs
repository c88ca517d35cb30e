//! The lock on the folder of `--state-dir`. All workers of one supervisor share it: while a new worker
//! starts, the one before it ends its requests. The supervisor keeps its pid when it executes a new version.
//!
//! A worker takes the lock of a free folder exclusively, writes the name of its supervisor into the file, and
//! shares the lock from then on. A worker that finds the lock taken shares it if the file names its own
//! supervisor.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Name of the lock file in the folder.
const FILE: &str = "agent.lock";
const FILE_MODE: u32 = 0o600;

/// The process whose workers may share a folder. Pids are used again, and two containers may both have a
/// process 1: the start of the process, in clock ticks since the boot of the machine, tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    started: u64,
}

impl Owner {
    /// Identifies the process with this pid.
    pub(crate) fn of(pid: u32) -> Self {
        let started = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| start_in(&stat));
        Self { pid, started: started.unwrap_or(0) }
    }
}

/// Reads field 22 of `/proc/PID/stat` (proc_pid_stat(5)). The second field, the name of the program, is in
/// parentheses and may contain anything.
fn start_in(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(22 - 3)?.parse().ok()
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.started)
    }
}

impl FromStr for Owner {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split_whitespace().map(str::parse::<u64>);
        let mut next = || words.next().and_then(Result::ok).ok_or(());
        let (pid, started) = (next()?, next()?);
        Ok(Self { pid: u32::try_from(pid).map_err(drop)?, started })
    }
}

/// The error for a folder that another agent uses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the folder {} of --state-dir is in use by another agent{}: stop that one, or give each agent a folder of its \
     own with --state-dir",
    folder.display(),
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
)]
pub struct InUse {
    folder: PathBuf,
    /// Pid of the other supervisor, if it is known.
    pid: Option<u32>,
}

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum NoLock {
    InUse(InUse),
    Io(io::Error),
}

/// The lock of one worker. It ends with this value, or with the process.
#[derive(Debug)]
pub(super) struct Lock {
    /// The locked file; `None` if the file system has no locks.
    file: Option<File>,
}

impl Lock {
    /// Takes the lock of `folder`, which must exist, for a worker of `owner`.
    pub(super) fn take(folder: &Path, owner: Owner) -> Result<Self, NoLock> {
        let path = folder.join(FILE);
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                file.set_len(0)?;
                file.write_all(format!("{owner}\n").as_bytes())?;
                share(folder, file, owner)
            }
            Err(Errno::WOULDBLOCK) => share(folder, file, owner),
            Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(Self { file: None }),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Whether the locked file is still the one in `folder`.
    pub(super) fn is_of(&self, folder: &Path) -> bool {
        let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let held = self.file.as_ref().and_then(|file| file.metadata().ok()).map(identity);
        let there = fs::metadata(folder.join(FILE)).ok().map(identity);
        self.file.is_none() || (held.is_some() && held == there)
    }
}

/// Shares the lock if the file names `owner`. An exclusive lock is released for a moment, in which another
/// agent may take the folder.
fn share(folder: &Path, mut file: File, owner: Owner) -> Result<Lock, NoLock> {
    let shared = flock(&file, FlockOperation::NonBlockingLockShared);
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    let named = text.parse::<Owner>().ok();
    match shared {
        Ok(()) if named == Some(owner) => Ok(Lock { file: Some(file) }),
        Ok(()) | Err(Errno::WOULDBLOCK) => {
            Err(NoLock::InUse(InUse { folder: folder.to_owned(), pid: named.map(|named| named.pid) }))
        }
        Err(error) => Err(io::Error::from(error).into()),
    }
}

impl From<io::Error> for NoLock {
    fn from(error: io::Error) -> Self {
        NoLock::Io(error)
    }
}

impl From<NoLock> for io::Error {
    fn from(error: NoLock) -> Self {
        match error {
            NoLock::InUse(in_use) => io::Error::new(io::ErrorKind::ResourceBusy, in_use),
            NoLock::Io(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Owner = Owner { pid: 1, started: 11 };
    const OTHER: Owner = Owner { pid: 1, started: 12 };

    fn in_use(result: Result<Lock, NoLock>) -> String {
        match result {
            Err(NoLock::InUse(in_use)) => in_use.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn workers_of_one_supervisor_share_a_folder_and_another_agent_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let first = Lock::take(root.path(), ONE).unwrap();
        let second = Lock::take(root.path(), ONE).unwrap();
        let refused = in_use(Lock::take(root.path(), OTHER));
        assert!(refused.contains(root.path().to_str().unwrap()) && refused.contains("(pid 1)"), "{refused}");
        drop(first);
        in_use(Lock::take(root.path(), OTHER));
        assert!(second.is_of(root.path()));
        drop(second);
        let other = Lock::take(root.path(), OTHER).unwrap();
        in_use(Lock::take(root.path(), ONE));
        drop(other);
    }

    #[test]
    fn a_file_that_names_nobody_is_in_the_way_of_nobody_once_it_is_free() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(FILE), "not a pid").unwrap();
        let lock = Lock::take(root.path(), ONE).unwrap();
        fs::remove_file(root.path().join(FILE)).unwrap();
        assert!(!lock.is_of(root.path()), "the file is gone, and with it the lock");
    }

    #[test]
    fn a_process_is_told_by_its_pid_and_its_start() {
        let own = Owner::of(std::process::id());
        assert!(own.started > 0);
        assert_eq!(own.to_string().parse(), Ok(own));
        assert_eq!("x".parse::<Owner>(), Err(()));
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2";
        assert_eq!(start_in(stat), Some(4711));
    }
}
