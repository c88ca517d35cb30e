//! Every byte that must survive a power cut goes through [`Disk`], so that a crash test can cut the
//! power at each sync point. redb files come as its storage backends, the few small files (node
//! identity, list hash) as whole values.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, Database, DatabaseError};

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
}

/// A folder of the file system.
#[derive(Debug)]
pub struct FolderDisk {
    folder: PathBuf,
}

impl FolderDisk {
    /// Creates the folder where it is missing.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }
}

impl Disk for FolderDisk {
    /// A new file is made under another name and renamed when redb has laid it out: a power cut in
    /// between would leave a file that redb cannot open.
    fn database(&self, name: &str, builder: Builder) -> Result<Database, DatabaseError> {
        let path = self.folder.join(name);
        let io = |error: io::Error| DatabaseError::Storage(redb::StorageError::Io(error));
        if !path.try_exists().map_err(io)? {
            let temporary = self.folder.join(format!("{name}.new"));
            let empty =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary);
            drop(builder.create_with_backend(FileBackend::new(empty.map_err(io)?)?)?);
            fs::rename(&temporary, &path).map_err(io)?;
            File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io)?;
        // redb would take it for a new one. Ours have their content before they have their name.
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(DatabaseError::Storage(redb::StorageError::Corrupted("it is empty".to_owned())));
        }
        builder.create_with_backend(FileBackend::new(file)?)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.folder.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.folder.join(format!("{name}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.folder.join(name))?;
        File::open(&self.folder)?.sync_all()
    }
}

/// A disk in memory, for tests: what is written stays as long as a clone lives. Its redb files are
/// fresh at each [`Disk::database`].
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
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
}
