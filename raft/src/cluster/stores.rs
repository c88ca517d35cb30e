//! What a node keeps on its disk, and whether log and state belong together: looked at before it speaks.

use std::error::Error;
use std::sync::Arc;

use crate::disk::Disk;
use crate::errors::chain;
use crate::index::Index;
use crate::log::LogStore;
use crate::space::Guard;
use crate::threads::Threads;

use super::{NodeFailure, StartError};

/// The disk of a node and its two databases; clones share them.
#[derive(Clone)]
pub(super) struct Stores {
    pub(super) disk: Arc<dyn Disk>,
    /// Where work that waits for the disk is done.
    pub(super) threads: Arc<dyn Threads>,
    pub(super) guard: Arc<Guard>,
    pub(super) log: LogStore,
    pub(super) index: Index,
}

impl Stores {
    /// Why a node ends by `error`. Behind most errors of the storage is one of the disk, which says more.
    pub(super) fn failure(&self, error: impl Error + Send + Sync + 'static) -> NodeFailure {
        if let Some(unknown) = self.index.refused_level() {
            return NodeFailure::Level(unknown);
        }
        match self.disk.fault() {
            Some(fault) => {
                tracing::error!(error = chain(&error), "the storage failed");
                fault.into()
            }
            None => NodeFailure::Broken(Arc::new(error)),
        }
    }
}

/// Whether log and state are of one node's life: openraft takes a lost one for a new node.
pub(super) fn check_stores(log: &LogStore, index: &Index) -> Result<(), StartError> {
    let durable = index.durable_applied();
    let applied = durable.map(|id| id.index);
    let purged = log.purged().map(|id| id.index);
    match (applied, purged) {
        (Some(applied), _) if !log.is_used() => return Err(StartError::LogLost { applied }),
        (_, Some(purged)) if applied.is_none_or(|applied| applied < purged) => {
            return Err(StartError::StateLost { purged, applied: applied.unwrap_or(0) });
        }
        _ => {}
    }
    // A vote is on disk before an entry of its term is taken in.
    let voted = log.vote().map_or(0, |vote| vote.leader_id.term);
    match durable.map(|id| id.committed_leader_id().term) {
        Some(applied) if applied > voted => Err(StartError::LogOlder { applied, voted }),
        _ => Ok(()),
    }
}
