//! The replicated index: which holder has which key.
//!
//! On disk (`state.redb`): what each host holds. In memory: who holds each key, derived from it. One
//! writer (openraft's state machine task) applies entries to both; readers take the in-memory lock
//! for a moment and never touch the disk, except [`Index::inventory`].
//!
//! Commits of applied entries are not durable: the log has them. [`Index::run_flusher`] makes them
//! durable within a second, [`Index::flush_durable`] at once. redb has one writer: whoever commits
//! holds `turn`, an async lock, so that `apply` never blocks a thread on somebody's fsync. The
//! non-durable commit itself is a few hundred microseconds of work in memory and runs inline, as a
//! simulation needs it; an fsync runs on the blocking pool.

mod apply;
mod changes;
mod groups;
mod host;
pub(crate) mod inventory;
mod keys;
mod lists;
mod order;
mod postings;
mod slots;
pub(crate) mod state;
mod state_machine;
pub(crate) mod tables;
mod writer;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use redb::{Database, ReadableDatabase};

pub use changes::HostChanges;
pub use host::{HostRecord, address_key};
pub use postings::Postings;
pub use state::{Counts, HOST_IDS_MAX, KEY_IDS_MAX};
pub use state_machine::{SnapshotBuilder, StateMachine};

use crate::command::{Holder, Key};
use crate::damage::{self, WHAT_TO_DO};
use crate::disk::Disk;
use crate::fingerprint::{Fingerprint, key_fingerprint};
use crate::format::FormatError;
use crate::types::{LogId, StoredMembership};
use crate::watch;
use state::State;
use writer::Turn;

/// File of the state in a data folder.
pub const STATE_FILE: &str = "state.redb";
/// redb's page cache of that file, bytes; its own default is 1 GiB. What is read often is in memory
/// anyway, and the kernel caches the file once more.
pub const STATE_CACHE_BYTES: usize = 8 * 1024 * 1024;
/// Longest time between an applied entry and the durable commit that has it.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Keys that are looked up in one stretch: writers wait for readers, and other readers for them.
const KEYS_UNDER_LOCK_MAX: usize = 1_024;

/// Why the index cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file cannot be opened or closed, or another process has it.
    #[error("could not open or close {STATE_FILE}")]
    Open {
        /// What redb says.
        #[source]
        source: Box<redb::DatabaseError>,
    },
    /// redb failed; the state on disk is that of its last commit.
    #[error("could not {action} in {STATE_FILE}")]
    Storage {
        /// What was tried.
        action: &'static str,
        /// What redb says.
        #[source]
        source: Box<redb::Error>,
    },
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
        /// What does not fit.
        reason: String,
    },
    /// An earlier batch failed half-way; only a restart leads back to a state that is whole.
    #[error("could not apply, an earlier commit to {STATE_FILE} failed")]
    Broken,
    /// After [`Index::close`].
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

    /// The same of what works with the opened file.
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
    /// `None` after [`Index::close`].
    database: RwLock<Option<Arc<Database>>>,
    state: RwLock<State>,
    /// Held by whoever commits.
    turn: Arc<tokio::sync::Mutex<Turn>>,
    applied: watch::Sender<u64>,
    durable: Mutex<Option<LogId>>,
}

