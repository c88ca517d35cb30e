//! Data on disk: values, and whole files of them. redb's checksums detect a bad disk; here the files have
//! content that no piccolo writes.
//!
//! Files are given as rows: a byte for the table, the key (a little-endian `u64`), the value's length (a
//! little-endian `u16`), the value.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::storage::{RaftLogReader, RaftLogStorage};
use piccolo_raft::cluster::{Env, Node, NodeConfig};
use piccolo_raft::command::{Command, Reply};
use piccolo_raft::disk::{Disk, MemoryDisk};
use piccolo_raft::format::{ENTRY, Format, Level, STORAGE};
use piccolo_raft::index::{HostRecord, Index};
use piccolo_raft::log::LogStore;
use piccolo_raft::model::Key;
use piccolo_raft::snapshot::SnapshotData;
use piccolo_raft::types::{ClusterId, Entry, LogId, SnapshotMeta, StoredMembership, Vote};
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, DatabaseError, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A parser of values.
type Read = fn(&[u8]);

/// Parsers, by the first byte of an input.
pub(crate) const VALUES: [(&str, Read); 10] = [
    ("command", |bytes| again::<Command>(ENTRY, bytes)),
    ("reply", |bytes| again::<Reply>(STORAGE, bytes)),
    ("key", |bytes| again::<Key>(STORAGE, bytes)),
    ("host_record", |bytes| again::<HostRecord>(STORAGE, bytes)),
    ("log_entry", |bytes| again::<Entry>(ENTRY, bytes)),
    ("vote", |bytes| again::<Vote>(STORAGE, bytes)),
    ("log_id", |bytes| again::<Option<LogId>>(STORAGE, bytes)),
    ("membership", |bytes| again::<StoredMembership>(STORAGE, bytes)),
    ("snapshot_meta", |bytes| again::<SnapshotMeta>(STORAGE, bytes)),
    ("identity", |bytes| again::<(u64, Option<ClusterId>)>(STORAGE, bytes)),
];

pub(super) fn run_values(input: &[u8]) {
    let [kind, value @ ..] = input else { return };
    VALUES[usize::from(*kind) % VALUES.len()].1(value);
}

/// Checks that a value that was read is equal after it is written and read again, and not longer.
fn again<T: DeserializeOwned + Serialize>(format: Format, bytes: &[u8]) {
    let Ok(value) = format.decode::<T>("a value", bytes) else { return };
    let written = format.encode(Level::FIRST, &value);
    assert!(written.len() <= bytes.len(), "the shortest form is ours");
    let read: T = format.decode("a value", &written).expect("what is written is read");
    assert_eq!(format.encode(Level::FIRST, &read), written);
}

const IDS: [TableDefinition<u32, &[u8]>; 3] =
    [TableDefinition::new("hosts"), TableDefinition::new("keys"), TableDefinition::new("inventories")];
pub(crate) const SEGMENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("segments");
const TAIL: TableDefinition<&str, &[u8]> = TableDefinition::new("tail");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Tables of a state, by the first byte of a row: those of ids, then these rows of `meta`.
const STATE_META: [&str; 5] = ["applied", "membership", "tombstones", "level", "next level"];
/// Rows of a log, by the first byte of a row, unless that is 0, which is a segment.
pub(crate) const LOG_ROWS: [(TableDefinition<&str, &[u8]>, &str); 6] = [
    (META, "format"),
    (META, "vote"),
    (TAIL, "committed"),
    (META, "purged"),
    (META, "id"),
    (TAIL, "entries"),
];

/// True if the index would allocate memory for all ids below this one, as on a server that once had millions
/// of keys: tens of bytes each, up to 2^28 of them.
pub(super) fn takes_room(id: u32) -> bool {
    (1 << 17..1 << 28).contains(&id)
}

/// A row of an input.
pub(crate) struct Row<'a> {
    pub(crate) table: u8,
    pub(crate) key: u64,
    pub(crate) value: &'a [u8],
}

/// All complete rows of an input.
pub(crate) fn rows_of(mut input: &[u8]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    while let Some((head, rest)) = input.split_first_chunk::<11>() {
        let [table, key @ .., low, high] = *head;
        let Some((value, rest)) = rest.split_at_checked(u16::from_le_bytes([low, high]).into()) else {
            break;
        };
        rows.push(Row { table, key: u64::from_le_bytes(key), value });
        input = rest;
    }
    rows
}

