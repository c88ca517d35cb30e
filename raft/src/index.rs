//! The replicated index: which holder has which key.
//!
//! On disk (`state.redb`): what each host holds. In memory: who holds each key, derived from it. One
//! writer (openraft's state machine task) applies entries in memory; readers take the in-memory lock
//! for a moment and never touch the disk, except [`Index::inventory`].
//!
//! Applying writes nothing: the log has the entries. [`Index::run_flusher`] brings what has changed to the disk
//! from time to time, [`Index::flush_durable`] at once (`unflushed`): in one durable commit, so that the file always
//! holds the state of one log index, from which a restart goes on. A flush reads the state under `turn`, an
//! async lock that whoever applies holds; while it writes, on the blocking pool, applying goes on.

mod apply;
mod changes;
mod groups;
mod hash;
mod host;
pub(crate) mod inventory;
mod keys;
mod lists;
mod order;
mod postings;
mod shrink;
mod slots;
pub(crate) mod state;
pub(crate) mod tables;
mod unflushed;
mod whole;
mod writer;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{Database, ReadTransaction, ReadableDatabase};

pub(crate) use apply::holder_of;
pub use changes::HostChanges;
pub use host::{HostRecord, address_key};
pub use postings::Postings;
pub use state::Counts;
pub use whole::{Summary, WholeState};

use crate::command::Command;
use crate::damage::{self, WHAT_TO_DO};
use crate::disk::Disk;
use crate::format::{Active, FormatError, Levels, UnknownLevel};
use crate::limits::{HOSTS_UNDER_LOCK_MAX, INVENTORY_READS_MAX, KEYS_UNDER_LOCK_MAX, STATE_CACHE_BYTES};
use crate::model::{Fingerprint, Holder, Key, key_fingerprint};
use crate::threads::{SystemThreads, Threads};
use crate::types::{LogId, StoredMembership};
use crate::watch;
use state::IndexState;
use unflushed::Delta;

/// File of the state in a data folder.
pub const STATE_FILE: &str = "state.redb";

/// Free space on the disk, as far as a flush is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// More than a flush ever takes.
    Plenty,
    /// Not far from too little.
    Little,
    /// A flush would end the node.
    None,
}

/// Why the index cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file cannot be opened or closed, or another process has it.
    #[error("could not open or close {STATE_FILE}")]
    Open {
        /// Error of redb.
        #[source]
        source: Box<redb::DatabaseError>,
    },
    /// redb failed; the state on disk is that of its last commit.
    #[error("could not {action} in {STATE_FILE}")]
    Storage {
        /// The call that failed, as a verb with its object.
        action: &'static str,
        /// Error of redb.
        #[source]
        source: Box<redb::Error>,
    },
    /// The state is of a level that this build does not know, or is about to be.
    #[error(transparent)]
    Level(#[from] UnknownLevel),
    /// A stored value is of a newer format or unreadable.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The file is no longer what was written.
    #[error("{STATE_FILE} is damaged ({reason}): {WHAT_TO_DO}")]
    DamagedFile {
        /// What is wrong with it.
        reason: String,
    },
    /// The rows do not fit together.
    #[error("could not load the index, it is damaged: {reason}")]
    Damaged {
        /// The contradiction that was found.
        reason: String,
    },
    /// Reading or writing the file failed before; only a restart leads back to a state that is whole.
    #[error("could not go on, an earlier use of {STATE_FILE} failed")]
    Broken,
    /// The index was used after [`Index::close`].
    #[error("could not use {STATE_FILE}, it is closed")]
    Closed,
    /// The task that waited for the disk was aborted.
    #[error("could not commit to {STATE_FILE}, the process is stopping")]
    Stopping,
}

impl IndexError {
    /// Runs what opens the file; damage that it meets is told as such.
    fn guarded<T>(work: impl FnOnce() -> Result<T, Self>) -> Result<T, Self> {
        match damage::guarded(work) {
            Ok(done) => done.map_err(Self::of_file),
            Err(reason) => Err(IndexError::DamagedFile { reason }),
        }
    }

    /// Runs what works with the opened file; damage that it meets becomes one error.
    pub(crate) fn guarded_in_use<T>(work: impl FnOnce() -> Result<T, Self>) -> Result<T, Self> {
        match damage::guarded_in_use(work) {
            Ok(done) => done.map_err(Self::of_file),
            Err(reason) => Err(IndexError::DamagedFile { reason }),
        }
    }

