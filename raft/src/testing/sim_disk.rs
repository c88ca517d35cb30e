//! A disk whose power can be cut at any sync: what was synced stays, of what was written since, some
//! pieces arrived and others did not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::{Builder, Database, DatabaseError, StorageBackend, StorageError};

use crate::disk::Disk;

/// Pieces of at most so many bytes arrive or not, like a disk's sectors.
const SECTOR_BYTES: usize = 512;

/// A data folder in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimDisk(Arc<Mutex<Platter>>);

#[derive(Clone, Debug, Default)]
struct Platter {
    databases: BTreeMap<String, Content>,
    small: BTreeMap<String, Small>,
    /// Syncs of all files so far.
    syncs: u64,
    /// The power goes off at this sync of any file.
    cut_at_sync: Option<u64>,
    off: bool,
    /// Files whose syncs are acknowledged and not done.
    lying: BTreeSet<String>,
    /// Files whose syncs are acknowledged, and done when so many more have come.
    late: BTreeMap<String, usize>,
    /// Pieces that were lost in the power cut that this disk comes from.
    lost_sectors: usize,
}

/// A redb file.
#[derive(Clone, Debug, Default)]
struct Content {
    /// The content as the running process sees it.
    live: Vec<u8>,
    synced: Vec<u8>,
    /// Since the last sync: offset and bytes, or a new length.
    unsynced: Vec<(u64, Change)>,
    /// Of each sync that is still to be done, what it was to bring to the disk.
    owed: VecDeque<Vec<(u64, Change)>>,
    syncs: u64,
    writes: u64,
    written_bytes: u64,
    /// The power goes off at this sync of the file.
    cut_at_sync: Option<u64>,
    /// The power went when the new file got its name: it is there whole, or not at all.
    half_born: bool,
}

