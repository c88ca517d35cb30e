//! The writing side of [`Index`]: apply, flush, snapshot, install, close.

use std::sync::{Arc, PoisonError};

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use redb::{Durability, ReadableDatabase, WriteTransaction};
use tokio_util::sync::CancellationToken;

use super::apply::{self, Batch};
use super::{FLUSH_INTERVAL, Index, IndexError, tables};
#[cfg(test)]
use crate::command::Command;
use crate::command::Reply;
#[cfg(test)]
use crate::sim::world::{Fault, bits, is_broken, is_broken_on};
use crate::snapshot::{Received, SnapshotData};
use crate::types::{Entry, LogId, SnapshotMeta, StoredMembership};

/// The right to commit, and what the last commits came to.
pub(super) struct Turn {
    /// The last applied entry that redb has, durable or not.
    pub(super) committed: Option<LogId>,
    /// A batch failed half-way: memory is ahead of redb, nothing more may be applied.
    pub(super) broken: bool,
}

type OwnedTurn = tokio::sync::OwnedMutexGuard<Turn>;

impl Index {
    /// Applies entries in one non-durable transaction; one reply each, in order. Not to be called
    /// beside a running [`super::StateMachine`] of the same index.
    pub async fn apply(&self, entries: &[Entry]) -> Result<Vec<Reply>, IndexError> {
        let mut turn = self.inner.turn.lock().await;
        if turn.broken {
            return Err(IndexError::Broken);
        }
        let Some(last) = entries.last() else { return Ok(Vec::new()) };
        turn.broken = true;
        let replies = IndexError::guarded_in_use(|| self.apply_batch(entries))?;
        *turn = Turn { committed: Some(last.log_id()), broken: false };
        self.inner.applied.send_replace(last.log_id().index);
        Ok(replies)
    }

    fn apply_batch(&self, entries: &[Entry]) -> Result<Vec<Reply>, IndexError> {
        let transaction = self.begin_write(Durability::None)?;
        let mut batch = Batch::default();
        let mut replies = Vec::with_capacity(entries.len());
        for entry in entries {
            replies.push(self.apply_entry(&transaction, &mut batch, entry)?);
        }
        tables::write_batch(&transaction, &self.state(), &batch)?;
        transaction.commit().map_err(IndexError::storage("commit"))?;
        Ok(replies)
    }

    fn apply_entry(
        &self,
        transaction: &WriteTransaction,
        batch: &mut Batch,
        entry: &Entry,
    ) -> Result<Reply, IndexError> {
        let log_id = entry.log_id();
        let host = match &entry.payload {
            EntryPayload::Normal(command) => {
                apply::holder_of(command).and_then(|holder| self.state().host_id(holder))
            }
            _ => None,
        };
        if let Some(host) = host
            && !batch.has_inventory(host)
        {
            batch.load(host, tables::read_inventory(transaction, host)?);
        }
        let mut state = self.state_mut();
        let reply = match &entry.payload {
            EntryPayload::Blank => Reply::None,
            #[cfg(test)]
            EntryPayload::Normal(command) if is_skipped(command) => Reply::Applied { changed: 0 },
            #[cfg(test)]
            EntryPayload::Normal(hide @ Command::Hide { holder, unix_ms, .. })
                if is_broken(Fault::HideDeletes) =>
            {
                let forget = Command::Forget { holder: holder.clone(), hidden_unix_ms: *unix_ms };
                state.apply(batch, log_id.index, hide);
                state.apply(batch, log_id.index, &forget)
            }
            EntryPayload::Normal(command) => state.apply(batch, log_id.index, command),
            EntryPayload::Membership(membership) => {
                state.membership = StoredMembership::new(Some(log_id), membership.clone());
                batch.membership = true;
                Reply::None
            }
        };
        state.applied = Some(log_id);
        Ok(reply)
    }

    /// Makes everything applied so far durable. Returns at once, without touching the disk, if it is
    /// already.
    pub async fn flush_durable(&self) -> Result<(), IndexError> {
        let turn = self.inner.turn.clone().lock_owned().await;
        self.flush_in_turn(turn).await.map(drop)
    }

    /// The turn goes along with the work: it is not given up when the caller is.
    async fn flush_in_turn(&self, turn: OwnedTurn) -> Result<OwnedTurn, IndexError> {
        if turn.committed == self.durable_applied() {
            return Ok(turn);
        }
        let index = self.clone();
        blocking(move || {
            let transaction = index.begin_write(Durability::Immediate)?;
            transaction.commit().map_err(IndexError::storage("commit"))?;
            index.set_durable(turn.committed);
            Ok(turn)
        })
        .await
    }

