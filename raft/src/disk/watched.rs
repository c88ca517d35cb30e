//! A redb file whose disk's errors are remembered: what redb and openraft make of them names no file.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

use super::fault::Faults;

#[derive(Debug)]
pub(super) struct Watched {
    file: FileBackend,
    path: PathBuf,
    faults: Faults,
}

impl Watched {
    pub(super) fn new(file: File, path: PathBuf, faults: Faults) -> Result<Self, DatabaseError> {
        Ok(Self { file: FileBackend::new(file)?, path, faults })
    }

    fn noted<T>(&self, action: &'static str, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| self.faults.noted(action, &self.path, error))
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.noted("read", self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.noted("read", self.file.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.noted("grow", self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.noted("sync", self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.noted("write", self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