    /// While the file is read: whatever says that it is damaged becomes one error.
    fn of_file(self) -> Self {
        let damage = match &self {
            IndexError::Open { source } => damage::of_open(source),
            IndexError::Storage { source, .. } => damage::of_call(source),
            IndexError::Format(damaged @ FormatError::Damaged { .. }) => Some(damaged.to_string()),
            IndexError::Damaged { reason } => Some(reason.clone()),
            _ => None,
        };
        damage.map_or(self, |reason| IndexError::DamagedFile { reason })
    }

    /// For `map_err` on a redb call.
    pub(crate) fn storage<E: Into<redb::Error>>(action: &'static str) -> impl Fn(E) -> Self + Copy {
        move |error| Self::Storage { action, source: Box::new(error.into()) }
    }
}

/// The index of one server. Clones share it.
#[derive(Clone)]
pub struct Index {
    inner: Arc<Inner>,
}

struct Inner {
    /// The open file; `None` after [`Index::close`].
    database: RwLock<Option<Arc<Database>>>,
    state: RwLock<IndexState>,
    /// Held by whoever changes the state.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Held by whoever writes to the file; taken before `turn`.
    flushing: Arc<tokio::sync::Mutex<()>>,
    /// Applying or a flush has failed.
    broken: AtomicBool,
    applied: watch::Sender<u64>,
    durable: Mutex<Option<LogId>>,
    /// That of `state`, for all who write.
    level: Active,
    /// A level that was to be applied and is not known here.
    refused: OnceLock<UnknownLevel>,
    /// Threads on which flushes are done.
    threads: Arc<dyn Threads>,
}

impl Index {
    /// Opens `state.redb` and builds the in-memory side from it. A damaged file is refused. Blocks;
    /// seconds for millions of pairs.
    pub fn open(disk: &dyn Disk) -> Result<Self, IndexError> {
        Self::open_on(disk, Arc::new(SystemThreads))
    }

