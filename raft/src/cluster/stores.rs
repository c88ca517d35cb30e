//! Whether log and state belong together, looked at before a node speaks.

use crate::index::Index;
use crate::log::LogStore;

use super::StartError;

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
