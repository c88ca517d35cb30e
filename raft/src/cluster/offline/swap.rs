//! Several files take the place of others at once.
//!
//! They are made in a folder of their own. Its renaming is the moment from which on they count: before, the
//! old files are the data, and the folder is what a call that was cut has left; after, whoever comes next,
//! be it a server that starts, moves them to their places ([`settle`]), as often as power cuts make
//! necessary.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use crate::index::STATE_FILE;
use crate::log::{LOG_FILE, LOG_NOTE_FILE};
use crate::network::identity::{ADOPTED_FILE, NODE_FILE, REMOVED_FILE};

use super::{Founded, OfflineError};

/// New files, not yet whole.
const BEGUN: &str = "new-cluster";
/// Folder of new files that are complete: they replace the old ones.
const READY: &str = "new-cluster.ready";
/// Files that are made anew.
const REPLACED: [&str; 4] = [STATE_FILE, LOG_FILE, LOG_NOTE_FILE, NODE_FILE];
/// A server that has data has all of these.
const NEEDED: [&str; 3] = [LOG_FILE, STATE_FILE, NODE_FILE];
/// Mean nothing in a new cluster.
const DROPPED: [&str; 2] = [ADOPTED_FILE, REMOVED_FILE];
/// In the root of a file system of its own.
const LOST_AND_FOUND: &str = "lost+found";

/// Finishes what [`super::restore`] or [`super::force_new_cluster`] had begun when the power was cut; true
/// if there was something. Every start of a server begins with it.
pub fn settle(folder: &Path) -> io::Result<bool> {
    let ready = folder.join(READY);
    if !ready.try_exists()? {
        return Ok(false);
    }
    for name in DROPPED {
        gone(fs::remove_file(folder.join(name)))?;
    }
    for name in REPLACED {
        gone(fs::rename(ready.join(name), folder.join(name)))?;
    }
    sync(folder)?;
    gone(fs::remove_dir_all(&ready))?;
    sync(folder)?;
    Ok(true)
}

/// Takes the error that a file is not there for success: the step was done before.
fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// An empty folder for new files.
pub(super) fn begin(folder: &Path) -> io::Result<PathBuf> {
    let begun = folder.join(BEGUN);
    gone(fs::remove_dir_all(&begun))?;
    fs::create_dir(&begun)?;
    Ok(begun)
}

/// The new files count, or are removed.
pub(super) fn commit_or_clean(
    folder: &Path,
    built: Result<Founded, OfflineError>,
) -> Result<Founded, OfflineError> {
    let begun = folder.join(BEGUN);
    let founded = match built {
        Ok(founded) => founded,
        Err(error) => {
            // What is left is no harm: the next call begins with removing it.
            let _ = fs::remove_dir_all(&begun);
            return Err(error);
        }
    };
    let commit = || {
        give_to_owner(folder, &begun)?;
        sync(&begun)?;
        fs::rename(&begun, folder.join(READY))?;
        sync(folder)?;
        settle(folder)
    };
    commit().map_err(OfflineError::io("put the new files in their places in", folder))?;
    Ok(founded)
}

/// What root makes is for the user that the server runs as, the folder's owner: to read, and, if power is cut
/// before the last step, to move out of the new folder.
fn give_to_owner(folder: &Path, begun: &Path) -> io::Result<()> {
    let owner = fs::metadata(folder)?;
    let entries = fs::read_dir(begun)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
    paths.push(begun.to_owned());
    for path in paths {
        let is = fs::symlink_metadata(&path)?;
        if (is.uid(), is.gid()) != (owner.uid(), owner.gid()) {
            match chown(&path, Some(owner.uid()), Some(owner.gid())) {
                // Not root: then it is the server's user, or somebody whom it trusts.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                done => done?,
            }
        }
    }
    Ok(())
}

/// Refuses a folder with anything in it but what an earlier call has left.
pub(super) fn check_empty(folder: &Path) -> Result<(), OfflineError> {
    let read = OfflineError::io("read", folder);
    let names = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    });
    let names: Vec<String> = names.map_err(read)?;
    match names.into_iter().find(|name| ![BEGUN, LOST_AND_FOUND].contains(&name.as_str())) {
        Some(name) => Err(OfflineError::NotEmpty { name }),
        None => Ok(()),
    }
}

/// Opening would make what is missing, and leave the folder another than it was.
pub(super) fn check_data(folder: &Path) -> Result<(), OfflineError> {
    let mut missing = Vec::new();
    for name in NEEDED {
        if !folder.join(name).try_exists().map_err(OfflineError::io("read", folder))? {
            missing.push(name);
        }
    }
    match missing[..] {
        [] => Ok(()),
        _ if missing.len() == NEEDED.len() => Err(OfflineError::NoData),
        [name, ..] => Err(OfflineError::Missing { name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with old files and new ones that count.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in REPLACED.into_iter().chain(DROPPED) {
            fs::write(folder.path().join(name), "old").unwrap();
        }
        fs::create_dir(folder.path().join(READY)).unwrap();
        for name in REPLACED {
            fs::write(folder.path().join(READY).join(name), "new").unwrap();
        }
        folder
    }

    fn expect_new(folder: &Path) {
        for name in REPLACED {
            assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), "new", "{name}");
        }
        assert_eq!(fs::read_dir(folder).unwrap().count(), REPLACED.len(), "nothing else is left");
        assert!(!settle(folder).unwrap());
    }

    #[test]
    fn a_power_cut_after_any_step_of_the_swap_is_made_good_by_the_next_one() {
        for done in 0..=REPLACED.len() {
            for dropped in [0, 1, 2] {
                let folder = folder();
                for name in &DROPPED[..dropped] {
                    fs::remove_file(folder.path().join(name)).unwrap();
                }
                for name in &REPLACED[..done] {
                    fs::rename(folder.path().join(READY).join(name), folder.path().join(name)).unwrap();
                }
                assert!(settle(folder.path()).unwrap());
                expect_new(folder.path());
            }
        }
    }

    #[test]
    fn new_files_and_their_folder_are_the_owners_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let begun = begin(folder.path()).unwrap();
        fs::write(begun.join(NODE_FILE), "new").unwrap();
        let user = fs::metadata(folder.path()).unwrap().uid();
        // Tests run as root; who is not can only give to himself.
        let other = if user == 0 { 1234 } else { user };
        chown(folder.path(), Some(other), Some(other)).unwrap_or_default();
        give_to_owner(folder.path(), &begun).unwrap();
        for path in [&begun.join(NODE_FILE), &begun] {
            assert_eq!(fs::metadata(path).unwrap().uid(), other, "{}", path.display());
        }
    }

    #[test]
    fn new_files_that_do_not_count_yet_change_nothing() {
        let folder = folder();
        fs::rename(folder.path().join(READY), folder.path().join(BEGUN)).unwrap();
        assert!(!settle(folder.path()).unwrap());
        assert_eq!(fs::read_to_string(folder.path().join(NODE_FILE)).unwrap(), "old");
        assert_eq!(fs::read_dir(begin(folder.path()).unwrap()).unwrap().count(), 0, "begun anew");
    }
}
