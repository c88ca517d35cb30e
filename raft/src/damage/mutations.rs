//! Damaged files by the thousand: each is refused in words, or says exactly what the undamaged one says.

use std::io;
use std::sync::{Arc, Mutex};

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::{Builder, Database, DatabaseError, StorageBackend};

use crate::command::Command;
use crate::disk::{Disk, FolderDisk};
use crate::format::FormatError;
use crate::index::{HostRecord, Index, IndexError, STATE_FILE};
use crate::log::{LOG_FILE, LogError, LogStore};
use crate::testing::{entry, log_id, random_command};
use crate::types::{Entry, LogId, StoredMembership, Vote};

const PAGE_BYTES: usize = 4096;
/// redb's own header.
const HEADER_BYTES: usize = 320;
const ENTRIES: u64 = 300;

/// A disk that has one redb file, in memory; who keeps a clone can change it.
#[derive(Clone, Debug)]
struct OneFile(Arc<Mutex<Vec<u8>>>);

impl OneFile {
    fn of(bytes: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(bytes.to_vec())))
    }
}

impl Disk for OneFile {
    /// Without a cache: all is read that is needed.
    fn database(&self, _name: &str, mut builder: Builder) -> Result<Database, DatabaseError> {
        builder.set_cache_size(0);
        builder.create_with_backend(Bytes(self.0.clone()))
    }

