//! What readers see: entries that the writer has not put on disk yet, in front of those it has.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use openraft::EntryPayload;
use redb::{Database, ReadableDatabase};

use crate::damage;
use crate::format::{Active, Level};
use crate::model::Key;
use crate::types::{Entry, LogId, Vote};

use super::tables::{Loaded, SEGMENTS, TAIL, TAIL_ENTRIES};
use super::{LOG_FILE, decode_entry, segment};

type DurableApplied = Box<dyn Fn() -> u64 + Send + Sync>;

/// About how many bytes the entry has when it is stored, without storing it.
pub(super) fn approximate_bytes(entry: &Entry) -> usize {
    const FIXED_BYTES: usize = 256;
    let keys = match &entry.payload {
        EntryPayload::Normal(command) => command.write().map_or(&[][..], |write| &write.keys),
        EntryPayload::Blank | EntryPayload::Membership(_) => &[],
    };
    let key_bytes = |key: &Key| match key {
        Key::Sha256(digest) => 1 + digest.len(),
        Key::Text(text) => 3 + text.len(),
    };
    FIXED_BYTES + keys.iter().map(key_bytes).sum::<usize>()
}

/// The log as openraft has ordered it, which may be ahead of the disk.
#[derive(Debug)]
struct View {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Id of the last entry; `purged` if there is none.
    last: Option<LogId>,
    /// Appended, not yet durable: a suffix of the log.
    tail: BTreeMap<u64, Arc<Entry>>,
}

/// The log that its handles, its readers and its writer share.
pub(super) struct SharedLog {
    /// The open file; `None` once it is closed.
    database: RwLock<Option<Database>>,
    view: Mutex<View>,
    durable_applied: OnceLock<DurableApplied>,
    /// The level at which entries are written.
    level: OnceLock<Active>,
    appended_bytes: AtomicU64,
    commits: AtomicU64,
}

/// The error of every call after [`SharedLog::close`].
pub(super) fn closed() -> io::Error {
    io::Error::other("the raft log is closed")
}

impl SharedLog {
    pub(super) fn new(database: Database, loaded: Loaded) -> Self {
        let Loaded { id: _, vote, committed, purged, last } = loaded;
        let view = View { vote, committed, purged, last, tail: BTreeMap::new() };
        Self {
            database: RwLock::new(Some(database)),
            view: Mutex::new(view),
            durable_applied: OnceLock::new(),
            level: OnceLock::new(),
            appended_bytes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().expect("nothing panics while it holds the view")
    }

    /// Runs `work` on the open database.
    pub(super) fn with_database<T>(&self, work: impl FnOnce(&Database) -> io::Result<T>) -> io::Result<T> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or_else(closed)?;
        told(damage::guarded_in_use(|| work(database)))
    }

    /// Runs `work` on the open database while nobody reads it.
    pub(super) fn with_database_alone<T>(
        &self,
        work: impl FnOnce(&mut Database) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_mut().ok_or_else(closed)?;
        told(damage::guarded_in_use(|| work(database)))
    }

    pub(super) fn close(&self) {
        let database = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = database.map(Database::close) {
            tracing::warn!(%error, "could not close the raft log cleanly");
        }
    }

    pub(super) fn guard_purge(&self, durable_applied: DurableApplied) {
        if self.durable_applied.set(durable_applied).is_err() {
            tracing::warn!("the purge guard of the raft log was set twice; the first one stays");
        }
    }

    pub(super) fn write_at(&self, level: Active) {
        if self.level.set(level).is_err() {
            tracing::warn!("the level of the raft log was set twice; the first one stays");
        }
    }

    pub(super) fn level(&self) -> Level {
        self.level.get().map(Active::get).unwrap_or_default()
    }

