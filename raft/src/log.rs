//! The raft log and vote on redb, in a file of their own: redb has one writer per file, and an append
//! must not wait for a commit of the state.
//!
//! One thread writes (`writer`): an append returns as soon as its entries are readable, and its
//! callback comes when they are durable (encoding is the writer's work, not openraft's), so that the
//! leader's sync and its followers' overlap, and appends that wait together share one commit. Entries that
//! are not on disk yet are read from memory (`view`). `note` says beside the file which log it is. At rest
//! nothing is written: `committed` goes with the next append, and what a purge leaves behind goes in small
//! steps with later appends, or at once where the disk is low (`shrink`).

mod note;
mod segment;
mod shrink;
mod stored;
mod tables;
mod view;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures_util::Stream;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use tokio::sync::{mpsc, oneshot};

use crate::damage::{self, WHAT_TO_DO};
use crate::disk::Disk;
use crate::format::{Active, ENTRY, FormatError, Level};
use crate::limits::{LOG_CACHE_BYTES, LOG_JOBS_MAX, LOG_READ_BYTES_MAX};
use crate::random::{Random, SystemRandom};
use crate::threads::{SystemThreads, Threads};
use crate::types::{Entry, LogId, TypeConfig, Vote};

pub use note::LOG_NOTE_FILE;

use view::SharedLog;
use writer::{Job, Writer};

/// Name of the log's file on the disk.
pub const LOG_FILE: &str = "log.redb";

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("could not open {LOG_FILE}")]
    Open {
        /// redb's reason: locked by another process, damaged, no space.
        #[source]
        source: redb::DatabaseError,
    },
    /// The tables of the file cannot be read.
    #[error("could not read {LOG_FILE}")]
    Read {
        /// Error of redb.
        #[source]
        source: Box<redb::Error>,
    },
    /// What the tables hold cannot be read.
    #[error("could not read {LOG_FILE}")]
    Format(#[from] FormatError),
    /// The file is no longer what was written.
    #[error("{LOG_FILE} is damaged ({reason}): {WHAT_TO_DO}")]
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
    /// The note of the log's id cannot be read or written.
    #[error("could not {verb} the file {LOG_NOTE_FILE}")]
    Note {
        /// What was tried: `read` or `write`.
        verb: &'static str,
        /// Error of the disk.
        #[source]
        source: io::Error,
    },
    /// The server has promised votes and entries in a log that is not there any more: without it, it could
    /// vote a second time in one term.
    #[error(
        "{LOG_FILE} is not the one that this server wrote its votes and entries to: that one is lost, or \
         another file is in its place; put it back, or {WHAT_TO_DO}"
    )]
    Other,
    /// The system refused the thread of the log's writer.
    #[error("could not start the thread of the raft log")]
    Thread {
        /// Error of the system.
        #[source]
        source: io::Error,
    },
}

impl<E: Into<redb::Error>> From<E> for LogError {
    fn from(error: E) -> Self {
        LogError::Read { source: Box::new(error.into()) }
    }
}

/// A handle on the log; clones share it.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<SharedLog>,
    jobs: mpsc::Sender<Job>,
    /// Random id of this file, made with it.
    id: u128,
    /// What is read for others than openraft is read there.
    threads: Arc<dyn Threads>,
}

/// Reads the log beside its writer; one for each follower and one for apply.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<SharedLog>,
}

impl LogStore {
    /// Opens or creates `log.redb`. A damaged file is refused, and one of a newer format. Reads all of it.
    pub fn open(disk: &dyn Disk) -> Result<Self, LogError> {
        Self::open_on(disk, Arc::new(SystemThreads), &SystemRandom)
    }

