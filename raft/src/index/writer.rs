//! The writing side of [`Index`]: apply, flush, snapshot, install, close.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use redb::{ReadTransaction, ReadableDatabase, WriteTransaction};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::apply::{self, Batch};
use super::tables::{self, Rows};
use super::{Index, IndexError, Room, WholeState};
use crate::command::{Command, Reply};
use crate::limits::{FLUSH_LOOK_INTERVAL, UNFLUSHED_ENTRIES_MAX, UNFLUSHED_KEYS_MAX};
use crate::types::{Entry, LogId, StoredMembership};

/// The right to write to the file.
type Flushing = tokio::sync::OwnedMutexGuard<()>;

impl Index {
    /// Applies entries; one reply each, in order. Not to be called beside a running
    /// [`crate::state_machine::StateMachine`] of the same index.
    pub async fn apply(&self, entries: &[Entry]) -> Result<Vec<Reply>, IndexError> {
        let _turn = self.inner.turn.lock().await;
        self.check_whole()?;
        let Some(last) = entries.last() else { return Ok(Vec::new()) };
        self.check_levels(entries)?;
        let replies = self.or_broken(IndexError::guarded_in_use(|| self.apply_batch(entries)))?;
        self.inner.level.set(self.state().level());
        self.inner.applied.set(last.log_id().index);
        Ok(replies)
    }

    /// Nothing is applied by a build that does not know the level of it: its folder is as good as before for
    /// one that does.
    fn check_levels(&self, entries: &[Entry]) -> Result<(), IndexError> {
        for entry in entries {
            if let EntryPayload::Normal(Command::Activate { level }) = &entry.payload
                && let Err(IndexError::Level(unknown)) = tables::check_level(*level)
            {
                self.inner.refused.get_or_init(|| unknown);
                return Err(unknown.into());
            }
        }
        Ok(())
    }

    fn check_whole(&self) -> Result<(), IndexError> {
        if self.inner.broken.load(Ordering::Relaxed) { Err(IndexError::Broken) } else { Ok(()) }
    }

    /// After a failure nothing more is applied or flushed.
    fn or_broken<T>(&self, result: Result<T, IndexError>) -> Result<T, IndexError> {
        if result.is_err() {
            self.inner.broken.store(true, Ordering::Relaxed);
        }
        result
    }

    fn apply_batch(&self, entries: &[Entry]) -> Result<Vec<Reply>, IndexError> {
        self.database()?;
        let mut batch = Batch::default();
        entries.iter().map(|entry| self.apply_entry(&mut batch, entry)).collect()
    }

    fn apply_entry(&self, batch: &mut Batch, entry: &Entry) -> Result<Reply, IndexError> {
        let log_id = entry.log_id();
        if let EntryPayload::Normal(command) = &entry.payload {
            self.load_inventory(batch, command)?;
        }
        let mut state = self.state_mut();
        let reply = match &entry.payload {
            EntryPayload::Blank => Reply::None,
            EntryPayload::Normal(command) => state.apply(batch, log_id.index, command),
            EntryPayload::Membership(membership) => {
                state.membership = StoredMembership::new(Some(log_id), membership.clone());
                state.unflushed.changes.membership = true;
                Reply::None
            }
        };
        state.applied = Some(log_id);
        Ok(reply)
    }

    /// Nobody else changes the state meanwhile.
    fn load_inventory(&self, batch: &mut Batch, command: &crate::command::Command) -> Result<(), IndexError> {
        let Some(holder) = apply::holder_of(command) else { return Ok(()) };
        let (host, held) = {
            let state = self.state();
            match state.host_id(holder) {
                Some(host) if !batch.has_inventory(host) => (host, self.held_by(&state, host)?),
                _ => return Ok(()),
            }
        };
        batch.load(host, held.ids()?);
        Ok(())
    }

    /// Makes everything applied so far durable. Returns at once, without touching the disk, if it is
    /// already.
    pub async fn flush_durable(&self) -> Result<(), IndexError> {
        self.flush().await.map(drop)
    }

    /// The right to write goes along with the work: it is not given up when the caller is. Applying goes on
    /// while the rows are written.
    async fn flush(&self) -> Result<Flushing, IndexError> {
        let flushing = self.inner.flushing.clone().lock_owned().await;
        let turn = self.inner.turn.clone().lock_owned().await;
        if self.applied_log_id() == self.durable_applied() {
            return Ok(flushing);
        }
        self.check_whole()?;
        let index = self.clone();
        self.blocking(move || {
            let unless_done = BrokenUnlessDone::new(&index);
            let changes = index.state_mut().unflushed.begin_flush();
            let (rows, applied) = {
                let state = index.state();
                (Rows::of(&state, changes), state.applied)
            };
            drop(turn);
            let transaction = index.begin_write()?;
            rows.write(&transaction)?;
            transaction.commit().map_err(IndexError::storage("commit"))?;
            index.state_mut().unflushed.flushed();
            index.set_durable(applied);
            unless_done.done();
            Ok(flushing)
        })
        .await
    }

    /// Flushes when there is much, or news for `interval`, and a last time after `stop`; sleeps while
    /// there is none, so that an idle site writes nothing. With little `room` it flushes each second: what is
    /// flushed late takes its room late, when a purge of the log needs it. Without any it waits: the log has
    /// it all.
    pub async fn run_flusher(
        &self,
        interval: Duration,
        stop: CancellationToken,
        room: impl Fn() -> Room,
    ) -> Result<(), IndexError> {
        let mut applied = self.applied_watch();
        // What was applied before is news, too.
        while stop.run_until_cancelled(self.wait_for_much(interval, &room)).await.is_some() {
            applied.latest();
            self.flush_durable().await?;
            if stop.run_until_cancelled(applied.changed()).await.is_none() {
                break;
            }
        }
        self.flush_durable().await
    }

