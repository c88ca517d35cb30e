//! `state.redb`: its tables, how they are read at start and what a batch writes.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `applied` | [`Applied`] |
//! | `meta` | `membership` | the last applied membership |
//! | `meta` | `tombstones` | ids of removed servers |
//! | `hosts` | host id | [`HostRecord`] |
//! | `keys` | key id | [`Key`] |
//! | `inventories` | host id | sorted key ids, see [`super::inventory`] |
//!
//! Every value begins with its format version.

use std::collections::BTreeSet;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use redb::{TableDefinition, TableError, TableHandle, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::apply::Batch;
use super::host::HostRecord;
use super::state::{Counts, Parts, State};
use super::{IndexError, inventory};
use crate::command::Key;
use crate::format::{decode, encode};
use crate::types::{LogId, StoredMembership};

pub(crate) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(crate) const HOSTS: TableDefinition<u32, &[u8]> = TableDefinition::new("hosts");
pub(crate) const KEYS: TableDefinition<u32, &[u8]> = TableDefinition::new("keys");
pub(crate) const INVENTORIES: TableDefinition<u32, &[u8]> = TableDefinition::new("inventories");

const APPLIED: &str = "applied";
const MEMBERSHIP: &str = "membership";
const TOMBSTONES: &str = "tombstones";

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
    pub(crate) fn of(state: &State) -> Self {
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
    if let Some(bytes) = row(APPLIED)? {
        meta.applied = decode("applied state", bytes.value())?;
    }
    if let Some(bytes) = row(MEMBERSHIP)? {
        meta.membership = decode("membership", bytes.value())?;
    }
    if let Some(bytes) = row(TOMBSTONES)? {
        meta.tombstones = decode("tombstones", bytes.value())?;
    }
    Ok(meta)
}

/// Reads the whole state, checking it against what `meta` says of it.
pub(super) fn read_state(database: &Database) -> Result<State, IndexError> {
    let transaction = database.begin_read().map_err(IndexError::storage("begin a read"))?;
    if is_empty(&transaction)? {
        return Ok(State::default());
    }
    let Meta { applied, membership, tombstones } = read_meta(&transaction)?;
    let mut parts = Parts { applied: applied.log_id, membership, tombstones, ..Parts::default() };
    for row in rows(&transaction, KEYS)? {
        let (id, bytes) = row.map_err(IndexError::storage("read keys"))?;
        parts.keys.push((id.value(), decode::<Key>("key", bytes.value())?));
    }
    for row in rows(&transaction, HOSTS)? {
        let (id, bytes) = row.map_err(IndexError::storage("read hosts"))?;
        parts.hosts.push((id.value(), decode::<HostRecord>("host record", bytes.value())?));
    }
    let inventories = transaction.open_table(INVENTORIES).map_err(IndexError::storage("open inventories"))?;
    let state = State::build(parts, |id, ids| {
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

/// The applied inventory of `host` before this transaction.
pub(super) fn read_inventory(transaction: &WriteTransaction, host: u32) -> Result<Vec<u32>, IndexError> {
    let table = transaction.open_table(INVENTORIES).map_err(IndexError::storage("open inventories"))?;
    let bytes = table.get(host).map_err(IndexError::storage("read an inventory"))?;
    match bytes {
        Some(bytes) => Ok(inventory::decode(bytes.value())?),
        None => Err(IndexError::Damaged { reason: format!("host {host} has no inventory") }),
    }
}

/// Brings the rows that `batch` names to what `state` says.
pub(super) fn write_batch(
    transaction: &WriteTransaction,
    state: &State,
    batch: &Batch,
) -> Result<(), IndexError> {
    let opened = IndexError::storage("open a table");
    let mut meta = transaction.open_table(META).map_err(opened)?;
    put(&mut meta, APPLIED, Some(encode(&Applied::of(state))))?;
    if batch.membership {
        put(&mut meta, MEMBERSHIP, Some(encode(&state.membership)))?;
    }
    if batch.tombstones {
        put(&mut meta, TOMBSTONES, Some(encode(&state.tombstones)))?;
    }
    let mut hosts = transaction.open_table(HOSTS).map_err(IndexError::storage("open hosts"))?;
    for &id in &batch.hosts {
        put(&mut hosts, id, state.hosts.get(id).map(|slot| encode(&slot.record)))?;
    }
    let mut keys = transaction.open_table(KEYS).map_err(IndexError::storage("open keys"))?;
    for &id in &batch.keys {
        put(&mut keys, id, state.keys.get(id).map(encode))?;
    }
    let mut table = transaction.open_table(INVENTORIES).map_err(IndexError::storage("open inventories"))?;
    for &id in &batch.inventories_changed {
        let known = state.hosts.get(id).is_some();
        put(&mut table, id, known.then(|| inventory::encode(batch.inventory(id))))?;
    }
    Ok(())
}

/// Replaces all rows by `state`, whose inventories `inventory_of` gives as [`inventory::encode`]
/// writes them.
pub(super) fn write_whole(
    transaction: &WriteTransaction,
    state: &State,
    mut inventory_of: impl FnMut(u32) -> Vec<u8>,
) -> Result<(), IndexError> {
    for table in [HOSTS, KEYS, INVENTORIES] {
        transaction.delete_table(table).map_err(IndexError::storage("empty a table"))?;
    }
    let batch = Batch {
        hosts: state.hosts.iter().map(|(id, _)| id).collect(),
        keys: state.keys.iter().map(|(id, _)| id).collect(),
        tombstones: true,
        membership: true,
        ..Batch::default()
    };
    write_batch(transaction, state, &batch)?;
    let mut table = transaction.open_table(INVENTORIES).map_err(IndexError::storage("open inventories"))?;
    for &id in &batch.hosts {
        put(&mut table, id, Some(inventory_of(id)))?;
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
