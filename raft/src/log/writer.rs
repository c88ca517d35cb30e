//! The one thread that writes the log: takes every job that waits, performs them in order in one
//! transaction, commits, then answers them all.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use openraft::storage::IOFlushed;
use redb::{Durability, ReadableDatabase, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use crate::format::{Level, STORAGE};
use crate::limits::{LOG_COMMIT_BYTES_MAX, PURGE_STEP};
use crate::threads::Worker;
use crate::types::{Entry, LogId, TypeConfig, Vote};

use super::encode_entry;
use super::stored::StoredEntries;
use super::tables::{META, META_PURGED, META_VOTE};
use super::view::{SharedLog, approximate_bytes, closed};

pub(super) type Done = oneshot::Sender<io::Result<()>>;

/// What openraft asks of the disk.
pub(super) enum Job {
    Append {
        entries: Vec<Arc<Entry>>,
        callback: IOFlushed<TypeConfig>,
    },
    Vote {
        vote: Vote,
        done: Done,
    },
    /// Deletes the entries from `first` on.
    Truncate {
        first: u64,
        done: Done,
    },
    Purge {
        upto: LogId,
        done: Done,
    },
    Shrink {
        done: Done,
    },
    Close {
        done: oneshot::Sender<()>,
    },
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::Append { entries, .. } => entries.iter().map(|entry| approximate_bytes(entry)).sum(),
            _ => 0,
        }
    }

    /// A purge that is lost in a crash is done again; all else must be on disk before the answer.
    fn must_be_durable(&self) -> bool {
        !matches!(self, Job::Purge { .. } | Job::Shrink { .. } | Job::Close { .. })
    }
}

/// Performs jobs until a [`Job::Close`], or until all handles are gone.
pub(super) struct Writer {
    shared: Arc<SharedLog>,
    queue: mpsc::Receiver<Job>,
    /// The first one of the next step.
    first: Option<Job>,
}

impl Worker for Writer {
    fn wait(&mut self) -> bool {
        let job = self.queue.blocking_recv();
        self.take(job)
    }

    fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        self.queue.poll_recv(context).map(|job| self.take(job))
    }

    fn step(&mut self) -> bool {
        let first = self.first.take().expect("a step is waited for");
        !self.perform_waiting(first)
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<SharedLog>, queue: mpsc::Receiver<Job>) -> Self {
        Self { shared, queue, first: None }
    }

    /// What was waited for; false: all handles are gone.
    fn take(&mut self, job: Option<Job>) -> bool {
        if job.is_none() {
            self.shared.close();
        }
        self.first = job;
        self.first.is_some()
    }

    /// `first` and what waits behind it, in one commit; true after a close.
    fn perform_waiting(&mut self, first: Job) -> bool {
        let mut batch = vec![first];
        let mut bytes = batch[0].bytes();
        while bytes < LOG_COMMIT_BYTES_MAX
            && let Ok(job) = self.queue.try_recv()
        {
            bytes += job.bytes();
            batch.push(job);
        }
        let result = self.commit(&batch);
        self.answer(batch, result)
    }

    fn commit(&self, batch: &[Job]) -> io::Result<()> {
        if batch.iter().all(|job| matches!(job, Job::Close { .. })) {
            return Ok(());
        }
        self.shared.with_database(|database| {
            let work = || {
                let mut transaction = database.begin_write()?;
                let durable = batch.iter().any(Job::must_be_durable);
                // No quick repair: it writes down with each commit which pages are free, 110 KiB of a log
                // of 850 MiB, and a busy site commits hundreds of times a second.
                transaction.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
                self.perform(&transaction, batch)?;
                // While somebody may still read the state before, redb leaves its freed pages to the next
                // commit. Without a reader it frees them after this one, in a commit that is not durable:
                // the next one has a page more to write because of it.
                let before = database.begin_read()?;
                transaction.commit()?;
                drop(before);
                Ok(())
            };
            work().map_err(|error: redb::Error| io::Error::other(error))
        })?;
        self.shared.count_commit(batch.iter().map(Job::bytes).sum());
        Ok(())
    }

    fn perform(&self, transaction: &WriteTransaction, batch: &[Job]) -> Result<(), redb::Error> {
        let level: Level = self.shared.level();
        let mut entries = StoredEntries::open(transaction, level)?;
        for job in batch {
            match job {
                Job::Append { entries: new, .. } => {
                    for entry in new {
                        entries.append(entry.log_id.index, &encode_entry(level, entry))?;
                    }
                }
                Job::Vote { vote, .. } => {
                    let mut meta = transaction.open_table(META)?;
                    meta.insert(META_VOTE, STORAGE.encode(level, vote).as_slice())?;
                }
                Job::Truncate { first, .. } => entries.truncate(*first)?,
                Job::Purge { upto, .. } => {
                    let mut meta = transaction.open_table(META)?;
                    meta.insert(META_PURGED, STORAGE.encode(level, upto).as_slice())?;
                }
                Job::Shrink { .. } | Job::Close { .. } => {}
            }
        }
        let (purged, _) = self.shared.state();
        let last = entries.last()?.max(purged.map(|id| id.index));
        if let Some(purged) = purged {
            entries.delete_purged(purged.index, PURGE_STEP)?;
        }
        // A majority of others can commit what this disk does not have yet.
        entries.finish(self.shared.committed().filter(|id| Some(id.index) <= last))
    }

    /// Answers all jobs of a batch; true if one of them was the close.
    fn answer(&self, batch: Vec<Job>, result: io::Result<()>) -> bool {
        let result = || match &result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        let (mut close, mut shrink) = (None, Vec::new());
        for job in batch {
            match job {
                Job::Append { entries, callback } => {
                    if result().is_ok() {
                        self.shared.release_tail(entries.iter().map(|entry| entry.log_id.index));
                    }
                    callback.io_completed(result());
                }
                Job::Vote { done, .. } | Job::Truncate { done, .. } | Job::Purge { done, .. } => {
                    done.send(if close.is_none() { result() } else { Err(closed()) }).ok();
                }
                Job::Shrink { done } => shrink.push(done),
                Job::Close { done } => close = Some(done),
            }
        }
        // After the others: it takes a while, and what it comes to is nothing to them.
        for done in shrink {
            done.send(result().and_then(|()| self.shared.shrink())).ok();
        }
        let Some(done) = close else { return false };
        self.shared.close();
        done.send(()).ok();
        true
    }
}