    /// Waits until a flush is due. A flush for another reason (a snapshot, a purge) begins the time anew.
    async fn wait_for_much(&self, interval: Duration, room: &impl Fn() -> Room) {
        let (mut since, mut durable) = (Instant::now(), self.durable_applied());
        loop {
            tokio::time::sleep(interval.min(FLUSH_LOOK_INTERVAL)).await;
            if self.durable_applied() != durable {
                (since, durable) = (Instant::now(), self.durable_applied());
            }
            let is_due = match room() {
                Room::Plenty => since.elapsed() >= interval || self.has_much_unflushed(),
                Room::Little => true,
                Room::None => false,
            };
            if self.applied_log_id() == durable || is_due {
                return;
            }
        }
    }

    fn has_much_unflushed(&self) -> bool {
        let durable = self.durable_applied().map_or(0, |id| id.index);
        let state = self.state();
        state.applied_index().saturating_sub(durable) >= UNFLUSHED_ENTRIES_MAX
            || state.unflushed.moved() >= UNFLUSHED_KEYS_MAX
    }

    /// A durable and consistent view of the state as of now.
    pub(crate) async fn flushed_view(&self) -> Result<ReadTransaction, IndexError> {
        let _flushing = self.flush().await?;
        self.durable_view()
    }

    /// A view of the state of the last flush, which is what the file holds. The log has all that came after.
    pub(crate) fn durable_view(&self) -> Result<ReadTransaction, IndexError> {
        self.database()?.begin_read().map_err(IndexError::storage("begin a read"))
    }

    /// Replaces the state by another one, in one durable transaction.
    pub async fn install(&self, whole: WholeState) -> Result<(), IndexError> {
        let flushing = self.inner.flushing.clone().lock_owned().await;
        let turn = self.inner.turn.clone().lock_owned().await;
        self.check_whole()?;
        let index = self.clone();
        self.blocking(move || {
            let _rights = (flushing, turn);
            let WholeState { state, mut inventories } = whole;
            let transaction = index.begin_write()?;
            tables::write_whole(&transaction, &state, |id| inventories.remove(&id).unwrap_or_default())?;
            transaction.commit().map_err(IndexError::storage("commit"))?;
            let (applied, applied_index) = (state.applied, state.applied_index());
            index.inner.level.set(state.level());
            // The old state is dropped after the lock: that takes a while for millions of pairs.
            let _old = std::mem::replace(&mut *index.state_mut(), state);
            index.set_durable(applied);
            index.inner.applied.set(applied_index);
            Ok(())
        })
        .await
    }

    /// Makes the state that of a new cluster with one member, as if `membership` were its last entry: the
    /// holders stay, who was removed from the old cluster is nobody here. In one durable transaction.
    pub(crate) async fn begin_anew(&self, membership: StoredMembership) -> Result<(), IndexError> {
        {
            let _turn = self.inner.turn.lock().await;
            self.check_whole()?;
            self.state_mut().begin_anew(membership);
        }
        self.flush_durable().await?;
        self.inner.applied.set(self.state().applied_index());
        Ok(())
    }

    fn set_durable(&self, log_id: Option<LogId>) {
        *self.inner.durable.lock().unwrap_or_else(PoisonError::into_inner) = log_id;
    }

    /// Flushes and closes `state.redb`, so that it can be opened again; the file's lock is gone even
    /// if clones or views are left. Lookups in memory go on, everything else fails from now on.
    pub async fn close(&self) -> Result<(), IndexError> {
        let flushed = self.flush().await.map(drop);
        let flushing = self.inner.flushing.clone().lock_owned().await;
        let database = self.inner.database.write().unwrap_or_else(PoisonError::into_inner).take();
        // Somebody who reads an inventory just now closes it with his own drop.
        let Some(database) = database.and_then(Arc::into_inner) else { return flushed };
        let closed = self.blocking(move || {
            let _flushing = flushing;
            database.close().map_err(|source| IndexError::Open { source: Box::new(source) })
        });
        flushed.and(closed.await)
    }

    /// Runs `work`, which waits for the disk, off the runtime's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let done = self.inner.threads.blocking(|| IndexError::guarded_in_use(work)).await;
        done.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(IndexError::Stopping),
        })
    }

    fn begin_write(&self) -> Result<WriteTransaction, IndexError> {
        let mut transaction = self.database()?.begin_write().map_err(IndexError::storage("begin a write"))?;
        // Saves the allocator's state with the commit: reopening after a kill takes milliseconds.
        transaction.set_quick_repair(true);
        Ok(transaction)
    }
}

/// The index is broken if this goes before [`BrokenUnlessDone::done`]: by an error, a panic, and also when nobody
/// waits for the work any more. The changes that a flush took would be missing in the next one.
struct BrokenUnlessDone<'a>(Option<&'a Index>);

impl<'a> BrokenUnlessDone<'a> {
    fn new(index: &'a Index) -> Self {
        Self(Some(index))
    }

    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for BrokenUnlessDone<'_> {
    fn drop(&mut self) {
        if let Some(index) = self.0 {
            index.inner.broken.store(true, Ordering::Relaxed);
        }
    }
}