/// A small file, which is replaced as a whole.
#[derive(Clone, Debug, Default)]
struct Small {
    durable: Option<Vec<u8>>,
    /// Written when the power went: it arrived or not.
    torn: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Change {
    Length,
    Bytes(Vec<u8>),
}

/// Whether a sector arrives: not drawn one by one, because redb writes in the order of a hash map.
fn coin(salt: u64, at: u64, sector: &[u8]) -> bool {
    let sum =
        sector.iter().fold(salt ^ at, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    sum.count_ones() % 2 == 0
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

impl SimDisk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().expect("nothing panics while it holds the disk")
    }

    /// Syncs and writes of a redb file so far.
    pub(crate) fn activity(&self, name: &str) -> (u64, u64) {
        let platter = self.platter();
        platter.databases.get(name).map_or((0, 0), |content| (content.syncs, content.writes))
    }

    /// Bytes written to a redb file so far.
    pub(crate) fn written_bytes(&self, name: &str) -> u64 {
        self.platter().databases.get(name).map_or(0, |content| content.written_bytes)
    }

    /// Syncs of all files so far, the small ones included.
    pub(crate) fn syncs(&self) -> u64 {
        self.platter().syncs
    }

    /// Length of a redb file.
    pub(crate) fn bytes(&self, name: &str) -> u64 {
        self.platter().databases.get(name).map_or(0, |content| content.live.len() as u64)
    }

    /// Cuts the power at sync number `sync` (counted from 1) of the redb file: that sync fails, and
    /// everything after it.
    pub(crate) fn cut_power_at(&self, name: &str, sync: u64) {
        self.platter().databases.entry(name.to_owned()).or_default().cut_at_sync = Some(sync);
    }

    /// Cuts the power at the sync of any file that brings [`SimDisk::syncs`] to `sync`.
    pub(crate) fn cut_power_at_sync(&self, sync: u64) {
        self.platter().cut_at_sync = Some(sync);
    }

    /// Takes back every cut that was asked for.
    pub(crate) fn keep_power(&self) {
        let mut platter = self.platter();
        platter.cut_at_sync = None;
        platter.databases.values_mut().for_each(|content| content.cut_at_sync = None);
    }

    /// The disk as the next process finds it when this one is killed: whoever has it open now cannot
    /// use it any more.
    pub(crate) fn take_over(&self) -> Self {
        let mut platter = self.platter();
        let next = Platter { off: false, cut_at_sync: None, ..platter.clone() };
        platter.off = true;
        Self(Arc::new(Mutex::new(next)))
    }

    /// Whether the power was cut.
    pub(crate) fn is_off(&self) -> bool {
        self.platter().off
    }

    /// From now on syncs of the redb file are acknowledged and not done.
    pub(crate) fn lie_about(&self, name: &str) {
        self.platter().lying.insert(name.to_owned());
    }

    /// From now on syncs of the redb file are acknowledged at once, and done when `syncs` more have come. A
    /// power cut takes those that are not done as a whole: the file is sound, and some syncs old.
    pub(crate) fn delay_syncs_of(&self, name: &str, syncs: usize) {
        self.platter().late.insert(name.to_owned(), syncs);
    }

    /// How many pieces were lost in the power cut that this disk comes from.
    pub(crate) fn lost_sectors(&self) -> usize {
        self.platter().lost_sectors
    }

    /// The disk as it is found when the power is back; `seed` decides which unsynced pieces arrived.
    pub(crate) fn after_power_cut(&self, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let platter = self.platter();
        let mut lost_sectors = 0;
        let databases = platter.databases.iter().filter(|(_, content)| !content.is_absent());
        let databases = databases.filter_map(|(name, content)| {
            Some((name.clone(), content.survivor(&mut random, &mut lost_sectors)?))
        });
        let databases = databases.collect();
        let small = platter.small.iter().map(|(name, small)| (name.clone(), small.survivor(&mut random)));
        let small = small.collect();
        let (lying, late) = (platter.lying.clone(), platter.late.clone());
        let found = Platter { databases, small, lying, late, lost_sectors, ..Platter::default() };
        Self(Arc::new(Mutex::new(found)))
    }
}

impl Disk for SimDisk {
    /// A new file is laid out under another name and renamed, as in a folder: the rename is one sync.
    fn database(&self, name: &str, builder: Builder) -> Result<Database, DatabaseError> {
        let io = |error| DatabaseError::Storage(StorageError::Io(error));
        let absent = self.platter().databases.get(name).is_none_or(Content::is_absent);
        if absent {
            let temporary = format!("{name}.new");
            self.platter().databases.insert(temporary.clone(), Content::default());
            let empty = SimFile { disk: self.clone(), name: temporary.clone() };
            drop(builder.create_with_backend(empty)?);
            let mut platter = self.platter();
            platter.powered().map_err(io)?;
            let laid_out = platter.databases.remove(&temporary).expect("it was inserted above");
            let content = platter.databases.entry(name.to_owned()).or_default();
            content.live = laid_out.synced;
            content.unsynced.push((content.live.len() as u64, Change::Length));
            content.unsynced.push((0, Change::Bytes(content.live.clone())));
            platter.sync(name, true).map_err(io)?;
        }
        builder.create_with_backend(SimFile { disk: self.clone(), name: name.to_owned() })
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut platter = self.platter();
        platter.powered()?;
        Ok(platter.small.get(name).and_then(|small| small.durable.clone()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut platter = self.platter();
        platter.powered()?;
        let cut = platter.is_cut_by_the_next_sync();
        let small = platter.small.entry(name.to_owned()).or_default();
        if cut {
            small.torn = Some(bytes.to_vec());
            return Err(off());
        }
        small.durable = Some(bytes.to_vec());
        Ok(())
    }
}

impl Platter {
    fn powered(&mut self) -> io::Result<&mut Self> {
        if self.off { Err(off()) } else { Ok(self) }
    }

    fn is_cut_by_the_next_sync(&mut self) -> bool {
        self.syncs += 1;
        self.off |= self.cut_at_sync == Some(self.syncs);
        self.off
    }

    /// `birth`: a cut at this sync leaves all of what was written, or no file.
    fn sync(&mut self, name: &str, birth: bool) -> io::Result<()> {
        let cut = self.is_cut_by_the_next_sync();
        let lies = self.lying.contains(name);
        let late = self.late.get(name).copied();
        let content = self.databases.get_mut(name).expect("an open file is there");
        content.syncs += 1;
        if cut || content.cut_at_sync == Some(content.syncs) {
            self.off = true;
            content.half_born = birth;
            return Err(off());
        }
        match late {
            Some(syncs) => content.owe(syncs),
            None if lies => {}
            None => content.settle(),
        }
        Ok(())
    }
}

impl Content {
    /// Whether the file was never completely created.
    fn is_absent(&self) -> bool {
        self.live.is_empty() || (self.synced.is_empty() && self.unsynced.is_empty())
    }

    /// Brings what was written to the disk.
    fn settle(&mut self) {
        let written = std::mem::take(&mut self.unsynced);
        self.settle_these(written);
    }

    fn settle_these(&mut self, written: Vec<(u64, Change)>) {
        for (offset, change) in written {
            match change {
                Change::Length => self.synced.resize(offset as usize, 0),
                Change::Bytes(bytes) => Self::apply(&mut self.synced, offset, &bytes),
            }
        }
    }

    /// What was written is on the disk when `syncs` more have come.
    fn owe(&mut self, syncs: usize) {
        self.owed.push_back(std::mem::take(&mut self.unsynced));
        while self.owed.len() > syncs {
            let written = self.owed.pop_front().expect("there are some");
            self.settle_these(written);
        }
    }

    fn apply(bytes: &mut Vec<u8>, offset: u64, change: &[u8]) {
        let (start, end) = (offset as usize, offset as usize + change.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(change);
    }

    /// `None`: there is no such file. Counts the pieces that did not arrive.
    fn survivor(&self, random: &mut StdRng, lost: &mut usize) -> Option<Self> {
        if !self.owed.is_empty() {
            *lost += self.owed.len();
            return Some(Self::holding(self.synced.clone()));
        }
        if self.half_born {
            let bytes = self.live.clone();
            return random.random::<bool>().then(|| Self::holding(bytes));
        }
        // All, nothing, or some: each of these has its own way to go wrong.
        let (arrives, salt) = (random.random_range(0..4u32), random.random::<u64>());
        let mut bytes = self.synced.clone();
        for (offset, change) in &self.unsynced {
            match change {
                Change::Length if arrives > 0 => bytes.resize(*offset as usize, 0),
                Change::Length => {}
                Change::Bytes(written) => {
                    for (at, sector) in (*offset..).step_by(SECTOR_BYTES).zip(written.chunks(SECTOR_BYTES)) {
                        if arrives == 1 || (arrives > 1 && coin(salt, at, sector)) {
                            Self::apply(&mut bytes, at, sector);
                        } else {
                            *lost += 1;
                        }
                    }
                }
            }
        }
        Some(Self::holding(bytes))
    }

    fn holding(bytes: Vec<u8>) -> Self {
        Self { live: bytes.clone(), synced: bytes, ..Self::default() }
    }
}

impl Small {
    fn survivor(&self, random: &mut StdRng) -> Self {
        let torn = self.torn.clone().filter(|_| random.random());
        Self { durable: torn.or_else(|| self.durable.clone()), torn: None }
    }
}

/// An open redb file.
#[derive(Clone, Debug)]
struct SimFile {
    disk: SimDisk,
    name: String,
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        let mut platter = self.disk.platter();
        let content = platter.powered()?.databases.get_mut(&self.name);
        Ok(work(content.expect("an open file is there")))
    }
}

impl StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|content| content.live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|content| {
            let start = offset as usize;
            let bytes = content.live.get(start..start + out.len());
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })?
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|content| {
            content.live.resize(length as usize, 0);
            content.unsynced.push((length, Change::Length));
            content.writes += 1;
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.platter().powered()?.sync(&self.name, false)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|content| {
            Content::apply(&mut content.live, offset, data);
            content.unsynced.push((offset, Change::Bytes(data.to_vec())));
            content.writes += 1;
            content.written_bytes += data.len() as u64;
        })
    }
}
