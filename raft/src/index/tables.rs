//! `state.redb`: its tables, how they are read at start and what a flush writes.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `applied` | [`Applied`] |
//! | `meta` | `membership` | the last applied membership |
//! | `meta` | `tombstones` | ids of removed servers |
//! | `meta` | `level` | the active level, a `u16` little endian, without a version: every build reads it |
//! | `meta` | `next level` | [`Next`], if one is on its way |
//! | `hosts` | host id | [`HostRecord`] |
//! | `keys` | key id | [`Key`] |
//! | `inventories` | host id | sorted key ids, see [`super::inventory`] |
//!
//! Every other value begins with its storage version. Rows of an older version stay as they are until they are
//! written again.

use std::collections::BTreeSet;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use redb::{TableDefinition, TableError, TableHandle, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::host::HostRecord;
use super::state::{Counts, IndexState, Parts};
use super::unflushed::{Changes, Delta};
use super::{IndexError, inventory};
use crate::format::{Level, Levels, Reads, STORAGE, UnknownLevel};
use crate::model::Key;
use crate::types::{LogId, StoredMembership};

pub(crate) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(crate) const HOSTS: TableDefinition<u32, &[u8]> = TableDefinition::new("hosts");
pub(crate) const KEYS: TableDefinition<u32, &[u8]> = TableDefinition::new("keys");
pub(crate) const INVENTORIES: TableDefinition<u32, &[u8]> = TableDefinition::new("inventories");

const APPLIED: &str = "applied";
const MEMBERSHIP: &str = "membership";
const TOMBSTONES: &str = "tombstones";
const LEVEL: &str = "level";
const NEXT_LEVEL: &str = "next level";
#[cfg(any(test, feature = "next-format"))]
const NOTED: &str = "noted";

/// How far the state is, and sums over it that are compared at start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) log_id: Option<LogId>,
    pub(crate) checksum: u128,
    pub(crate) hosts: u64,
    pub(crate) keys: u64,
    pub(crate) pairs: u64,
}

impl Applied {
    pub(crate) fn of(state: &IndexState) -> Self {
        let Counts { hosts, keys, pairs, hosts_hidden: _, groups: _ } = state.counts();
        Self { log_id: state.applied, checksum: state.checksum, hosts, keys, pairs }
    }
}

/// The rows of `meta`.
#[derive(Default)]
pub(crate) struct Meta {
    pub(crate) applied: Applied,
    pub(crate) membership: StoredMembership,
    pub(crate) tombstones: BTreeSet<u64>,
    pub(crate) levels: Levels,
    #[cfg(any(test, feature = "next-format"))]
    pub(crate) noted: u64,
}

impl Meta {
    /// The state that the rows say, without keys and hosts.
    fn into_parts(self) -> Parts {
        Parts {
            applied: self.applied.log_id,
            membership: self.membership,
            tombstones: self.tombstones,
            levels: self.levels,
            #[cfg(any(test, feature = "next-format"))]
            noted: self.noted,
            keys: Vec::new(),
            hosts: Vec::new(),
        }
    }
}

/// True if the file has no tables yet.
pub(crate) fn is_empty(transaction: &ReadTransaction) -> Result<bool, IndexError> {
    let names = transaction.list_tables().map_err(IndexError::storage("list tables"))?;
    Ok(!names.into_iter().any(|table| table.name() == META.name()))
}

/// Reads the rows of `meta`; a missing row is what it is before the first entry.
pub(crate) fn read_meta(transaction: &ReadTransaction) -> Result<Meta, IndexError> {
    let table = match transaction.open_table(META) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Meta::default()),
        Err(error) => return Err(IndexError::storage("open table meta")(error)),
    };
    let row = |name: &str| table.get(name).map_err(IndexError::storage("read meta"));
    let mut meta = Meta::default();
    // First of all: a build that does not know the level is told so, not that some row is newer.
    if let Some(bytes) = row(LEVEL)? {
        meta.levels.active = read_level(bytes.value())?;
    }
    if let Some(bytes) = row(NEXT_LEVEL)? {
        meta.levels.next = STORAGE.decode("next level", bytes.value())?;
    }
    #[cfg(any(test, feature = "next-format"))]
    if let Some(bytes) = row(NOTED)? {
        meta.noted = STORAGE.decode("noted advertises", bytes.value())?;
    }
    if let Some(bytes) = row(APPLIED)? {
        meta.applied = STORAGE.decode("applied state", bytes.value())?;
    }
    if let Some(bytes) = row(MEMBERSHIP)? {
        meta.membership = STORAGE.decode("membership", bytes.value())?;
    }
    if let Some(bytes) = row(TOMBSTONES)? {
        meta.tombstones = STORAGE.decode("tombstones", bytes.value())?;
    }
    Ok(meta)
}

