//! The tables of `log.redb`, and what is read from them at start.

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};

use crate::format::{Level, STORAGE};
use crate::random::Random;
use crate::types::{Entry, LogId, Vote};

use super::segment::{self, Segment};
use super::{LogError, decode_entry};

/// Index of the first entry to consecutive entries, see [`super::segment`].
pub(super) const SEGMENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("segments");
/// [`TAIL_ENTRIES`] and [`TAIL_COMMITTED`]: what each append changes, together in one page.
pub(super) const TAIL: TableDefinition<&str, &[u8]> = TableDefinition::new("tail");
/// [`META_FORMAT`], [`META_ID`], [`META_VOTE`], [`META_PURGED`] to versioned bytes.
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// The last entries, until they fill a segment.
pub(super) const TAIL_ENTRIES: &str = "entries";
/// Committed as of the last append.
pub(super) const TAIL_COMMITTED: &str = "committed";

/// Format of the file: only the version in front of no value.
pub(super) const META_FORMAT: &str = "format";
/// Random, made with the file: which log it is.
const META_ID: &str = "id";
/// Key of the last vote.
pub(super) const META_VOTE: &str = "vote";
/// Entries up to here do not exist, even where some are still to be deleted.
pub(super) const META_PURGED: &str = "purged";

/// What the file of a log holds.
pub(super) struct Loaded {
    pub(super) id: u128,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// Id of the last entry; `purged` if there is none.
    pub(super) last: Option<LogId>,
}

/// Creates the tables of a new file; reads those of an old one.
pub(super) fn load(database: &Database, random: &dyn Random) -> Result<Loaded, LogError> {
    let id = create(database, random)?;
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let vote = read(&meta, META_VOTE, "raft vote")?;
    let committed = read(&transaction.open_table(TAIL)?, TAIL_COMMITTED, "raft committed id")?;
    let purged: Option<LogId> = read(&meta, META_PURGED, "raft purged id")?;
    let last = last_entry(&transaction)?.map(|entry| entry.log_id);
    Ok(Loaded { id, vote, committed, purged, last: last.max(purged) })
}

/// Creates what is missing of the tables, and gives the file's id. A newer format is refused before
/// anything is written. Logs from before there were ids get one.
fn create(database: &Database, random: &dyn Random) -> Result<u128, LogError> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    let id = {
        let mut meta = transaction.open_table(META)?;
        let format = meta.get(META_FORMAT)?.map(|bytes| STORAGE.decode::<()>("raft log", bytes.value()));
        format.transpose()?;
        if let Some(id) = read(&meta, META_ID, "id of the raft log")? {
            return Ok(id);
        }
        let id = random.bits();
        meta.insert(META_FORMAT, STORAGE.encode(Level::FIRST, &()).as_slice())?;
        meta.insert(META_ID, STORAGE.encode(Level::FIRST, &id).as_slice())?;
        transaction.open_table(SEGMENTS)?;
        transaction.open_table(TAIL)?;
        id
    };
    transaction.commit()?;
    Ok(id)
}

/// A new file of a log that was purged up to `applied`; its id.
pub(super) fn begin_after(
    database: &Database,
    random: &dyn Random,
    level: Level,
    vote: &Vote,
    applied: &LogId,
) -> Result<u128, LogError> {
    let id = create(database, random)?;
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_VOTE, STORAGE.encode(level, vote).as_slice())?;
        meta.insert(META_PURGED, STORAGE.encode(level, applied).as_slice())?;
        let mut tail = transaction.open_table(TAIL)?;
        tail.insert(TAIL_COMMITTED, STORAGE.encode(level, applied).as_slice())?;
    }
    transaction.commit()?;
    Ok(id)
}

fn read<T: serde::de::DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
    what: &'static str,
) -> Result<Option<T>, LogError> {
    match meta.get(key)? {
        Some(bytes) => Ok(Some(STORAGE.decode(what, bytes.value())?)),
        None => Ok(None),
    }
}

/// The entry that was appended last, if it is not deleted.
fn last_entry(transaction: &ReadTransaction) -> Result<Option<Entry>, LogError> {
    let of = |bytes: &[u8]| {
        let last = segment::entries(bytes)?.last().transpose()?;
        last.map(|(_, entry)| decode_entry(entry)).transpose()
    };
    if let Some(tail) = transaction.open_table(TAIL)?.get(TAIL_ENTRIES)? {
        return Ok(of(tail.value())?);
    }
    match transaction.open_table(SEGMENTS)?.last()? {
        Some((_, bytes)) => Ok(of(bytes.value())?),
        None => Ok(None),
    }
}

/// The entries of `tail` that fill no segment yet.
pub(super) fn read_tail(
    tail: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Segment, redb::Error> {
    match tail.get(TAIL_ENTRIES)? {
        Some(bytes) => Ok(segment_of(bytes.value())?),
        None => Ok(Segment::default()),
    }
}

/// A stored segment; damage becomes an error of the file.
pub(super) fn segment_of(bytes: &[u8]) -> Result<Segment, redb::Error> {
    Segment::read(bytes).map_err(|error| redb::Error::Corrupted(error.to_string()))
}
