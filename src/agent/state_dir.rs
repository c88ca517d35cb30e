//! The folder of `--state-dir`, where an agent keeps files of its own. An agent does not need it to start:
//! without write access it works without the folder, says so in `/readyz`, and tries again.
//!
//! `spool/` holds blobs that are being verified, in files without a name. They disappear with the agent,
//! however it ends. `agent.lock` keeps the folder for the workers of one supervisor.

mod lock;

use std::convert::Infallible;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use tokio::sync::Notify;

pub(crate) use lock::{InUse, Owner};
use lock::{Lock, NoLock};

use super::notices::{Notices, Topic};
use crate::limits::{
    SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX, STATE_DIR_LEFTOVER_AGE, STATE_DIR_PROBE_BYTES,
    STATE_DIR_PROBE_WRITE_BYTES, STATE_DIR_RETRY, VERIFIED_WHOLE_BYTES_MAX,
};
use crate::task::Stop;

/// Permissions of folders that an agent creates: not every user may read what layers contain.
const MODE: u32 = 0o700;
const SPOOL: &str = "spool";
/// Prefix of the names of files that are still being written, and renamed afterwards.
const NEW: &str = ".new-";
/// `f_type` of file systems in memory (`statfs(2)`): tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The state folder. A clone is the same folder.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    shared: Arc<Folder>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// The supervisor whose workers share the folder.
    owner: Owner,
    /// The lock, held from the moment on at which the folder could be written to.
    lock: Mutex<Option<Lock>>,
    notices: Notices,
    condition: Mutex<Condition>,
    /// Notified when the folder turns out not to be writable.
    failed: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Writable {
        /// Whether files there use memory instead of a disk.
        in_memory: bool,
    },
    Unwritable,
}

impl StateDir {
    /// Creates `path` if it is missing, locks it for the workers of `owner`, checks that it is writable, and
    /// removes files that a killed agent left behind. A folder that is not writable is not locked.
    ///
    /// # Errors
    /// Another agent uses the folder.
    pub(crate) fn open(path: &Path, owner: Owner, notices: &Notices) -> Result<Self, InUse> {
        let (condition, notices) = (Mutex::new(Condition::Unwritable), notices.clone());
        let (path, lock) = (path.to_owned(), Mutex::new(None));
        let shared = Folder { path, owner, lock, notices, condition, failed: Notify::new() };
        let state = Self { shared: Arc::new(shared) };
        if let Err(NoLock::InUse(in_use)) = state.keep_lock() {
            return Err(in_use);
        }
        if state.try_again() {
            state.remove_leftovers(STATE_DIR_LEFTOVER_AGE);
        }
        Ok(state)
    }

    /// Creates the folder, and locks it unless it is locked.
    fn keep_lock(&self) -> Result<(), NoLock> {
        self.make_folders()?;
        let mut held = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.as_ref().is_some_and(|lock| lock.is_of(&self.shared.path)) {
            *held = Some(Lock::take(&self.shared.path, self.shared.owner)?);
        }
        Ok(())
    }

    /// The path of the folder, if it is writable.
    pub(crate) fn folder(&self) -> Option<&Path> {
        (*self.condition() != Condition::Unwritable).then_some(self.shared.path.as_path())
    }