/// The level of a state that this build can go on with.
fn read_level(bytes: &[u8]) -> Result<Level, IndexError> {
    let Ok(level) = bytes.try_into().map(u16::from_le_bytes) else {
        return Err(IndexError::Damaged { reason: format!("a level of {} bytes", bytes.len()) });
    };
    check_level(Level(level))
}

/// Refuses a level that this build does not know.
pub(crate) fn check_level(active: Level) -> Result<Level, IndexError> {
    let reads = Reads::of_this_build().level;
    if reads.contains(active.0) { Ok(active) } else { Err(IndexError::Level(UnknownLevel { active, reads })) }
}

/// Reads the whole state, checking it against what `meta` says of it.
pub(super) fn read_state(database: &Database) -> Result<IndexState, IndexError> {
    let transaction = database.begin_read().map_err(IndexError::storage("begin a read"))?;
    if is_empty(&transaction)? {
        return Ok(IndexState::default());
    }
    let meta = read_meta(&transaction)?;
    let applied = meta.applied.clone();
    let mut parts = meta.into_parts();
    for row in rows(&transaction, KEYS)? {
        let (id, bytes) = row.map_err(IndexError::storage("read keys"))?;
        parts.keys.push((id.value(), STORAGE.decode::<Key>("key", bytes.value())?));
    }
    for row in rows(&transaction, HOSTS)? {
        let (id, bytes) = row.map_err(IndexError::storage("read hosts"))?;
        parts.hosts.push((id.value(), STORAGE.decode::<HostRecord>("host record", bytes.value())?));
    }
    let inventories = transaction.open_table(INVENTORIES).map_err(IndexError::storage("open inventories"))?;
    let state = IndexState::build(parts, |id, ids| {
        let bytes = inventories.get(id).map_err(IndexError::storage("read an inventory"))?;
        match bytes {
            Some(bytes) => Ok(inventory::decode_into(bytes.value(), ids)?),
            None => Err(IndexError::Damaged { reason: format!("host {id} has no inventory") }),
        }
    })?;
    let rows = inventories.len().map_err(IndexError::storage("count inventories"))?;
    if rows != applied.hosts {
        return Err(IndexError::Damaged { reason: format!("{rows} inventories of {} hosts", applied.hosts) });
    }
    let found = Applied::of(&state);
    if found != applied {
        return Err(IndexError::Damaged { reason: format!("counted {found:?}, stored {applied:?}") });
    }
    Ok(state)
}

/// All rows of a table of ids, ascending; the iterator keeps the transaction alive.
pub(crate) fn rows(
    transaction: &ReadTransaction,
    table: TableDefinition<u32, &'static [u8]>,
) -> Result<redb::Range<'static, u32, &'static [u8]>, IndexError> {
    let table = transaction.open_table(table).map_err(IndexError::storage("open a table"))?;
    table.range::<u32>(..).map_err(IndexError::storage("read a table"))
}

/// The stored inventory of `host`; empty without one.
pub(super) fn read_inventory(transaction: &ReadTransaction, host: u32) -> Result<Vec<u32>, IndexError> {
    let table = match transaction.open_table(INVENTORIES) {
        // Before the first flush.
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table.map_err(IndexError::storage("open inventories"))?,
    };
    stored_inventory(&table, host)
}

fn stored_inventory(
    table: &impl ReadableTable<u32, &'static [u8]>,
    host: u32,
) -> Result<Vec<u32>, IndexError> {
    let bytes = table.get(host).map_err(IndexError::storage("read an inventory"))?;
    bytes.map_or(Ok(Vec::new()), |bytes| Ok(inventory::decode(bytes.value())?))
}

/// A row by its id; without a value it is to be removed.
type Row<V> = (u32, Option<V>);

