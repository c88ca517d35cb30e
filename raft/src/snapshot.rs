//! The state as a stream.
//!
//! Two bytes of storage version, then records: a `u32` little endian length and that many bytes of
//! postcard. One `Record::Header`, the keys, each host followed by its inventory, and a
//! `Record::End` with the SHA-256 of everything before it. Ids are those of the sender, so the
//! receiver's next allocations are the same.
//!
//! The sender reads records from a redb transaction while it sends: writes go on, nothing is held in
//! memory and there is no file. The receiver builds the state from the records as they arrive and
//! checks all of it (format, lengths, SHA-256, ids, fingerprints, counts, state checksum) before
//! openraft hears of it, because an error inside `install_snapshot` is fatal there.
//!
//! `file`: the same stream in a file of `piccolo snapshot save`.

pub mod file;
mod receiver;

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{Stream, stream};
use redb::ReadTransaction;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use receiver::{Receiver, verify};

use crate::format::{FormatError, Levels, STORAGE};
use crate::index::tables::{self, Applied, HOSTS, INVENTORIES, KEYS, Meta};
use crate::index::{Counts, HostRecord, Index, IndexError, WholeState, inventory};
use crate::limits::{CHUNK_BYTES, RECORD_IDS_MAX, RECORD_KEYS_MAX};
use crate::model::Key;
use crate::types::{SnapshotMeta, StoredMembership};

/// Why a snapshot is refused, or cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The snapshot has a newer format, or bytes that are no record.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Cut, changed or put together wrongly.
    #[error("could not accept the snapshot: {reason}")]
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
    /// The state that it is read from, or built into, does not hold.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Only a view of one's own state can be sent.
    #[error("could not send a snapshot that was received to be installed")]
    NotAView,
}

impl SnapshotError {
    fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged { reason: reason.into() }
    }
}

/// A piece of a snapshot; the order of the variants is the format.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Record {
    Header(Box<Header>),
    Keys(Vec<(u32, Key)>),
    Host {
        id: u32,
        record: Box<HostRecord>,
    },
    /// Ids of the host before, behind those of the record before.
    Inventory(Vec<u8>),
    End {
        sha256: [u8; 32],
    },
    /// Behind the header, from the next build's storage version on.
    #[cfg(any(test, feature = "next-format"))]
    Noted(u64),
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    applied: Applied,
    membership: StoredMembership,
    tombstones: BTreeSet<u64>,
    levels: Levels,
}

/// What openraft hands around as a snapshot: a view to be sent, or what was received and verified.
pub struct SnapshotData(Source);

enum Source {
    View(Box<Chunks>),
    Received(Box<WholeState>),
}

/// A rough size for operators: how many bytes a snapshot with these counts has.
pub fn about_bytes(counts: Counts) -> u64 {
    const HOST_BYTES: u64 = 110;
    const KEY_BYTES: u64 = 38;
    const PAIR_BYTES: u64 = 2;
    counts.hosts * HOST_BYTES + counts.keys * KEY_BYTES + counts.pairs * PAIR_BYTES
}

impl SnapshotData {
    /// A view of the state of `index` as of now, which is flushed first.
    pub async fn of(index: &Index) -> Result<(SnapshotMeta, Self), IndexError> {
        Self::view(&index.flushed_view().await?)
    }

    /// A view of the state as of the last flush of `index`.
    pub(crate) fn of_last_flush(index: &Index) -> Result<(SnapshotMeta, Self), IndexError> {
        Self::view(&index.durable_view()?)
    }

    /// A view of the state that `transaction` sees.
    fn view(transaction: &ReadTransaction) -> Result<(SnapshotMeta, Self), IndexError> {
        let meta = tables::read_meta(transaction)?;
        #[cfg(any(test, feature = "next-format"))]
        let noted = meta.noted;
        let Meta { applied, membership, tombstones, levels, .. } = meta;
        let meta = SnapshotMeta { last_log_id: applied.log_id, last_membership: membership.clone() };
        let header = Header { applied, membership, tombstones, levels };
        let rows = Rows::open(transaction)?;
        let chunks = Chunks {
            next: Stage::Header(Box::new(header)),
            rows,
            hash: Sha256::new(),
            #[cfg(any(test, feature = "next-format"))]
            noted,
        };
        Ok((meta, Self(Source::View(Box::new(chunks)))))
    }

    /// The bytes to send. Reading goes on while they are taken and holds a redb read transaction
    /// until then: drop it when the transfer is given up.
    pub fn into_chunks(self) -> Result<Chunks, SnapshotError> {
        match self.0 {
            Source::View(chunks) => Ok(*chunks),
            Source::Received(_) => Err(SnapshotError::NotAView),
        }
    }

    /// [`SnapshotData::into_chunks`] as the stream that a response body wants. It ends after the
    /// first error.
    pub fn into_stream(
        self,
    ) -> Result<impl Stream<Item = Result<Bytes, SnapshotError>> + Send + Unpin + 'static, SnapshotError>
    {
        Ok(stream::iter(self.into_chunks()?))
    }

    /// What [`crate::index::Index::install`] takes; a view is read and verified like a received one.
    pub fn into_whole(self, meta: &SnapshotMeta) -> Result<WholeState, SnapshotError> {
        let received = match self.0 {
            Source::Received(received) => *received,
            Source::View(chunks) => {
                let mut receiver = Receiver::default();
                for chunk in *chunks {
                    receiver.push(&chunk?)?;
                }
                match receiver.finish()?.1.0 {
                    Source::Received(received) => *received,
                    Source::View(_) => return Err(SnapshotError::damaged("a receiver made a view")),
                }
            }
        };
        if received.state.applied_state() != (meta.last_log_id, meta.last_membership.clone()) {
            return Err(SnapshotError::damaged("its header and openraft's metadata differ"));
        }
        Ok(received)
    }
}

