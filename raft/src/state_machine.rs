//! The index as openraft's state machine.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, type_config::alias::SnapshotOf};

use crate::index::{Index, IndexError};
use crate::limits::{APPLY_ENTRIES_MAX, APPLY_KEYS_MAX};
use crate::snapshot::SnapshotData;
use crate::types::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig};

type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;

/// openraft over our state machine.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// What openraft applies to. All data is in the [`Index`], which outlives it.
pub struct StateMachine {
    index: Index,
    /// A snapshot was built or installed by this process. None is kept: the state is durable, and a
    /// snapshot is read from it when somebody asks.
    snapshot_exists: Arc<AtomicBool>,
}

/// Makes the state durable, and a snapshot of it.
pub struct SnapshotBuilder {
    index: Index,
    snapshot_exists: Arc<AtomicBool>,
}

impl StateMachine {
    /// The state machine over `index`; one per index.
    pub fn new(index: Index) -> Self {
        Self { index, snapshot_exists: Arc::default() }
    }

    /// How many keys an entry moves.
    fn keys_in(&self, entry: &Entry) -> usize {
        match &entry.payload {
            EntryPayload::Normal(command) => self.index.keys_moved_by(command),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        }
    }

    async fn apply_batch(
        &self,
        entries: &mut Vec<Entry>,
        responders: &mut Vec<Option<ApplyResponder<TypeConfig>>>,
    ) -> Result<(), IndexError> {
        let replies = self.index.apply(entries).await?;
        for (responder, reply) in responders.drain(..).zip(replies) {
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        entries.clear();
        tokio::task::yield_now().await;
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self.index.applied_state())
    }

    async fn apply<S>(&mut self, mut stream: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let (mut entries, mut responders, mut keys) = (Vec::new(), Vec::new(), 0);
        while let Some((entry, responder)) = stream.try_next().await? {
            keys += self.keys_in(&entry);
            entries.push(entry);
            responders.push(responder);
            if entries.len() >= APPLY_ENTRIES_MAX || keys >= APPLY_KEYS_MAX {
                self.apply_batch(&mut entries, &mut responders).await.map_err(io::Error::other)?;
                keys = 0;
            }
        }
        self.apply_batch(&mut entries, &mut responders).await.map_err(io::Error::other)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { index: self.index.clone(), snapshot_exists: self.snapshot_exists.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        let state = data.into_whole(meta).map_err(io::Error::other)?;
        self.index.install(state).await.map_err(io::Error::other)?;
        self.snapshot_exists.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Read anew from the durable state: as new as the last one that was built or installed, or newer, and never
    /// older than what the log still has. Nothing is flushed for it: openraft applies nothing meanwhile, and a
    /// disk without room would end a leader that can still answer.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        if !self.snapshot_exists.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let (meta, snapshot) = SnapshotData::of_last_flush(&self.index).map_err(io::Error::other)?;
        Ok(Some(Snapshot { meta, snapshot }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (meta, snapshot) = SnapshotData::of(&self.index).await.map_err(io::Error::other)?;
        self.snapshot_exists.store(true, Ordering::Relaxed);
        Ok(Snapshot { meta, snapshot })
    }
}