/// A disk with one existing redb file, and small files.
#[derive(Debug, Default)]
struct WrittenDisk {
    database: Mutex<Option<Database>>,
    files: BTreeMap<String, Vec<u8>>,
    rest: MemoryDisk,
}

impl Disk for WrittenDisk {
    fn database(&self, name: &str, builder: Builder) -> Result<Database, DatabaseError> {
        let written = self.database.lock().expect("nothing panics with it in hand").take();
        written.map_or_else(|| self.rest.database(name, builder), Ok)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.files.get(name).cloned().map_or_else(|| self.rest.read(name), |bytes| Ok(Some(bytes)))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.rest.write(name, bytes)
    }
}

fn disk(write: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) -> WrittenDisk {
    let database = Builder::new().create_with_backend(InMemoryBackend::new());
    let database = database.expect("memory takes a file");
    let transaction = database.begin_write().expect("nobody else writes");
    write(&transaction).expect("memory takes rows");
    transaction.commit().expect("memory takes a commit");
    WrittenDisk { database: Mutex::new(Some(database)), ..WrittenDisk::default() }
}

/// A damaged state is refused; any other one can be sent.
pub(super) fn run_state(input: &[u8]) {
    let disk = disk(|transaction| {
        let mut meta = transaction.open_table(META)?;
        for table in IDS {
            transaction.open_table(table)?;
        }
        for row in rows_of(input) {
            match usize::from(row.table) % (IDS.len() + STATE_META.len()) {
                table if table < IDS.len() && !takes_room(row.key as u32) => {
                    transaction.open_table(IDS[table])?.insert(row.key as u32, row.value)?;
                }
                table if table < IDS.len() => {}
                row_of_meta => _ = meta.insert(STATE_META[row_of_meta - IDS.len()], row.value)?,
            }
        }
        Ok(())
    });
    let Ok(index) = Index::open(&disk) else { return };
    runtime(|runtime| {
        runtime.block_on(async {
            let (_, view) = SnapshotData::of(&index).await.expect("what was read can be sent");
            for chunk in view.into_chunks().expect("a view") {
                chunk.expect("what was read can be read again");
            }
            index.close().await.expect("memory closes");
        });
    });
}

/// A damaged log is refused, or returns an error for the entry.
pub(super) fn run_log(input: &[u8]) {
    let disk = disk(|transaction| {
        transaction.open_table(META)?.insert("format", STORAGE.encode(Level::FIRST, &()).as_slice())?;
        transaction.open_table(TAIL)?;
        let mut segments = transaction.open_table(SEGMENTS)?;
        for row in rows_of(input) {
            match usize::from(row.table) % (1 + LOG_ROWS.len()) {
                0 => _ = segments.insert(row.key, row.value)?,
                other => {
                    let (table, name) = LOG_ROWS[other - 1];
                    transaction.open_table(table)?.insert(name, row.value)?;
                }
            }
        }
        Ok(())
    });
    let Ok(mut log) = LogStore::open(&disk) else { return };
    runtime(|runtime| {
        runtime.block_on(async {
            log.get_log_state().await.expect("it was read");
            log.read_vote().await.expect("it was read");
            log.try_get_log_entries(0..u64::MAX).await.ok();
            log.close().await;
        });
    });
}

/// A node with small files of any content starts with the identity in them, or does not start.
pub(super) fn run_node(input: &[u8]) {
    const FILES: [&str; 4] = ["node", "adopted", "removed", "log.id"];
    let files = rows_of(input)
        .into_iter()
        .map(|row| (FILES[usize::from(row.table) % FILES.len()].to_owned(), row.value.to_vec()));
    let disk = WrittenDisk { files: files.collect(), ..WrittenDisk::default() };
    let config = NodeConfig {
        members: vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()],
        raft_address: Some("127.0.0.1:1".to_owned()),
        api_address: "127.0.0.1:1".to_owned(),
        disk_free_min: Some(0),
        found_after: Duration::ZERO,
        api_port: None,
    };
    runtime(|runtime| {
        runtime.block_on(async {
            let env = Env::system(Arc::new(disk), runtime.handle().clone());
            let started = Node::start(config, env, CancellationToken::new());
            let started = tokio::time::timeout(Duration::from_secs(10), started).await;
            if let Ok(node) = started.expect("it starts, or not, in time") {
                node.shutdown().await;
            }
        });
    });
}

fn runtime(work: impl FnOnce(&Runtime)) {
    static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);
    let mut runtime = RUNTIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    work(runtime.get_or_insert_with(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }));
}
