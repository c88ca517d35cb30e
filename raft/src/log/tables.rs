//! The tables of `log.redb`, and what is read from them at start.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::dice;
use crate::format;
use crate::types::{Entry, LogId, Vote};

use super::LogError;
use super::view::View;

/// Index to versioned bytes of the entry.
pub(super) const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
/// [`META_FORMAT`], [`META_ID`], [`META_VOTE`], [`META_COMMITTED`], [`META_PURGED`] to versioned bytes.
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Format of the file: only the version in front of no value.
pub(super) const META_FORMAT: &str = "format";
/// Random, made with the file: which log it is.
const META_ID: &str = "id";
/// The last vote.
pub(super) const META_VOTE: &str = "vote";
/// Committed as of the last append.
pub(super) const META_COMMITTED: &str = "committed";
/// Entries up to here do not exist, even where some are still to be deleted.
pub(super) const META_PURGED: &str = "purged";

/// What a file says.
pub(super) struct Loaded {
    pub id: u128,
    pub view: View,
}

/// Creates the tables of a new file; reads those of an old one.
pub(super) fn load(database: &Database) -> Result<Loaded, LogError> {
    let id = create(database)?;
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let entries = transaction.open_table(ENTRIES)?;
    let vote = read(&meta, META_VOTE, "raft vote")?;
    let committed = read(&meta, META_COMMITTED, "raft committed id")?;
    let purged: Option<LogId> = read(&meta, META_PURGED, "raft purged id")?;
    let last = match entries.last()? {
        Some((_, bytes)) => Some(format::decode::<Entry>("raft log entry", bytes.value())?.log_id),
        None => None,
    };
    let view = View { vote, committed, purged, last: last.max(purged), ..View::default() };
    Ok(Loaded { id, view })
}

/// Creates what is missing of the tables, and gives the file's id. A newer format is refused before
/// anything is written. Logs from before there were ids get one.
fn create(database: &Database) -> Result<u128, LogError> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    let id = {
        let mut meta = transaction.open_table(META)?;
        let format = meta.get(META_FORMAT)?.map(|bytes| format::decode::<()>("raft log", bytes.value()));
        format.transpose()?;
        if let Some(id) = read(&meta, META_ID, "id of the raft log")? {
            return Ok(id);
        }
        let id = dice::bits();
        meta.insert(META_FORMAT, format::encode(&()).as_slice())?;
        meta.insert(META_ID, format::encode(&id).as_slice())?;
        transaction.open_table(ENTRIES)?;
        id
    };
    transaction.commit()?;
    Ok(id)
}

/// A new file of a log that was purged up to `applied`; its id.
pub(super) fn begin_after(database: &Database, vote: &Vote, applied: &LogId) -> Result<u128, LogError> {
    let id = create(database)?;
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_VOTE, format::encode(vote).as_slice())?;
        meta.insert(META_COMMITTED, format::encode(applied).as_slice())?;
        meta.insert(META_PURGED, format::encode(applied).as_slice())?;
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
        Some(bytes) => Ok(Some(format::decode(what, bytes.value())?)),
        None => Ok(None),
    }
}

/// Stored entries, purged ones that are still to be deleted included.
#[cfg(test)]
pub(super) fn count(database: &Database) -> u64 {
    use redb::ReadableTableMetadata;
    database.begin_read().unwrap().open_table(ENTRIES).unwrap().len().unwrap()
}

#[cfg(test)]
pub(super) fn set_format(database: &Database, bytes: &[u8]) {
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert(META_FORMAT, bytes).unwrap();
    transaction.commit().unwrap();
}
