//! The tables of `log.redb`, and what is read from them at start.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::format;
use crate::types::{Entry, LogId};

use super::LogError;
use super::view::View;

/// Index to versioned bytes of the entry.
pub(super) const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
/// [`META_FORMAT`], [`META_VOTE`], [`META_COMMITTED`], [`META_PURGED`] to versioned bytes.
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Format of the file: only the version in front of no value.
pub(super) const META_FORMAT: &str = "format";
/// The last vote.
pub(super) const META_VOTE: &str = "vote";
/// Committed as of the last append.
pub(super) const META_COMMITTED: &str = "committed";
/// Entries up to here do not exist, even where some are still to be deleted.
pub(super) const META_PURGED: &str = "purged";

/// Creates the tables of a new file; reads those of an old one.
pub(super) fn load(database: &Database) -> Result<View, LogError> {
    if create(database)? {
        return Ok(View::default());
    }
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
    Ok(View { vote, committed, purged, last: last.max(purged), ..View::default() })
}

/// True if the file was new. A newer format is refused before anything is written.
fn create(database: &Database) -> Result<bool, LogError> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    {
        let mut meta = transaction.open_table(META)?;
        if let Some(bytes) = meta.get(META_FORMAT)? {
            format::decode::<()>("raft log", bytes.value())?;
            return Ok(false);
        }
        meta.insert(META_FORMAT, format::encode(&()).as_slice())?;
        transaction.open_table(ENTRIES)?;
    }
    transaction.commit()?;
    Ok(true)
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