    /// The path of the file `name`, whether or not it exists.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.shared.path.join(name)
    }

    /// The content of the file `name`; `None` if there is no such file.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path_of(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file `name`: after a power cut it has all of the new bytes or all of the old ones. Does
    /// nothing while the folder is not writable.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let Some(folder) = self.folder() else { return Ok(()) };
        let replaced = (|| {
            let mut file = tempfile::Builder::new().prefix(NEW).tempfile_in(folder)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(folder.join(name))?;
            File::open(folder)?.sync_all()
        })();
        replaced.inspect_err(|error| self.failed(error))
    }

    /// Whether `spool/` is writable and on a disk.
    pub(crate) fn has_disk(&self) -> bool {
        *self.condition() == Condition::Writable { in_memory: false }
    }

    /// A new file without a name in `spool/`, with `length` bytes reserved where the file system can do that.
    /// Blocks.
    pub(crate) fn spool_file(&self, length: u64) -> io::Result<File> {
        let made = self.make_folders().and_then(tempfile::tempfile_in);
        made.and_then(|file| reserve(&file, length).map(|()| file)).inspect_err(|error| self.failed(error))
    }

    /// Reports that writing failed with `error`: the folder is not used until [`Self::watch`] finds it
    /// writable again.
    pub(crate) fn failed(&self, error: &io::Error) {
        *self.condition() = Condition::Unwritable;
        self.shared.notices.set(Topic::StateDir, "", self.notice(error));
        self.shared.failed.notify_one();
    }

    /// Checks an unwritable folder again and again; waits while it is writable.
    pub(crate) async fn watch(self, stop: Stop) -> Result<(), Infallible> {
        self.watch_each(STATE_DIR_RETRY, stop).await;
        Ok(())
    }

    async fn watch_each(self, retry: Duration, stop: Stop) {
        let watching = async {
            loop {
                if self.folder().is_some() {
                    self.shared.failed.notified().await;
                    continue;
                }
                tokio::time::sleep(retry).await;
                let state = self.clone();
                if tokio::task::spawn_blocking(move || state.try_again()).await.is_err() {
                    tracing::error!("the try to write to the state folder has panicked");
                }
            }
        };
        stop.run_until_cancelled(watching).await;
    }

    /// Checks whether the folder is writable now. Blocks.
    fn try_again(&self) -> bool {
        match self.probe() {
            Ok(in_memory) => {
                *self.condition() = Condition::Writable { in_memory };
                if in_memory {
                    tracing::info!(
                        state_dir = %self.shared.path.display(),
                        "the state folder is in memory (tmpfs): blobs are checked in memory, within the same limits as without it"
                    );
                }
                self.shared.notices.clear(Topic::StateDir, "");
                true
            }
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    /// Writes a file, and returns whether it uses memory.
    fn probe(&self) -> io::Result<bool> {
        self.keep_lock()?;
        let mut file = tempfile::tempfile_in(self.make_folders()?)?;
        let in_memory = is_in_memory(&file)?;
        file.write_all(&[0; STATE_DIR_PROBE_WRITE_BYTES])?;
        if !in_memory {
            reserve(&file, STATE_DIR_PROBE_BYTES)?;
        }
        // `replace` writes into this folder, not into `spool`.
        tempfile::tempfile_in(&self.shared.path)?;
        Ok(in_memory)
    }

    /// Creates the folders that are missing; returns the path of `spool/`.
    fn make_folders(&self) -> io::Result<PathBuf> {
        let (path, spool) = (&self.shared.path, self.shared.path.join(SPOOL));
        if spool.is_dir() {
            return Ok(spool);
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // A folder that existed before keeps its permissions: it may be shared by all users.
        for folder in [path, &spool] {
            match DirBuilder::new().mode(MODE).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        fs::set_permissions(&spool, Permissions::from_mode(MODE))?;
        Ok(spool)
    }

    /// Removes temporary files of agents that were killed before they could rename them or unlink them.
    fn remove_leftovers(&self, age: Duration) {
        let is_old = |modified: SystemTime| modified.elapsed().is_ok_and(|elapsed| elapsed >= age);
        for (folder, prefix) in [(self.shared.path.clone(), NEW), (self.path_of(SPOOL), "")] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let is_ours = entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes());
                let meta = entry.metadata().ok().filter(|meta| is_ours && meta.is_file());
                if meta.and_then(|meta| meta.modified().ok()).is_some_and(is_old) {
                    let removed = fs::remove_file(entry.path());
                    tracing::info!(file = %entry.path().display(), ?removed, "removed what an earlier agent has left");
                }
            }
        }
    }

    fn notice(&self, error: &io::Error) -> String {
        format!(
            "could not write to --state-dir {}: {error}; blobs of up to {} MiB are checked in memory, {} MiB of them at \
             a time, and those that find no room there come from the registry; content is checked again after a \
             restart; make the folder writable, or give another one",
            self.shared.path.display(),
            VERIFIED_WHOLE_BYTES_MAX >> 20,
            SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX >> 20,
        )
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        // No panic can leave a plain value half changed.
        self.shared.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reserves `length` bytes where the file system supports that.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, length.max(1)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_in_memory(file: &File) -> io::Result<bool> {
    // The type of the field differs between architectures; the magic numbers have 32 bits.
    #[allow(clippy::unnecessary_cast, reason = "its type differs between architectures")]
    let kind = rustix::fs::fstatfs(file)?.f_type as u64 & 0xffff_ffff;
    Ok(IN_MEMORY.contains(&kind))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    impl StateDir {
        /// A folder that is opened by an agent in this process.
        pub(crate) fn open_here(path: &Path, notices: &Notices) -> Self {
            Self::open(path, Owner::of(std::process::id()), notices).unwrap()
        }

        /// A folder whose files count as being on a disk, whatever the file system is.
        pub(crate) fn on_disk(path: &Path) -> Self {
            let state = Self::open_here(path, &Notices::default());
            *state.condition() = Condition::Writable { in_memory: false };
            state
        }

        /// A folder that cannot be created.
        pub(crate) fn unwritable() -> Self {
            Self::open_here(Path::new("/dev/null/state"), &Notices::default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::until;
    use tokio_util::task::TaskTracker;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn is_empty(folder: &Path) -> bool {
        fs::read_dir(folder).unwrap().next().is_none()
    }

    #[test]
    fn a_file_is_replaced_whole_and_a_missing_one_is_none() {
        let root = tempfile::tempdir().unwrap();
        let notices = Notices::default();
        let state = StateDir::open_here(&root.path().join("a/b"), &notices);
        assert_eq!(state.read("x").unwrap(), None);
        state.replace("x", b"old").unwrap();
        state.replace("x", b"new").unwrap();
        assert_eq!(state.read("x").unwrap().as_deref(), Some(&b"new"[..]));
        assert!(notices.texts().is_empty());
    }

    #[test]
    fn only_its_owner_reads_a_folder_that_was_made_and_an_old_one_keeps_its_permissions() {
        let root = tempfile::tempdir().unwrap();
        let [made, old] = ["a/made", "old"].map(|name| root.path().join(name));
        StateDir::open_here(&made, &Notices::default());
        assert_eq!((mode(&made), mode(&made.join(SPOOL))), (MODE, MODE));
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o1777)).unwrap();
        StateDir::open_here(&old, &Notices::default());
        assert_eq!((mode(&old), mode(&old.join(SPOOL))), (0o1777, MODE));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_said_and_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let notices = Notices::default();
        let state = StateDir::open_here(&file.join("folder"), &notices);
        assert_eq!((state.folder(), state.has_disk()), (None, false));
        assert!(notices.texts()[0].contains("could not write to --state-dir"), "{:?}", notices.texts());
        state.replace("x", b"bytes").unwrap();
    }

    #[test]
    fn spooled_files_have_no_name_and_two_agents_do_not_disturb_each_other() {
        let root = tempfile::tempdir().unwrap();
        let spool = root.path().join(SPOOL);
        let one = StateDir::on_disk(root.path());
        let mut file = one.spool_file(5).unwrap();
        let other = StateDir::on_disk(root.path());
        let mut second = other.spool_file(5).unwrap();
        for file in [&mut file, &mut second] {
            file.write_all(b"bytes").unwrap();
        }
        assert!(is_empty(&spool));
        // Somebody has removed the folder meanwhile.
        fs::remove_dir(&spool).unwrap();
        one.spool_file(5).unwrap();
        assert!(one.has_disk() && is_empty(&spool));
    }

    #[test]
    fn what_a_killed_agent_left_is_removed_and_what_another_one_writes_is_not() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open_here(root.path(), &Notices::default());
        let names = ["spool/.tmpAbc", ".new-Abc", "verdicts"].map(|name| root.path().join(name));
        let left = || names.each_ref().map(|name| name.exists());
        for name in &names {
            fs::write(name, "x").unwrap();
        }
        state.remove_leftovers(STATE_DIR_LEFTOVER_AGE);
        assert_eq!(left(), [true, true, true], "they may be another agent's");
        let old = SystemTime::now() - STATE_DIR_LEFTOVER_AGE;
        for name in &names {
            File::options().write(true).open(name).unwrap().set_modified(old).unwrap();
        }
        StateDir::open_here(root.path(), &Notices::default());
        assert_eq!(left(), [false, false, true]);
    }

    #[tokio::test]
    async fn a_folder_is_tried_again_and_the_notice_goes_once_it_is_writable() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        fs::write(&folder, "a file is in the way").unwrap();
        let (notices, stop, tasks) = (Notices::default(), Stop::new(), TaskTracker::new());
        let state = StateDir::open_here(&folder, &notices);
        tasks.spawn(state.clone().watch_each(Duration::from_millis(10), stop.clone()));
        for _ in 0..2 {
            assert_eq!(notices.texts().len(), 1);
            fs::remove_file(&folder).unwrap();
            until("it is found writable", || state.folder().is_some() && notices.texts().is_empty()).await;
            // The folder is removed again: the next write notices that.
            fs::remove_dir_all(&folder).unwrap();
            fs::write(&folder, "a file is in the way").unwrap();
            assert!(state.spool_file(1).is_err() && state.folder().is_none());
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[test]
    fn the_folder_of_another_agent_is_refused_unless_it_cannot_be_written_to() {
        let root = tempfile::tempdir().unwrap();
        let of_parent = Owner::of(rustix::process::getppid().unwrap().as_raw_nonzero().get().unsigned_abs());
        let parent = StateDir::open(root.path(), of_parent, &Notices::default()).unwrap();
        let own = Owner::of(std::process::id());
        let refused = StateDir::open(root.path(), own, &Notices::default()).unwrap_err().to_string();
        assert!(refused.contains("in use by another agent (pid "), "{refused}");
        drop(parent);
        StateDir::open(root.path(), own, &Notices::default()).unwrap();
        StateDir::open(Path::new("/dev/null/state"), own, &Notices::default()).unwrap();
    }

    #[test]
    fn a_folder_in_memory_is_used_and_is_no_disk() {
        // Without such a file system there is nothing to test.
        let Ok(root) = tempfile::tempdir_in("/dev/shm") else { return };
        let notices = Notices::default();
        let state = StateDir::open_here(root.path(), &notices);
        assert!(state.folder().is_some() && notices.texts().is_empty());
        assert!(!state.has_disk(), "blobs there take memory");
    }

    #[test]
    fn a_disk_that_has_no_room_for_a_blob_counts_as_unwritable() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::on_disk(root.path());
        let too_much = state.spool_file(i64::MAX as u64);
        assert!(too_much.is_err() && state.folder().is_none(), "{too_much:?}");
    }
}