    fn read(&self, _name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn write(&self, _name: &str, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Behaves like a file, but does not grow without end.
#[derive(Debug)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl StorageBackend for Bytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let found = usize::try_from(offset).ok().and_then(|start| bytes.get(start..)?.get(..out.len()));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        assert!(length < FILE_BYTES_MAX, "a damaged file fills the disk: {length} bytes");
        self.0.lock().unwrap().resize(length as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        let mut bytes = self.0.lock().unwrap();
        if end > bytes.len() as u64 {
            drop(bytes);
            self.set_len(end)?;
            bytes = self.0.lock().unwrap();
        }
        bytes[offset as usize..end as usize].copy_from_slice(data);
        Ok(())
    }
}

/// Everything that a log says.
#[derive(Debug, PartialEq)]
struct LogSays {
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    entries: Vec<Entry>,
}

/// Everything that a state says.
#[derive(Debug, PartialEq)]
struct StateSays {
    checksum: (u64, u128),
    membership: StoredMembership,
    hosts: Vec<HostRecord>,
    inventories: Vec<Option<std::collections::BTreeSet<crate::model::Key>>>,
}

/// A refusal, in the words of the error.
#[derive(Debug)]
struct Refused;

/// What the operator is told.
fn refused(message: &str, file: &str) -> Refused {
    let says_what_to_do = message.contains("piccolo members replace") && message.contains("snapshot restore");
    assert!(message.starts_with(&format!("{file} is damaged (")) && says_what_to_do, "{message}");
    assert!(!message.contains('\n'), "{message}");
    Refused
}

fn read_log(bytes: &[u8]) -> Result<LogSays, Refused> {
    let mut log = match LogStore::open(&OneFile::of(bytes)) {
        Ok(log) => log,
        Err(LogError::Format(FormatError::Newer { .. })) => return Err(Refused),
        Err(error @ LogError::Damaged { .. }) => return Err(refused(&error.to_string(), LOG_FILE)),
        Err(error) => panic!("no words for the operator: {error:?}"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    Ok(LogSays {
        vote: log.vote(),
        purged: log.purged(),
        committed: runtime.block_on(log.read_committed()).unwrap(),
        entries: runtime.block_on(log.try_get_log_entries(0..)).unwrap(),
    })
}

fn read_state(bytes: &[u8]) -> Result<StateSays, Refused> {
    let index = match Index::open(&OneFile::of(bytes)) {
        Ok(index) => index,
        Err(IndexError::Format(FormatError::Newer { .. })) => return Err(Refused),
        Err(error @ IndexError::DamagedFile { .. }) => return Err(refused(&error.to_string(), STATE_FILE)),
        Err(error) => panic!("no words for the operator: {error:?}"),
    };
    let hosts = index.hosts(None);
    let inventories = hosts.iter().map(|host| index.inventory(&host.holder).unwrap()).collect();
    Ok(StateSays { checksum: index.checksum(), membership: index.applied_state().1, hosts, inventories })
}

/// A log and a state, closed in order, and the same as a kill would leave them.
struct Originals {
    log: Vec<u8>,
    log_killed: Vec<u8>,
    state: Vec<u8>,
    state_killed: Vec<u8>,
}

async fn originals(seed: u64) -> Originals {
    let folder = tempfile::tempdir().unwrap();
    let disk = FolderDisk::open(folder.path()).unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let mut log = LogStore::open(&disk).unwrap();
    let index = Index::open(&disk).unwrap();
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    for number in 1..=ENTRIES {
        let entry = entry(number, random_command(&mut random, number));
        log.blocking_append([entry.clone()]).await.unwrap();
        index.apply(&[entry]).await.unwrap();
    }
    log.save_committed(Some(log_id(ENTRIES - 1))).await.unwrap();
    log.blocking_append([entry(ENTRIES + 1, Command::Tombstone { node_id: 77 })]).await.unwrap();
    index.flush_durable().await.unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let (log_killed, state_killed) = (read(LOG_FILE), read(STATE_FILE));
    log.purge(log_id(20)).await.unwrap();
    log.close().await;
    index.close().await.unwrap();
    Originals { log: read(LOG_FILE), log_killed, state: read(STATE_FILE), state_killed }
}

/// Changes something; says what.
fn damage(random: &mut StdRng, bytes: &mut Vec<u8>) -> String {
    let length = bytes.len();
    let at = match random.random_range(0..3) {
        0 => random.random_range(0..HEADER_BYTES.min(length)),
        _ => random.random_range(0..length),
    };
    let page = at / PAGE_BYTES * PAGE_BYTES;
    let page = page..(page + PAGE_BYTES).min(length);
    match random.random_range(0..8) {
        0 => {
            // The disk itself refuses an empty file, see `FolderDisk`.
            bytes.truncate(at.max(1));
            format!("cut at {}", bytes.len())
        }
        1 => {
            bytes[page.clone()].fill(0);
            format!("zeroed {page:?}")
        }
        2 => {
            random.fill(&mut bytes[page.clone()]);
            format!("noise in {page:?}")
        }
        3 => {
            bytes.extend(vec![0; random.random_range(1..3 * PAGE_BYTES)]);
            format!("longer by {}", bytes.len() - length)
        }
        4 => {
            let from = random.random_range(0..length / PAGE_BYTES) * PAGE_BYTES;
            bytes.copy_within(
                from..(from + page.len()).min(length).max(from),
                page.start.min(length - PAGE_BYTES),
            );
            format!("page at {from} over {page:?}")
        }
        _ => {
            let bits = random.random_range(1..4);
            for _ in 0..bits {
                let at = (at + random.random_range(0..64)).min(length - 1);
                bytes[at] ^= 1 << random.random_range(0..8);
            }
            format!("{bits} bits around {at}")
        }
    }
}

/// Opens `rounds` damaged files of each kind.
fn open_damaged(seed: u64, rounds: usize) {
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Originals { log, log_killed, state, state_killed } = runtime.block_on(originals(seed));
    println!("log {} bytes, state {}", log.len(), state.len());
    let (log_says, killed_says) = (read_log(&log).unwrap(), read_log(&log_killed).unwrap());
    let (state_says, state_killed_says) = (read_state(&state).unwrap(), read_state(&state_killed).unwrap());
    let mut random = StdRng::seed_from_u64(seed);
    let mut refused = [0; 4];
    for round in 0..rounds {
        let mut change = |original: &[u8]| {
            let mut bytes = original.to_vec();
            let what = damage(&mut random, &mut bytes);
            (bytes, format!("seed {seed} round {round}: {what}"))
        };
        let (bytes, what) = change(&log);
        match read_log(&bytes) {
            Ok(says) => assert!(says == log_says, "log, {what}: silently wrong"),
            Err(Refused) => refused[0] += 1,
        }
        let (bytes, what) = change(&log_killed);
        match read_log(&bytes) {
            // A commit that is not whole is what a crash in the middle of it leaves: then the one before
            // counts, and nobody was answered by the last.
            Ok(says) => {
                let count = says.entries.len();
                let one_less = killed_says.entries.len() - 1;
                assert!(count == one_less || count == one_less + 1, "killed log, {what}: {count} entries");
                assert!(
                    says.entries[..] == killed_says.entries[..count],
                    "killed log, {what}: silently wrong"
                );
                assert_eq!(says.vote, killed_says.vote, "killed log, {what}");
            }
            Err(Refused) => refused[1] += 1,
        }
        let (bytes, what) = change(&state);
        match read_state(&bytes) {
            Ok(says) => assert!(says == state_says, "state, {what}: silently wrong"),
            Err(Refused) => refused[2] += 1,
        }
        let (bytes, what) = change(&state_killed);
        match read_state(&bytes) {
            Ok(says) => assert!(says == state_killed_says, "killed state, {what}: silently wrong"),
            Err(Refused) => refused[3] += 1,
        }
    }
    println!("refused {refused:?} of {rounds} each");
    assert!(refused.iter().all(|refused| *refused > rounds / 10), "the damage is not found");
}

#[test]
fn damaged_files_are_refused_in_words_or_read_right() {
    open_damaged(rand::random(), 150);
}

#[tokio::test]
async fn damage_that_comes_while_the_files_are_in_use_is_told_in_words() {
    let Originals { log: log_bytes, state: state_bytes, .. } = originals(7).await;
    let (log_file, state_file) = (OneFile::of(&log_bytes), OneFile::of(&state_bytes));
    let mut log = LogStore::open(&log_file).unwrap();
    let index = Index::open(&state_file).unwrap();
    for file in [&log_file, &state_file] {
        StdRng::seed_from_u64(8).fill(&mut file.0.lock().unwrap()[PAGE_BYTES..]);
    }
    let told = |name: &str, message: String| {
        assert!(
            message.contains(&format!("{name} is damaged (")) && message.contains("members replace"),
            "{message}"
        );
    };
    let appended = log.blocking_append([entry(ENTRIES + 2, Command::Tombstone { node_id: 78 })]).await;
    let read = log.try_get_log_entries(0..).await;
    let appended = appended.map_err(|error| error.to_string());
    told(LOG_FILE, read.map(drop).map_err(|error| error.to_string()).and(appended).unwrap_err());
    let mut random = StdRng::seed_from_u64(9);
    let mut failed = None;
    for number in ENTRIES + 2..ENTRIES + 100 {
        failed = index.apply(&[entry(number, random_command(&mut random, number))]).await.err();
        failed = failed.or(index.flush_durable().await.err());
        if failed.is_some() {
            break;
        }
    }
    told(STATE_FILE, failed.expect("noise is no inventory").to_string());
    let again = index.apply(&[entry(ENTRIES + 101, Command::Tombstone { node_id: 79 })]).await;
    assert!(matches!(again, Err(IndexError::Broken)), "only a restart helps: {again:?}");
}

#[test]
fn soak_damaged_files_are_refused_in_words_or_read_right() {
    for _ in 0..20 {
        open_damaged(rand::random(), 500);
    }
}