    pub(super) fn check_purge(&self, index: u64) -> io::Result<()> {
        match self.durable_applied.get().map(|durable| durable()) {
            Some(durable) if durable < index => Err(io::Error::other(format!(
                "refused to purge the raft log up to {index}: the durable state ends at {durable}"
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    pub(super) fn count_commit(&self, appended_bytes: usize) {
        self.appended_bytes.fetch_add(appended_bytes as u64, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// Purged id and last id.
    pub(super) fn state(&self) -> (Option<LogId>, Option<LogId>) {
        let view = self.view();
        (view.purged, view.last)
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        self.view().vote
    }

    pub(super) fn set_vote(&self, vote: Vote) {
        self.view().vote = Some(vote);
    }

    pub(super) fn committed(&self) -> Option<LogId> {
        self.view().committed
    }

    pub(super) fn set_committed(&self, committed: Option<LogId>) {
        self.view().committed = committed;
    }

    pub(super) fn extend_tail(&self, entries: &[Arc<Entry>]) {
        let mut view = self.view();
        view.last = entries.last().map(|entry| entry.log_id).or(view.last);
        view.tail.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
    }

    /// These are on disk now.
    pub(super) fn release_tail(&self, indices: impl Iterator<Item = u64>) {
        let mut view = self.view();
        for index in indices {
            view.tail.remove(&index);
        }
    }

    pub(super) fn truncate(&self, last: Option<LogId>) {
        let mut view = self.view();
        view.tail.split_off(&last.map_or(0, |id| id.index + 1));
        view.last = view.last.min(last).max(view.purged);
    }

    pub(super) fn purge(&self, upto: LogId) {
        let mut view = self.view();
        view.purged = view.purged.max(Some(upto));
        view.last = view.last.max(view.purged);
        view.tail = view.tail.split_off(&(upto.index + 1));
    }

    /// Entries from `start`, before `end`, at least one and then no more than `bytes_max`.
    pub(super) fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        loop {
            let (tail, start, tail_start, purged) = {
                let view = self.view();
                let start = view.purged.map_or(start, |purged| start.max(purged.index + 1));
                let end = view.last.map_or(0, |last| end.min(last.index + 1));
                if start >= end {
                    return Ok(Vec::new());
                }
                let tail: Vec<Arc<Entry>> =
                    view.tail.range(start..end).map(|(_, entry)| entry.clone()).collect();
                let tail_start = view.tail.range(start..end).next().map_or(end, |(index, _)| *index);
                (tail, start, tail_start, view.purged)
            };
            let mut piece = Piece { entries: Vec::new(), bytes_left: bytes_max };
            if self.read_disk(start, tail_start, &mut piece)? {
                for entry in &tail {
                    if !piece.take(approximate_bytes(entry)) {
                        break;
                    }
                    piece.entries.push(Entry::clone(entry));
                }
            }
            // A purge during the read may have taken entries away from the middle.
            if self.view().purged == purged {
                return Ok(piece.entries);
            }
        }
    }

    /// False if the piece is full.
    fn read_disk(&self, start: u64, end: u64, piece: &mut Piece) -> io::Result<bool> {
        if start >= end {
            return Ok(true);
        }
        self.with_database(|database| {
            // A row does not keep its transaction alive, so this outlives the rows: the writer takes the pages of
            // a state that nobody reads.
            let transaction = database.begin_read().map_err(io::Error::other)?;
            let open = || {
                let (segments, tail) = (transaction.open_table(SEGMENTS)?, transaction.open_table(TAIL)?);
                let first = segments.range(..=start)?.next_back().transpose()?.map(|(key, _)| key.value());
                Ok((segments.range(first.unwrap_or(start)..end)?, tail.get(TAIL_ENTRIES)?))
            };
            let (segments, tail) = open().map_err(|error: redb::Error| io::Error::other(error))?;
            for stored in segments {
                let (_, bytes) = stored.map_err(io::Error::other)?;
                if !piece.take_from(bytes.value(), start..end)? {
                    return Ok(false);
                }
            }
            tail.map_or(Ok(true), |bytes| piece.take_from(bytes.value(), start..end))
        })
    }
}

/// What was done with the file; damage is told as such.
fn told<T>(done: Result<io::Result<T>, String>) -> io::Result<T> {
    match done {
        Ok(done) => done.map_err(|error| damage::of_work(LOG_FILE, error)),
        Err(reason) => Err(damage::found(LOG_FILE, &reason)),
    }
}

/// The entries that one read has gathered so far.
struct Piece {
    entries: Vec<Entry>,
    bytes_left: usize,
}

impl Piece {
    /// Takes the entries of `range` that are in a segment; false if the piece is full.
    fn take_from(&mut self, segment: &[u8], range: Range<u64>) -> io::Result<bool> {
        for entry in segment::entries(segment).map_err(io::Error::other)? {
            let (index, bytes) = entry.map_err(io::Error::other)?;
            if index >= range.end {
                break;
            }
            if index < range.start {
                continue;
            }
            if !self.take(bytes.len()) {
                return Ok(false);
            }
            self.entries.push(decode_entry(bytes).map_err(io::Error::other)?);
        }
        Ok(true)
    }

    /// Makes room for one more entry; false if the piece is full.
    fn take(&mut self, bytes: usize) -> bool {
        if !self.entries.is_empty() && bytes > self.bytes_left {
            return false;
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        true
    }
}