    /// Flushes within [`FLUSH_INTERVAL`] of news, and a last time after `stop`; sleeps while there
    /// is none, so that an idle site writes nothing. While there is no `room` it waits: the log has it all.
    pub async fn run_flusher(
        &self,
        stop: CancellationToken,
        room: impl Fn() -> bool,
    ) -> Result<(), IndexError> {
        let mut applied = self.applied_watch();
        applied.mark_changed();
        while stop.run_until_cancelled(applied.changed()).await.is_some() {
            if stop.run_until_cancelled(tokio::time::sleep(FLUSH_INTERVAL)).await.is_none() {
                break;
            }
            if !room() {
                applied.mark_changed();
                continue;
            }
            applied.mark_unchanged();
            self.flush_durable().await?;
        }
        self.flush_durable().await
    }

    /// A durable and consistent view of the state, to be streamed.
    pub async fn snapshot(&self) -> Result<(SnapshotMeta, SnapshotData), IndexError> {
        let turn = self.inner.turn.clone().lock_owned().await;
        let turn = self.flush_in_turn(turn).await?;
        let transaction = self.database()?.begin_read().map_err(IndexError::storage("begin a read"))?;
        drop(turn);
        SnapshotData::view(&transaction)
    }

    /// Replaces the state by a received one, in one durable transaction.
    pub async fn install(&self, received: Received) -> Result<(), IndexError> {
        let mut turn = self.inner.turn.clone().lock_owned().await;
        if turn.broken {
            return Err(IndexError::Broken);
        }
        let index = self.clone();
        blocking(move || {
            let Received { state, mut inventories } = received;
            let transaction = index.begin_write(Durability::Immediate)?;
            tables::write_whole(&transaction, &state, |id| inventories.remove(&id).unwrap_or_default())?;
            transaction.commit().map_err(IndexError::storage("commit"))?;
            let (applied, applied_index) = (state.applied, state.applied_index());
            // The old state is dropped after the lock: that takes a while for millions of pairs.
            let _old = std::mem::replace(&mut *index.state_mut(), state);
            turn.committed = applied;
            index.set_durable(applied);
            index.inner.applied.send_replace(applied_index);
            Ok(())
        })
        .await
    }

    /// Makes the state that of a new cluster with one member, as if `membership` were its last entry: the
    /// holders stay, who was removed from the old cluster is nobody here. In one durable transaction.
    pub(crate) async fn begin_anew(&self, membership: StoredMembership) -> Result<(), IndexError> {
        let mut turn = self.inner.turn.clone().lock_owned().await;
        if turn.broken {
            return Err(IndexError::Broken);
        }
        let index = self.clone();
        blocking(move || {
            index.state_mut().begin_anew(membership);
            let transaction = index.begin_write(Durability::Immediate)?;
            let batch = Batch { membership: true, tombstones: true, ..Batch::default() };
            tables::write_batch(&transaction, &index.state(), &batch)?;
            transaction.commit().map_err(IndexError::storage("commit"))?;
            let (applied, applied_index) = (index.state().applied, index.state().applied_index());
            turn.committed = applied;
            index.set_durable(applied);
            index.inner.applied.send_replace(applied_index);
            Ok(())
        })
        .await
    }

    fn set_durable(&self, log_id: Option<LogId>) {
        *self.inner.durable.lock().unwrap_or_else(PoisonError::into_inner) = log_id;
    }

    /// Flushes and closes `state.redb`, so that it can be opened again; the file's lock is gone even
    /// if clones or views are left. Lookups in memory go on, everything else fails from now on.
    pub async fn close(&self) -> Result<(), IndexError> {
        let turn = self.inner.turn.clone().lock_owned().await;
        let turn = self.flush_in_turn(turn).await?;
        let database = self.inner.database.write().unwrap_or_else(PoisonError::into_inner).take();
        // Somebody who reads an inventory just now closes it with his own drop.
        let Some(database) = database.and_then(Arc::into_inner) else { return Ok(()) };
        blocking(move || {
            let _turn = turn;
            database.close().map_err(|source| IndexError::Open { source: Box::new(source) })
        })
        .await
    }

    fn begin_write(&self, durability: Durability) -> Result<WriteTransaction, IndexError> {
        let mut transaction = self.database()?.begin_write().map_err(IndexError::storage("begin a write"))?;
        transaction.set_durability(durability).map_err(IndexError::storage("set durability"))?;
        // Saves the allocator's state with the commit: reopening after a kill takes milliseconds.
        transaction.set_quick_repair(matches!(durability, Durability::Immediate));
        Ok(transaction)
    }
}

/// What a broken build does not apply.
#[cfg(test)]
fn is_skipped(command: &Command) -> bool {
    match command {
        Command::Withdraw(_) => is_broken_on(1, Fault::WithdrawSkippedOnOne),
        Command::Advertise(_) => {
            is_broken_on(1, Fault::DiceInApplyOfOne) && bits().is_some_and(|bits| bits % 16 == 0)
        }
        _ => false,
    }
}

/// Runs `work`, which waits for the disk, off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    crate::blocking::blocking(|| IndexError::guarded_in_use(work)).await.unwrap_or(Err(IndexError::Stopping))
}