/// What a flush writes: the rows of the state at one log index.
pub(super) struct Rows {
    level: Level,
    meta: Vec<(&'static str, Vec<u8>)>,
    hosts: Vec<Row<Vec<u8>>>,
    keys: Vec<Row<Vec<u8>>>,
    inventories: Vec<Row<Delta>>,
}

impl Rows {
    /// The rows that `changes` names, as `state` has them.
    pub(super) fn of(state: &IndexState, changes: Changes) -> Self {
        let level = state.level();
        let host = |id: u32| (id, state.hosts.get(id).map(|slot| STORAGE.encode(level, &slot.record)));
        let key = |id: u32| (id, state.keys.get(id).map(|key| STORAGE.encode(level, key)));
        let inventory = |(id, delta)| (id, state.hosts.get(id).map(|_| delta));
        Self {
            level,
            meta: meta_rows(state, &changes),
            hosts: changes.hosts.into_iter().map(host).collect(),
            keys: changes.keys.into_iter().map(key).collect(),
            inventories: changes.inventories.into_iter().map(inventory).collect(),
        }
    }

    /// In the order of the tables, so that each page is written once.
    pub(super) fn write(self, transaction: &WriteTransaction) -> Result<(), IndexError> {
        let opened = IndexError::storage("open a table");
        let mut meta = transaction.open_table(META).map_err(opened)?;
        for (name, row) in self.meta {
            put(&mut meta, name, Some(row))?;
        }
        let mut hosts = transaction.open_table(HOSTS).map_err(opened)?;
        for (id, row) in self.hosts {
            put(&mut hosts, id, row)?;
        }
        let mut keys = transaction.open_table(KEYS).map_err(opened)?;
        for (id, row) in self.keys {
            put(&mut keys, id, row)?;
        }
        let mut inventories = transaction.open_table(INVENTORIES).map_err(opened)?;
        for (id, delta) in self.inventories {
            let row = match delta {
                Some(delta) => {
                    let ids = delta.on(stored_inventory(&inventories, id)?);
                    Some(inventory::encode(self.level, &ids))
                }
                None => None,
            };
            put(&mut inventories, id, row)?;
        }
        Ok(())
    }
}

fn meta_rows(state: &IndexState, changes: &Changes) -> Vec<(&'static str, Vec<u8>)> {
    let level = state.level();
    let mut rows = vec![(APPLIED, STORAGE.encode(level, &Applied::of(state)))];
    if changes.membership {
        rows.push((MEMBERSHIP, STORAGE.encode(level, &state.membership)));
    }
    if changes.tombstones {
        rows.push((TOMBSTONES, STORAGE.encode(level, &state.tombstones)));
    }
    if changes.levels {
        rows.push((LEVEL, level.0.to_le_bytes().to_vec()));
        rows.push((NEXT_LEVEL, STORAGE.encode(level, &state.levels.next)));
    }
    #[cfg(any(test, feature = "next-format"))]
    if changes.noted {
        rows.push((NOTED, STORAGE.encode(level, &state.noted)));
    }
    rows
}

/// Replaces all rows by `state`, whose inventories `inventory_of` gives as [`inventory::encode`]
/// writes them.
pub(super) fn write_whole(
    transaction: &WriteTransaction,
    state: &IndexState,
    mut inventory_of: impl FnMut(u32) -> Vec<u8>,
) -> Result<(), IndexError> {
    for table in [HOSTS, KEYS, INVENTORIES] {
        transaction.delete_table(table).map_err(IndexError::storage("empty a table"))?;
    }
    let meta = Changes {
        tombstones: true,
        membership: true,
        levels: true,
        #[cfg(any(test, feature = "next-format"))]
        noted: state.noted > 0,
        ..Changes::default()
    };
    Rows::of(state, meta).write(transaction)?;
    let level = state.level();
    let opened = IndexError::storage("open a table");
    let mut hosts = transaction.open_table(HOSTS).map_err(opened)?;
    for (id, slot) in state.hosts.iter() {
        put(&mut hosts, id, Some(STORAGE.encode(level, &slot.record)))?;
    }
    let mut keys = transaction.open_table(KEYS).map_err(opened)?;
    for (id, key) in state.keys.iter() {
        put(&mut keys, id, Some(STORAGE.encode(level, key)))?;
    }
    let mut inventories = transaction.open_table(INVENTORIES).map_err(opened)?;
    for (id, _) in state.hosts.iter() {
        put(&mut inventories, id, Some(inventory_of(id)))?;
    }
    Ok(())
}

fn put<'k, K: redb::Key + 'static>(
    table: &mut redb::Table<'_, K, &'static [u8]>,
    key: impl std::borrow::Borrow<K::SelfType<'k>>,
    value: Option<Vec<u8>>,
) -> Result<(), IndexError> {
    match value {
        Some(bytes) => table.insert(key, bytes.as_slice()).map(drop),
        None => table.remove(key).map(drop),
    }
    .map_err(IndexError::storage("write a row"))
}