impl Index {
    /// Opens `state.redb` and builds the in-memory side from it. A damaged file is refused. Blocks;
    /// seconds for millions of pairs.
    pub fn open(disk: &dyn Disk) -> Result<Self, IndexError> {
        let (database, state) = IndexError::guarded(|| {
            let database = damage::open(disk, STATE_FILE, STATE_CACHE_BYTES);
            let database = database.map_err(|source| IndexError::Open { source: Box::new(source) })?;
            let state = tables::read_state(&database)?;
            Ok((database, state))
        })?;
        let inner = Inner {
            turn: Arc::new(tokio::sync::Mutex::new(Turn { committed: state.applied, broken: false })),
            applied: watch::Sender::new(state.applied_index()),
            durable: Mutex::new(state.applied),
            state: RwLock::new(state),
            database: RwLock::new(Some(Arc::new(database))),
        };
        Ok(Self { inner: Arc::new(inner) })
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

    /// All hosts of `group`, or of all groups, sorted by group and address, hidden ones included.
    pub fn hosts(&self, group: Option<&str>) -> Vec<HostRecord> {
        self.state().hosts_of(group)
    }

    /// The inventory of `holder` at the last commit, `None` for an unknown one. Reads the disk. Who has
    /// seen the reply to a command sees its effect here.
    pub fn inventory(&self, holder: &Holder) -> Result<Option<BTreeSet<Key>>, IndexError> {
        IndexError::guarded_in_use(|| self.read_inventory(holder))
    }

    fn read_inventory(&self, holder: &Holder) -> Result<Option<BTreeSet<Key>>, IndexError> {
        let Some(id) = self.state().host_id(holder) else { return Ok(None) };
        let transaction = self.database()?.begin_read().map_err(IndexError::storage("begin a read"))?;
        let hosts = match transaction.open_table(tables::HOSTS) {
            // The very first host is seen in memory a moment before its commit makes the tables.
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            hosts => hosts.map_err(IndexError::storage("open a table"))?,
        };
        let read = IndexError::storage("read an inventory");
        let Some(record) = hosts.get(id).map_err(read)? else { return Ok(None) };
        let record: HostRecord = crate::format::decode("host record", record.value())?;
        if record.holder != *holder {
            return Ok(None);
        }
        let inventories =
            transaction.open_table(tables::INVENTORIES).map_err(IndexError::storage("open inventories"))?;
        let Some(bytes) = inventories.get(id).map_err(read)? else { return Ok(None) };
        let ids = inventory::decode(bytes.value())?;
        if let Some(keys) = self.keys_in_memory(&ids, record.fingerprint) {
            return Ok(Some(keys));
        }
        let table = transaction.open_table(tables::KEYS).map_err(IndexError::storage("open keys"))?;
        let mut keys = BTreeSet::new();
        for id in ids {
            let Some(bytes) = table.get(id).map_err(read)? else {
                return Err(IndexError::Damaged { reason: format!("{} has no key {id}", holder.address) });
            };
            keys.insert(crate::format::decode::<Key>("key", bytes.value())?);
        }
        Ok(Some(keys))
    }

    /// The keys of these ids, which sum up to `fingerprint`. The keys in memory may be those of a later
    /// state; then they sum up to something else, and it is `None`.
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
        *self.inner.applied.borrow()
    }

    /// Follows [`Index::applied_index`].
    pub fn applied_watch(&self) -> watch::Receiver<u64> {
        self.inner.applied.subscribe()
    }

    /// Waits until the entry at `index` is applied. Without a limit: the caller brings the timeout.
    pub async fn wait_applied(&self, index: u64) {
        let mut applied = self.applied_watch();
        let seen = applied.wait_for(|&applied| applied >= index).await;
        drop(seen.expect("the sender lives as long as self"));
    }

    /// Hosts that changed after log index `index`. A leader's leases call it with 0 first, then with
    /// the answer's `index` whenever [`Index::applied_watch`] has news: nothing is missed, nothing
    /// queues up.
    pub fn hosts_changed_since(&self, index: u64) -> HostChanges {
        self.state().changes_since(index)
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

    /// The last applied entry that a power cut leaves applied. A log must not purge past it.
    pub fn durable_applied(&self) -> Option<LogId> {
        *self.inner.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> Result<Arc<Database>, IndexError> {
        self.inner.database.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(IndexError::Closed)
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.inner.state.read().expect("apply does not panic while it holds the state")
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.inner.state.write().expect("apply does not panic while it holds the state")
    }
}

#[cfg(test)]
#[path = "index/index_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "index/golden_tests.rs"]
pub(crate) mod golden_tests;