    /// [`Index::open`] with flushes on `threads`.
    pub(crate) fn open_on(disk: &dyn Disk, threads: Arc<dyn Threads>) -> Result<Self, IndexError> {
        let (database, state) = IndexError::guarded(|| {
            let open = || {
                let database = damage::open(disk, STATE_FILE, STATE_CACHE_BYTES);
                database.map_err(|source| IndexError::Open { source: Box::new(source) })
            };
            let mut database = open()?;
            let state = tables::read_state(&database)?;
            if let Err(error) = shrink::shrink_if_it_pays(&mut database) {
                tracing::warn!(%error, "could not compact the state file, which goes on as it is");
                drop(database);
                database = open()?;
            }
            Ok((database, state))
        })?;
        let level = Active::at(state.level());
        let inner = Inner {
            level,
            refused: OnceLock::new(),
            threads,
            turn: Arc::default(),
            flushing: Arc::default(),
            broken: AtomicBool::new(false),
            applied: watch::Sender::new(state.applied_index()),
            durable: Mutex::new(state.applied),
            state: RwLock::new(state),
            database: RwLock::new(Some(Arc::new(database))),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The level that is applied, and stays that of this index.
    pub fn level(&self) -> Active {
        self.inner.level.clone()
    }

    /// What the servers have agreed to write, and what they are to write next.
    pub fn levels(&self) -> Levels {
        self.state().levels
    }

    /// The level that the cluster has begun and this build does not know: it was refused before anything of
    /// it was applied, and nothing is applied any more.
    pub fn refused_level(&self) -> Option<UnknownLevel> {
        self.inner.refused.get().copied()
    }

    /// Advertises that were applied by the command of the next build.
    #[cfg(any(test, feature = "next-format"))]
    pub fn noted(&self) -> u64 {
        self.state().noted
    }

    /// Calls `read` with the visible holders of `key` in `group`; `None` if there are none. Keep it
    /// short, and do not call the index from it: it runs under the lock that `apply` waits for.
    pub fn find<R>(&self, group: &str, key: &Key, read: impl FnOnce(&Postings<'_>) -> R) -> Option<R> {
        self.state().postings(group, key).map(|postings| read(&postings))
    }

    /// The record of `holder`, hidden or not.
    pub fn host(&self, holder: &Holder) -> Option<HostRecord> {
        self.state().host(holder).cloned()
    }

    /// How many keys `command` moves: those that it names, or all of the host that it shows, hides or moves.
    pub(crate) fn keys_moved_by(&self, command: &Command) -> usize {
        match (command.write(), apply::holder_of(command)) {
            (Some(write), _) => write.keys.len(),
            (None, Some(holder)) => self.state().host(holder).map_or(0, |record| record.count as usize),
            (None, None) => 0,
        }
    }

    /// Up to `most` hosts of `group`, or of all groups, behind `after` in the order of group and address;
    /// hidden ones included. All of them at one moment: ask for no more than may be copied while writers and
    /// other readers wait.
    pub fn hosts_after(&self, group: Option<&str>, after: Option<&Holder>, most: usize) -> Vec<HostRecord> {
        self.state().hosts_after(group, after, most)
    }

    /// All hosts of `group`, or of all groups, sorted by group and address, hidden ones included. Some at a
    /// time: one that comes, goes or changes meanwhile is shown as it was or as it is, and once at most.
    pub fn hosts(&self, group: Option<&str>) -> Vec<HostRecord> {
        let mut hosts: Vec<HostRecord> = Vec::new();
        loop {
            let last = hosts.last().map(|host| &host.holder);
            let some = self.hosts_after(group, last, HOSTS_UNDER_LOCK_MAX);
            if some.is_empty() {
                return hosts;
            }
            hosts.extend(some);
        }
    }

    /// The inventory of `holder`, `None` for an unknown one. Reads the disk. Who has seen the reply to a
    /// command sees its effect here.
    pub fn inventory(&self, holder: &Holder) -> Result<Option<BTreeSet<Key>>, IndexError> {
        IndexError::guarded_in_use(|| self.read_inventory(holder))
    }

    fn read_inventory(&self, holder: &Holder) -> Result<Option<BTreeSet<Key>>, IndexError> {
        self.database()?;
        for _ in 0..INVENTORY_READS_MAX {
            let (held, fingerprint) = {
                let state = self.state();
                let Some(id) = state.host_id(holder) else { return Ok(None) };
                (self.held_by(&state, id)?, state.host_slot(id).record.fingerprint)
            };
            if let Some(keys) = self.keys_in_memory(&held.ids()?, fingerprint) {
                return Ok(Some(keys));
            }
        }
        Err(IndexError::Damaged { reason: format!("the inventory of {} has other keys", holder.address) })
    }

    /// What `host` holds in `state`, to be read when the lock is given back.
    fn held_by(&self, state: &IndexState, host: u32) -> Result<Held, IndexError> {
        // Under the lock: a flush that ends after this takes its changes away, which this view may not have yet.
        let transaction = self.database()?.begin_read().map_err(IndexError::storage("begin a read"))?;
        Ok(Held { transaction, host, delta: state.unflushed.delta_of(host) })
    }

    /// The keys of these ids, which sum up to `fingerprint`. `None` if they are by now those of a later state,
    /// and sum up to something else.
    fn keys_in_memory(&self, ids: &[u32], fingerprint: Fingerprint) -> Option<BTreeSet<Key>> {
        let (mut keys, mut sum) = (Vec::with_capacity(ids.len()), 0u128);
        for some in ids.chunks(KEYS_UNDER_LOCK_MAX) {
            let state = self.state();
            for &id in some {
                keys.push(state.keys.get(id)?.clone());
                sum = sum.wrapping_add(state.keys.fingerprint(id)?);
            }
        }
        (sum == fingerprint.0).then(|| keys.into_iter().collect())
    }

    /// The fingerprint of an inventory of these keys, which are distinct. What the index knows of them
    /// is not hashed again.
    pub fn fingerprint_of(&self, keys: &[Key]) -> Fingerprint {
        let mut sum = 0u128;
        let mut unknown = Vec::new();
        for some in keys.chunks(KEYS_UNDER_LOCK_MAX) {
            let state = self.state();
            for key in some {
                match state.keys.find(key).and_then(|id| state.keys.fingerprint(id)) {
                    Some(fingerprint) => sum = sum.wrapping_add(fingerprint),
                    None => unknown.push(key),
                }
            }
        }
        Fingerprint(unknown.into_iter().map(key_fingerprint).fold(sum, u128::wrapping_add))
    }

    /// Whether any host, hidden or not, is in `group`.
    pub fn has_group(&self, group: &str) -> bool {
        self.state().groups.id(group).is_some()
    }

    /// How much the index holds.
    pub fn counts(&self) -> Counts {
        self.state().counts()
    }

    /// Log index of the last applied entry, 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.inner.applied.get()
    }

    /// Follows [`Index::applied_index`].
    pub(crate) fn applied_watch(&self) -> watch::Receiver<u64> {
        self.inner.applied.subscribe()
    }

    /// Waits until the entry at `index` is applied. Without a limit: the caller brings the timeout.
    pub async fn wait_applied(&self, index: u64) {
        let mut applied = self.applied_watch();
        applied.wait_for(|&applied| applied >= index).await.expect("the sender lives as long as self");
    }

    /// Hosts that changed after log index `index`. A leader's leases call it with 0 first, then with
    /// the answer's `index` whenever [`Index::applied_index`] has grown: nothing is missed, nothing
    /// queues up. What changes while it looks may be in this answer and in the next.
    pub fn hosts_changed_since(&self, index: u64) -> HostChanges {
        self.known_changes_since(index).unwrap_or_else(|| {
            let index = self.state().applied_index();
            HostChanges { index, all: true, changed: self.hosts(None), gone: vec![] }
        })
    }

    fn known_changes_since(&self, index: u64) -> Option<HostChanges> {
        let (applied, gone) = {
            let state = self.state();
            (state.applied_index(), state.gone_since(index)?)
        };
        let (mut changed, mut last) = (Vec::new(), (index, u32::MAX));
        loop {
            let some = self.state().changed_after(last, applied, HOSTS_UNDER_LOCK_MAX)?;
            let Some((change, _)) = some.last() else {
                return Some(HostChanges { index: applied, all: false, changed, gone });
            };
            last = *change;
            changed.extend(some.into_iter().map(|(_, record)| record));
        }
    }

    /// The state checksum (I2) and the log index that it belongs to: a sum over the hosts of a hash
    /// of each record, whose fingerprint stands for its keys, and over the tombstones. Ids do not
    /// count.
    pub fn checksum(&self) -> (u64, u128) {
        let state = self.state();
        (state.applied_index(), state.checksum)
    }

    /// True if `node_id` is a removed server's.
    pub fn is_tombstone(&self, node_id: u64) -> bool {
        self.state().tombstones.contains(&node_id)
    }

    /// Id of the last applied entry.
    pub(crate) fn applied_log_id(&self) -> Option<LogId> {
        self.state().applied
    }

    /// The last applied entry and membership.
    pub fn applied_state(&self) -> (Option<LogId>, StoredMembership) {
        self.state().applied_state()
    }

    /// The last applied entry that is on the disk: a power cut leaves it applied. A log must not purge past it.
    pub fn durable_applied(&self) -> Option<LogId> {
        *self.inner.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> Result<Arc<Database>, IndexError> {
        self.inner.database.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(IndexError::Closed)
    }

    fn state(&self) -> RwLockReadGuard<'_, IndexState> {
        self.inner.state.read().expect("apply does not panic while it holds the state")
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, IndexState> {
        self.inner.state.write().expect("apply does not panic while it holds the state")
    }
}

impl Drop for Inner {
    /// redb closes its file when it is dropped, and panics on some damage.
    fn drop(&mut self) {
        let database = self.database.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Err(reason) = damage::guarded_in_use(|| drop(database)) {
            tracing::warn!(reason, "could not close {STATE_FILE} in order");
        }
    }
}

/// The inventory of one host, on the disk and what goes on top of it.
struct Held {
    transaction: ReadTransaction,
    host: u32,
    delta: Delta,
}

impl Held {
    /// Sorted key ids. Reads the disk.
    fn ids(&self) -> Result<Vec<u32>, IndexError> {
        Ok(self.delta.on(tables::read_inventory(&self.transaction, self.host)?))
    }
}

#[cfg(test)]
#[path = "index/index_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "index/golden_tests.rs"]
pub(crate) mod golden_tests;

#[cfg(test)]
#[path = "index/level_tests.rs"]
mod level_tests;