    /// [`LogStore::open`] with its writer on one of `threads`; a new log gets its id from `random`.
    pub(crate) fn open_on(
        disk: &dyn Disk,
        threads: Arc<dyn Threads>,
        random: &dyn Random,
    ) -> Result<Self, LogError> {
        let (database, loaded) = open_database(disk, |database| tables::load(database, random))?;
        let id = loaded.id;
        let shared = Arc::new(SharedLog::new(database, loaded));
        let (jobs, queue) = mpsc::channel(LOG_JOBS_MAX);
        let writer = Writer::new(shared.clone(), queue);
        threads.start("raft-log", Box::new(writer)).map_err(|source| LogError::Thread { source })?;
        Ok(Self { shared, jobs, id, threads })
    }

    /// Makes the log of a node that goes on after `applied`, of which it has the state: as if everything up
    /// to there had been purged. The disk has no log yet.
    pub(crate) fn create_after(
        disk: &dyn Disk,
        random: &dyn Random,
        level: Level,
        vote: &Vote,
        applied: &LogId,
    ) -> Result<(), LogError> {
        let begin = |database: &redb::Database| tables::begin_after(database, random, level, vote, applied);
        let (_, id) = open_database(disk, begin)?;
        note::write(disk, level, id)
    }

    /// Refuses a log that is not the one that this server has spoken by; notes which it is where that was
    /// not done. To be called before the node speaks.
    pub fn check_note(&self, disk: &dyn Disk) -> Result<(), LogError> {
        note::check(disk, self.shared.level(), self.id)
    }

    /// Term and candidate of the last vote.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.shared.vote()
    }

    /// Id of the last entry; of the last purged one, if there is none.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.shared.state().1
    }

    /// The first of these ids, which ascend, that has another entry here. Those that were purged cannot be
    /// compared. Reads the disk, a piece at a time.
    pub(crate) async fn first_difference(&self, sent: Vec<LogId>) -> io::Result<Option<u64>> {
        let log = self.clone();
        self.threads.blocking(move || log.find_difference(&sent)).await.map_err(io::Error::other)?
    }

    fn find_difference(&self, mut sent: &[LogId]) -> io::Result<Option<u64>> {
        while let [first, .., last] | [first @ last] = sent {
            let own = self.shared.read(first.index, last.index + 1, LOG_READ_BYTES_MAX)?;
            let Some(end) = own.last().map(|entry| entry.log_id.index) else { return Ok(None) };
            let (compared, rest) = sent.split_at(sent.partition_point(|id| id.index <= end));
            let differs = |id: &&LogId| {
                let found = own.binary_search_by_key(&id.index, |entry| entry.log_id.index);
                found.is_ok_and(|at| own[at].log_id != **id)
            };
            if let Some(other) = compared.iter().find(differs) {
                return Ok(Some(other.index));
            }
            sent = rest;
        }
        Ok(None)
    }

    /// Up to where openraft counts the log as committed.
    pub(crate) fn committed(&self) -> Option<LogId> {
        self.shared.committed()
    }

    /// False for a log that nothing was ever written to.
    pub fn is_used(&self) -> bool {
        let (purged, last) = self.shared.state();
        purged.or(last).is_some() || self.shared.vote().is_some()
    }

    /// The last entry that was purged: the log goes on after it.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.state().0
    }

    /// From now on a purge past `durable_applied()` is refused: it would drop entries that a crash
    /// makes the state machine need again.
    pub fn guard_purge(&self, durable_applied: impl Fn() -> u64 + Send + Sync + 'static) {
        self.shared.guard_purge(Box::new(durable_applied));
    }

    /// From now on it is written as that level says; until then as the first one does.
    pub fn write_at(&self, level: Active) {
        self.shared.write_at(level);
    }

    /// Bytes of entries appended since the start of this process.
    pub fn appended_bytes(&self) -> u64 {
        self.shared.appended_bytes()
    }

    /// Commits to the file since the start of this process.
    pub fn commits(&self) -> u64 {
        self.shared.commits()
    }

    /// Deletes what is purged and gives its room back to the disk, which redb does not do by itself. The
    /// writer does nothing else meanwhile.
    pub async fn shrink(&self) -> io::Result<()> {
        self.perform(|done| Job::Shrink { done }).await
    }

    /// Writes what waits, then closes the file; every later call fails. Waits for the writer.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close { done }).await.is_ok() {
            closed.await.ok();
        }
    }

    async fn submit(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).await.map_err(|_| view::closed())
    }

    async fn perform(&self, job: impl FnOnce(writer::Done) -> Job) -> io::Result<()> {
        let (done, result) = oneshot::channel();
        self.submit(job(done)).await?;
        result.await.map_err(|_| view::closed())?
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let (last_purged_log_id, last_log_id) = self.shared.state();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = *vote;
        self.perform(|done| Job::Vote { vote, done }).await?;
        self.shared.set_vote(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.shared.set_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Arc<Entry>> = entries.into_iter().map(Arc::new).collect();
        self.shared.extend_tail(&entries);
        self.submit(Job::Append { entries, callback }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let first = last_log_id.map_or(0, |id| id.index + 1);
        self.shared.truncate(last_log_id);
        self.perform(|done| Job::Truncate { first, done }).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.shared.check_purge(log_id.index)?;
        self.shared.purge(log_id);
        self.perform(|done| Job::Purge { upto: log_id, done }).await
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = half_open(&range);
        self.shared.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.shared.read(start, end, LOG_READ_BYTES_MAX)
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = half_open(&range);
        self.shared.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.shared.read(start, end, LOG_READ_BYTES_MAX)
    }

    /// In pieces: at a restart, apply reads all that the state machine lacks in one stream.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = half_open(&range);
        let pieces = futures_util::stream::try_unfold(start, {
            let shared = self.shared.clone();
            move |start| {
                let piece = shared.read(start, end, LOG_READ_BYTES_MAX);
                std::future::ready(piece.map(|piece| {
                    let next = piece.last()?.log_id.index + 1;
                    Some((futures_util::stream::iter(piece.into_iter().map(Ok)), next))
                }))
            }
        });
        Box::pin(futures_util::TryStreamExt::try_flatten(pieces))
    }
}

