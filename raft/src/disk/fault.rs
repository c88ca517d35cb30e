//! An error of the disk itself: it is full, broken, or gone. Neither redb nor openraft can go on after one.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

/// Errors of a full disk.
const NO_ROOM: [Errno; 2] = [Errno::NOSPC, Errno::DQUOT];
/// Broken, gone, or remounted read-only by a kernel that found it broken.
const BROKEN: [Errno; 6] = [Errno::IO, Errno::ROFS, Errno::NXIO, Errno::NODEV, Errno::STALE, Errno::FBIG];

/// A call that the disk refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What was tried: `write`, `sync`, …
    pub action: &'static str,
    /// The file that the call was for.
    pub file: PathBuf,
    /// Error of the system.
    pub reason: String,
    /// True: there is no room. False: the disk is broken.
    pub full: bool,
}

impl std::error::Error for Fault {}

impl Fault {
    /// What `error` is, if it is the disk's: met when `action` was tried with `file`.
    pub fn of(action: &'static str, file: &Path, error: &io::Error) -> Option<Self> {
        let errno = Errno::from_io_error(error)?;
        let full = NO_ROOM.contains(&errno);
        let fault = Fault { action, file: file.to_owned(), reason: error.to_string(), full };
        (full || BROKEN.contains(&errno)).then_some(fault)
    }
}

impl fmt::Display for Fault {
    /// With what to do about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, file, reason, full } = self;
        write!(f, "could not {action} {}: {reason}; ", file.display())?;
        if *full {
            f.write_str("free space on its disk, then start again: nothing that was acknowledged is lost")
        } else {
            f.write_str(
                "repair or replace the disk, then start again: with the same folder, or with an empty one \
                 (piccolo members replace)",
            )
        }
    }
}

/// The first fault of a disk; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(Arc<OnceLock<Fault>>);

impl Faults {
    pub(super) fn first(&self) -> Option<Fault> {
        self.0.get().cloned()
    }

    /// Remembers `error` if it is the disk's and the first. What redb says later is only its echo.
    pub(super) fn note(&self, action: &'static str, file: &Path, error: &io::Error) {
        if let Some(fault) = Fault::of(action, file, error) {
            self.0.set(fault).ok();
        }
    }

    /// Like [`Faults::note`], as an argument of `map_err`.
    pub(super) fn noted(&self, action: &'static str, file: &Path, error: io::Error) -> io::Error {
        self.note(action, file, &error);
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_the_disk_is_told_with_its_file_and_what_to_do() {
        let faults = Faults::default();
        let file = Path::new("/data/log.redb");
        faults.note("open", file, &io::Error::from_raw_os_error(Errno::ACCESS.raw_os_error()));
        faults.note("read", file, &io::Error::from(io::ErrorKind::UnexpectedEof));
        assert_eq!(faults.first(), None, "neither of these is the disk's");
        faults.note("write", file, &io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error()));
        faults.note("sync", file, &io::Error::from_raw_os_error(Errno::IO.raw_os_error()));
        let text = faults.first().unwrap().to_string();
        assert!(text.starts_with("could not write /data/log.redb: No space left"), "{text}");
        assert!(text.contains("free space on its disk, then start again"), "{text}");
    }

    #[test]
    fn a_broken_disk_is_not_called_full() {
        let faults = Faults::default();
        faults.note("sync", Path::new("f"), &io::Error::from_raw_os_error(Errno::IO.raw_os_error()));
        let fault = faults.first().unwrap();
        assert!(!fault.full && fault.to_string().contains("replace the disk"), "{fault}");
    }
}
