//! Every byte that must survive a power cut goes through [`Disk`], so that a crash test can cut the
//! power at each sync point. redb files come as its storage backends, the few small files (node
//! identity, list hash) as whole values.
//!
//! It also says how much room is left, keeps the ballast (a file that only takes up room, to be given
//! back when there is none), and remembers the first error of the disk itself.
//!
//! - `ballast`: that file.
//! - `fault`: which errors are the disk's, and what to do.
//! - `watched`: a redb file that notices them.

mod ballast;
mod fault;
mod user;
mod watched;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, DatabaseError};

pub use fault::Fault;
pub use user::FileUser;

use fault::Faults;
use watched::Watched;

/// Name of the ballast in the data folder.
pub const BALLAST_FILE: &str = "ballast";

/// Room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What can still be written, bytes.
    pub free_bytes: u64,
    /// What the disk can hold, bytes.
    pub total_bytes: u64,
}

/// A number of bytes, for people: `1.5 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] =
            [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match UNITS.into_iter().find(|(_, unit)| self.0 >= *unit) {
            Some((name, unit)) => write!(f, "{:.1} {name}", self.0 as f64 / unit as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// A data folder.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens or creates the redb file `name` with the settings of `builder`. redb locks it: a second
    /// opener is refused.
    fn database(&self, name: &str, builder: Builder) -> Result<Database, DatabaseError>;
    /// The small file `name`, `None` if there is none.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Replaces the small file `name`: after it returns, a power cut shows the new bytes; before,
    /// the old or the new ones, never a mix.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// The process that has the file `name` open, as far as this one can see.
    fn user(&self, _name: &str) -> Option<FileUser> {
        None
    }
    /// What people know it by: its folder, if it has one.
    fn place(&self) -> String {
        "memory".to_owned()
    }
    /// How much room there is. `None`: it has no bounds.
    fn space(&self) -> io::Result<Option<Space>> {
        Ok(None)
    }
    /// Bytes of the ballast, 0 without one.
    fn ballast(&self) -> io::Result<u64> {
        Ok(0)
    }
    /// Makes a ballast of `bytes` bytes, or gives it back with 0. Only a disk with bounds has one.
    fn set_ballast(&self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
    /// The first error of the disk itself since it was opened. There is no going on after it: redb does
    /// not know what of its last commit is on disk.
    fn fault(&self) -> Option<Fault> {
        None
    }
}

/// A folder of the file system.
#[derive(Debug)]
pub struct FolderDisk {
    folder: PathBuf,
    faults: Faults,
}

impl FolderDisk {
    /// Creates the folder where it is missing.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), faults: Faults::default() })
    }

    fn replace(&self, path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Disk for FolderDisk {
    /// A new file is made under another name and renamed when redb has laid it out: a power cut in
    /// between would leave a file that redb cannot open.
    fn database(&self, name: &str, builder: Builder) -> Result<Database, DatabaseError> {
        let path = self.folder.join(name);
        let io = |error: io::Error| {
            self.faults.note("open", &path, &error);
            DatabaseError::Storage(redb::StorageError::Io(error))
        };
        let watch = |file| Watched::new(file, path.clone(), self.faults.clone());
        if !path.try_exists().map_err(io)? {
            let temporary = self.folder.join(format!("{name}.new"));
            let empty =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary);
            drop(builder.create_with_backend(watch(empty.map_err(io)?)?)?);
            fs::rename(&temporary, &path).map_err(io)?;
            File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io)?;
        // redb would take it for a new one. Ours have their content before they have their name.
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(DatabaseError::Storage(redb::StorageError::Corrupted("it is empty".to_owned())));
        }
        builder.create_with_backend(watch(file)?)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.folder.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.faults.noted("read", &path, error)),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (path, temporary) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        self.replace(&path, &temporary, bytes).map_err(|error| self.faults.noted("write", &path, error))
    }

    fn user(&self, name: &str) -> Option<FileUser> {
        user::of(&self.folder.join(name))
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }

    fn space(&self) -> io::Result<Option<Space>> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        // Of the free blocks, those that are not kept for root.
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        Ok(Some(Space { free_bytes: bytes(disk.f_bavail), total_bytes: bytes(disk.f_blocks) }))
    }

    fn ballast(&self) -> io::Result<u64> {
        ballast::size(&self.folder.join(BALLAST_FILE))
    }

    fn set_ballast(&self, bytes: u64) -> io::Result<()> {
        ballast::set(&self.folder.join(BALLAST_FILE), bytes)
    }

    fn fault(&self) -> Option<Fault> {
        self.faults.first()
    }
}

/// A disk in memory, for tests: what is written stays as long as a clone lives. Its redb files are
/// fresh at each [`Disk::database`], and its room is what it was told.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    room: Arc<Mutex<Room>>,
}

#[derive(Debug, Default)]
struct Room {
    space: Option<Space>,
    ballast: u64,
}

impl MemoryDisk {
    /// Gives the disk bounds, and this room from now on; the ballast takes of it.
    pub fn set_space(&self, space: Space) {
        self.room.lock().expect("no panic while locked").space = Some(space);
    }
}

impl Disk for MemoryDisk {
    fn database(&self, _name: &str, builder: Builder) -> Result<Database, DatabaseError> {
        builder.create_with_backend(InMemoryBackend::new())
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.files.lock().expect("no panic while locked").get(name).cloned())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.files.lock().expect("no panic while locked").insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn space(&self) -> io::Result<Option<Space>> {
        let room = self.room.lock().expect("no panic while locked");
        let free = |space: Space| space.free_bytes.saturating_sub(room.ballast);
        Ok(room.space.map(|space| Space { free_bytes: free(space), ..space }))
    }

    fn ballast(&self) -> io::Result<u64> {
        Ok(self.room.lock().expect("no panic while locked").ballast)
    }

    fn set_ballast(&self, bytes: u64) -> io::Result<()> {
        self.room.lock().expect("no panic while locked").ballast = bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FolderDisk::open(folder.path()).unwrap();
        assert_eq!(disk.read("node").unwrap(), None);
        disk.write("node", b"one").unwrap();
        disk.write("node", b"two").unwrap();
        assert_eq!(disk.read("node").unwrap().unwrap(), b"two");
    }

    #[test]
    fn an_empty_file_is_not_taken_for_a_new_database() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FolderDisk::open(folder.path()).unwrap();
        drop(disk.database("state.redb", Builder::new()).unwrap());
        fs::write(folder.path().join("state.redb"), b"").unwrap();
        assert!(disk.database("state.redb", Builder::new()).unwrap_err().to_string().contains("it is empty"));
    }

    #[test]
    fn a_database_has_one_opener() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FolderDisk::open(folder.path()).unwrap();
        let open = || disk.database("state.redb", Builder::new());
        let _held = open().unwrap();
        assert!(open().is_err());
    }

    #[test]
    fn the_room_of_a_folder_is_that_of_its_disk() {
        let folder = tempfile::tempdir().unwrap();
        let space = FolderDisk::open(folder.path()).unwrap().space().unwrap().unwrap();
        assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0, "{space:?}");
    }

    #[test]
    fn bytes_read_well() {
        let texts = [0, 1023, 1024, 1536, (1 << 30) - 1, 1 << 30, 5 << 40].map(|n| Bytes(n).to_string());
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1024.0 MiB", "1.0 GiB", "5.0 TiB"]);
    }
}
