//! A disk whose power can be cut at any sync: what was synced stays, of what was written since, some
//! pieces arrived and others did not.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::{Builder, Database, DatabaseError, StorageBackend};

use crate::disk::Disk;

/// Pieces of at most so many bytes arrive or not, like a disk's sectors.
const SECTOR_BYTES: usize = 512;

/// Redb files in memory; small files are not simulated.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimDisk {
    files: Arc<Mutex<BTreeMap<String, SimFile>>>,
}

/// One file; clones share it.
#[derive(Clone, Debug, Default)]
struct SimFile(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    /// As the running process sees it.
    live: Vec<u8>,
    synced: Vec<u8>,
    /// Since the last sync: offset and bytes, or a new length.
    unsynced: Vec<(u64, Change)>,
    syncs: u64,
    writes: u64,
    /// The power goes off at this sync.
    cut_at_sync: Option<u64>,
    off: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Length,
    Bytes(Vec<u8>),
}

impl SimDisk {
    fn file(&self, name: &str) -> SimFile {
        self.files.lock().unwrap().entry(name.to_owned()).or_default().clone()
    }

    /// Syncs and writes of a file so far.
    pub(crate) fn activity(&self, name: &str) -> (u64, u64) {
        let file = self.file(name);
        let content = file.content();
        (content.syncs, content.writes)
    }

    /// Cuts the power at sync number `sync` (counted from 1) of the file: that sync fails, and
    /// everything after it.
    pub(crate) fn cut_power_at(&self, name: &str, sync: u64) {
        self.file(name).content().cut_at_sync = Some(sync);
    }

    /// The disk as it is found when the power is back; `seed` decides which unsynced pieces arrived.
    pub(crate) fn after_power_cut(&self, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let files = self.files.lock().unwrap();
        let survivors = files.iter().map(|(name, file)| {
            let survivor = file.content().survivor(&mut random);
            (name.clone(), SimFile(Arc::new(Mutex::new(survivor))))
        });
        Self { files: Arc::new(Mutex::new(survivors.collect())) }
    }
}

impl Disk for SimDisk {
    fn database(&self, name: &str, builder: Builder) -> Result<Database, DatabaseError> {
        builder.create_with_backend(self.file(name))
    }

    fn read(&self, _name: &str) -> io::Result<Option<Vec<u8>>> {
        Err(io::Error::other("small files are not simulated"))
    }

    fn write(&self, _name: &str, _bytes: &[u8]) -> io::Result<()> {
        Err(io::Error::other("small files are not simulated"))
    }
}

impl Content {
    fn apply(bytes: &mut Vec<u8>, offset: u64, change: &[u8]) {
        let (start, end) = (offset as usize, offset as usize + change.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(change);
    }

    fn survivor(&self, random: &mut StdRng) -> Self {
        let mut bytes = self.synced.clone();
        for (offset, change) in &self.unsynced {
            match change {
                Change::Length if random.random() => bytes.resize(*offset as usize, 0),
                Change::Length => {}
                Change::Bytes(written) => {
                    for (at, sector) in (*offset..).step_by(SECTOR_BYTES).zip(written.chunks(SECTOR_BYTES)) {
                        if random.random() {
                            Self::apply(&mut bytes, at, sector);
                        }
                    }
                }
            }
        }
        Self { live: bytes.clone(), synced: bytes, ..Self::default() }
    }

    fn powered(&mut self) -> io::Result<&mut Self> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(self) }
    }
}

impl SimFile {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }
}

impl StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content().powered()?.live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut content = self.content();
        let start = offset as usize;
        let bytes = content.powered()?.live.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut content = self.content();
        let content = content.powered()?;
        content.live.resize(length as usize, 0);
        content.unsynced.push((length, Change::Length));
        content.writes += 1;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.content();
        let content = content.powered()?;
        content.syncs += 1;
        if content.cut_at_sync == Some(content.syncs) {
            content.off = true;
            return Err(io::Error::other("the power is off"));
        }
        content.synced = content.live.clone();
        content.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.content();
        let content = content.powered()?;
        Content::apply(&mut content.live, offset, data);
        content.unsynced.push((offset, Change::Bytes(data.to_vec())));
        content.writes += 1;
        Ok(())
    }
}