/// Opens the file and lets `load` read it; whatever of that says that it is damaged becomes one error.
fn open_database<T>(
    disk: &dyn Disk,
    load: impl FnOnce(&redb::Database) -> Result<T, LogError>,
) -> Result<(redb::Database, T), LogError> {
    let opened = damage::guarded(|| {
        let database = damage::open(disk, LOG_FILE, LOG_CACHE_BYTES);
        let database = database.map_err(|source| LogError::Open { source })?;
        let loaded = load(&database)?;
        Ok((database, loaded))
    });
    let error = match opened {
        Ok(Ok(opened)) => return Ok(opened),
        Ok(Err(error)) => error,
        Err(reason) => return Err(LogError::Damaged { reason }),
    };
    let damage = match &error {
        LogError::Open { source } => damage::of_open(source),
        LogError::Read { source } => damage::of_call(source),
        LogError::Format(damaged @ FormatError::Damaged { .. }) => Some(damaged.to_string()),
        _ => None,
    };
    Err(damage.map_or(error, |reason| LogError::Damaged { reason }))
}

/// `range` as first index and the index after the last.
fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// One entry as it is stored, and sent. A command that needs a higher level than `level` is written as that one
/// says: the cluster has it already, and this node has not applied that yet.
pub(crate) fn encode_entry(level: Level, entry: &Entry) -> Vec<u8> {
    let needs = match &entry.payload {
        EntryPayload::Normal(command) => command.needs(),
        EntryPayload::Blank | EntryPayload::Membership(_) => Level::FIRST,
    };
    ENTRY.encode(level.max(needs), entry)
}

/// Reads what [`encode_entry`] wrote.
pub(crate) fn decode_entry(bytes: &[u8]) -> Result<Entry, FormatError> {
    ENTRY.decode("raft log entry", bytes)
}

#[cfg(test)]
mod tests;