/// The tables of a view. Each iterator keeps the read transaction alive.
struct Rows {
    /// `None`: a file without tables, before the first entry.
    tables: Option<Tables>,
}

type Range = redb::Range<'static, u32, &'static [u8]>;

struct Tables {
    keys: Range,
    hosts: Range,
    inventories: redb::ReadOnlyTable<u32, &'static [u8]>,
}

impl Rows {
    fn open(transaction: &ReadTransaction) -> Result<Self, IndexError> {
        if tables::is_empty(transaction)? {
            return Ok(Self { tables: None });
        }
        let inventories = transaction.open_table(INVENTORIES);
        let inventories = inventories.map_err(IndexError::storage("open inventories"))?;
        let keys = tables::rows(transaction, KEYS)?;
        Ok(Self { tables: Some(Tables { keys, hosts: tables::rows(transaction, HOSTS)?, inventories }) })
    }

    /// The next keys; empty at the end.
    fn keys(&mut self) -> Result<Vec<(u32, Key)>, IndexError> {
        let rows = self.tables.as_mut().map(|tables| &mut tables.keys);
        let mut keys = Vec::new();
        for row in rows.into_iter().flatten().take(RECORD_KEYS_MAX) {
            let (id, bytes) = row.map_err(IndexError::storage("read keys"))?;
            keys.push((id.value(), STORAGE.decode("key", bytes.value())?));
        }
        Ok(keys)
    }

    /// The next host with its sorted key ids.
    fn host(&mut self) -> Result<Option<(u32, HostRecord, Vec<u32>)>, IndexError> {
        let Some(tables) = &mut self.tables else { return Ok(None) };
        let Some(row) = tables.hosts.next() else { return Ok(None) };
        let (id, bytes) = row.map_err(IndexError::storage("read hosts"))?;
        let id = id.value();
        let record = STORAGE.decode("host record", bytes.value())?;
        let inventory = tables.inventories.get(id).map_err(IndexError::storage("read an inventory"))?;
        let inventory =
            inventory.ok_or_else(|| IndexError::Damaged { reason: format!("host {id} has no inventory") })?;
        Ok(Some((id, record, inventory::decode(inventory.value())?)))
    }
}

enum Stage {
    Header(Box<Header>),
    Keys,
    Hosts,
    Done,
}

/// Iterator over the bytes of a snapshot.
pub struct Chunks {
    next: Stage,
    rows: Rows,
    hash: Sha256,
    #[cfg(any(test, feature = "next-format"))]
    noted: u64,
}

impl Chunks {
    /// Appends the next records to `chunk`.
    fn advance(&mut self, chunk: &mut Vec<u8>) -> Result<(), IndexError> {
        match std::mem::replace(&mut self.next, Stage::Done) {
            Stage::Header(header) => {
                self.write(chunk, |bytes| bytes.extend(STORAGE.at(header.levels.active).to_le_bytes()));
                self.record(chunk, &Record::Header(header));
                #[cfg(any(test, feature = "next-format"))]
                if self.noted > 0 {
                    self.record(chunk, &Record::Noted(self.noted));
                }
                self.next = Stage::Keys;
            }
            Stage::Keys => match self.rows.keys()? {
                keys if keys.is_empty() => self.next = Stage::Hosts,
                keys => {
                    self.record(chunk, &Record::Keys(keys));
                    self.next = Stage::Keys;
                }
            },
            Stage::Hosts => match self.rows.host()? {
                Some((id, record, ids)) => {
                    self.record(chunk, &Record::Host { id, record: Box::new(record) });
                    for ids in ids.chunks(RECORD_IDS_MAX) {
                        let mut bytes = Vec::with_capacity(ids.len() * 2);
                        inventory::encode_ids(ids, &mut bytes);
                        self.record(chunk, &Record::Inventory(bytes));
                    }
                    self.next = Stage::Hosts;
                }
                None => {
                    let sha256 = self.hash.clone().finalize().into();
                    self.record(chunk, &Record::End { sha256 });
                }
            },
            Stage::Done => {}
        }
        Ok(())
    }

    fn record(&mut self, chunk: &mut Vec<u8>, record: &Record) {
        let body = postcard::to_stdvec(record).expect("postcard writes any of our types into a Vec");
        let length = u32::try_from(body.len()).expect("records are far below 4 GiB");
        self.write(chunk, |bytes| {
            bytes.extend(length.to_le_bytes());
            bytes.extend(body);
        });
    }

    fn write(&mut self, chunk: &mut Vec<u8>, append: impl FnOnce(&mut Vec<u8>)) {
        let start = chunk.len();
        append(chunk);
        self.hash.update(&chunk[start..]);
    }
}

impl Iterator for Chunks {
    type Item = Result<Bytes, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        while chunk.len() < CHUNK_BYTES && !matches!(self.next, Stage::Done) {
            if let Err(error) = IndexError::guarded_in_use(|| self.advance(&mut chunk)) {
                self.next = Stage::Done;
                return Some(Err(error.into()));
            }
        }
        (!chunk.is_empty()).then(|| Ok(chunk.into()))
    }
}

#[cfg(test)]
#[path = "snapshot/snapshot_tests.rs"]
mod tests;
