//! `POST /api/v1/distribution/sync`: the holder has exactly these keys. The leader proposes the
//! difference to what it has applied, so an unchanged node costs one small entry, and a client
//! without pairs none.
//!
//! Then it looks again: an entry of an earlier write whose outcome was unknown may have been applied
//! in front of ours. Entries carry the pair and are refused if stale, so a repetition is safe.

use piccolo_raft::command::Pair;
use piccolo_raft::index::HostRecord;

use super::app::App;
use super::entries::Difference;
use super::error::ApiError;
use super::request::AcceptedWrite;
use super::write::{after_a_part, propose};

/// Looks at the inventory that a sync gets. The second one finds what an earlier write left under
/// way; nothing can add to that, because the holder's turn is ours.
const ROUNDS: usize = 3;

/// On the leader, in the holder's turn; the log index of the write.
pub async fn apply(app: &App, write: &AcceptedWrite) -> Result<u64, ApiError> {
    let mut index = None;
    for _ in 0..ROUNDS {
        let record = app.index.host(&write.holder);
        let stored = record.as_ref().and_then(|record| record.pair);
        refuse_stale(write.pair, stored)?;
        let difference = difference(app, write)?;
        let pair_is_stored = write.pair.is_none() || stored == write.pair;
        // A hidden host is shown again by an entry, whether or not its keys have changed.
        let visible = record.filter(HostRecord::is_visible);
        if let Some(record) = visible.filter(|_| pair_is_stored && difference.is_empty()) {
            app.leases().renew(&write.holder, record.ttl_seconds, app.now());
            return Ok(index.unwrap_or_else(|| app.index.applied_index()));
        }
        let proposed = propose(app, difference.entries(&write.holder, write.pair)).await;
        index = Some(proposed.map_err(|error| after_a_part(index.is_some(), error))?);
    }
    tracing::warn!(holder = %write.holder.address, "a sync did not settle");
    Err(ApiError::OutcomeUnknown)
}

fn refuse_stale(pair: Option<Pair>, stored: Option<Pair>) -> Result<(), ApiError> {
    match (pair, stored) {
        (Some(pair), Some(stored)) if pair < stored => Err(ApiError::Stale { stored }),
        _ => Ok(()),
    }
}

/// An inventory that cannot be read ends the request: nothing is deleted on a guess (I3, B14).
fn difference(app: &App, write: &AcceptedWrite) -> Result<Difference, ApiError> {
    let applied = app.index.inventory(&write.holder)?.unwrap_or_default();
    Ok(Difference::between(&applied, &write.keys))
}
