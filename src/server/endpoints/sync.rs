//! `POST /api/v1/distribution/sync`: the holder has exactly these keys. The leader proposes the
//! difference to what it has applied, so an unchanged node costs one small entry, and a client
//! without pairs none.
//!
//! Then it looks again: an entry of an earlier write whose outcome was unknown may have been applied
//! in front of ours. Entries carry the pair and are refused if stale, so a repetition is safe.
//!
//! Without a pair and without an entry nothing of the answer has been at a majority. So a sync of that kind
//! has it confirmed first that this server still leads, and that nothing committed is missing here: a
//! server that does not know yet that another leads would acknowledge a set that is no more.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use piccolo_raft::command::{Command, Write};
use piccolo_raft::index::HostRecord;
use piccolo_raft::model::Pair;

use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::requests::accepted::AcceptedWrite;
use crate::server::writes::entries::Difference;
use crate::server::writes::{after_a_part, propose, refuse_without_room};

/// Looks that a sync takes at what is applied. The first may find a host to be introduced, or nothing to
/// do, which is then looked at again; the one after its own entries what an earlier write left under way;
/// nothing can add to that, because the holder's turn is ours.
const ROUNDS: usize = 4;

/// On the leader, in the holder's turn; the log index of the write.
pub async fn apply(app: &App, write: &AcceptedWrite) -> Result<u64, ApiError> {
    // When it is first needed: what has just been applied is then at hand.
    let wanted = LazyLock::new(|| app.index.fingerprint_of(&write.keys));
    let mut index = None;
    // A stored pair is an entry of this very write.
    let mut confirmed = write.pair.is_some();
    for _ in 0..ROUNDS {
        let record = app.index.host(&write.holder);
        let stored = record.as_ref().and_then(|record| record.pair);
        refuse_stale(write.pair, stored)?;
        if let Some(commands) = introduction(write, record.as_ref()) {
            refuse_without_room(app).map_err(|error| after_a_part(index.is_some(), error))?;
            // It may be done twice, so it is no part of the write: refused after it is refused.
            for command in commands {
                propose(app, vec![command]).await?;
            }
            confirmed = true;
            continue;
        }
        let pair_is_stored = write.pair.is_none() || stored == write.pair;
        // Equal sums say that nothing has to change, without a look at the disk.
        let same =
            |record: &HostRecord| record.count == write.keys.len() as u64 && record.fingerprint == *wanted;
        // A hidden host is shown again by an entry, whether or not its keys have changed.
        let visible = record.as_ref().filter(|record| record.is_visible());
        if let Some(record) = visible.filter(|record| pair_is_stored && same(record)) {
            if !confirmed {
                app.node.catch_up().await?;
                confirmed = true;
                continue;
            }
            app.leases().renew(&write.holder, record.ttl_seconds, app.now());
            return Ok(index.unwrap_or_else(|| record.last_write_index.max(app.index.applied_index())));
        }
        refuse_without_room(app).map_err(|error| after_a_part(index.is_some(), error))?;
        let difference = match &record {
            Some(record) if same(record) => Difference::default(),
            Some(record) if record.count == 0 => Difference::between(&BTreeSet::new(), &write.keys),
            None => Difference::between(&BTreeSet::new(), &write.keys),
            Some(_) => difference(app, write)?,
        };
        let proposed = propose(app, difference.entries(&write.holder, write.pair)).await;
        index = Some(proposed.map_err(|error| after_a_part(index.is_some(), error))?);
        confirmed = true;
    }
    tracing::warn!(
        holder = %write.holder.address,
        "a sync did not end with the fingerprint that the holder has sent: the holder syncs again"
    );
    Err(ApiError::OutcomeUnknown)
}

/// What makes the host known by its zone and lease, before it has keys: a zone that comes later moves
/// the host in the postings of all its keys. `None` if it is known so, or the write tells neither.
fn introduction(write: &AcceptedWrite, record: Option<&HostRecord>) -> Option<Vec<Command>> {
    let known = record.map(|record| (record.zone.as_str(), record.ttl_seconds));
    let (zone_known, ttl_known) = known.unwrap_or_default();
    let zone = write.zone.as_deref().unwrap_or(zone_known);
    let ttl_seconds = write.ttl_seconds.unwrap_or(ttl_known);
    if (zone, ttl_seconds) == (zone_known, ttl_known) {
        return None;
    }
    let set = Command::SetHost { holder: write.holder.clone(), zone: zone.to_owned(), ttl_seconds };
    let create = || {
        let empty =
            Write { holder: write.holder.clone(), pair: write.pair, stores_pair: false, keys: vec![] };
        Command::Advertise(empty)
    };
    Some(record.is_none().then(create).into_iter().chain([set]).collect())
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
