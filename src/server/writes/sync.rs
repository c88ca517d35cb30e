//! A sync: the holder has exactly these keys. The leader proposes the difference to what it has applied, so
//! that an unchanged node costs one small entry, and a client without pairs none.
//!
//! Then it compares again: an entry of an earlier write whose outcome was unknown may have been applied
//! before its own. Entries carry the pair and are refused if stale, so a repetition is safe.
//!
//! Without a pair and without an entry, no majority has confirmed anything of the answer. So such a sync
//! first has it confirmed that this server still leads and that no committed entry is missing here: a server
//! that does not know yet that another one leads would acknowledge an outdated set.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use piccolo_raft::cluster::Node;
use piccolo_raft::command::{Command, Write};
use piccolo_raft::index::{HostRecord, Index};
use piccolo_raft::model::Pair;

use super::entries::Difference;
use super::propose::{after_a_part, propose, refuse_without_room};
use crate::limits::SYNC_ROUNDS;
use crate::server::error::ApiError;
use crate::server::leases::table::LeaseTable;
use crate::server::requests::accepted::AcceptedWrite;

/// Makes the keys of `write` the inventory of its holder, on the leader. The caller has the lock of the
/// holder. Returns the log index at which that holds.
///
/// # Errors
/// [`ApiError::OutcomeUnknown`] once a part of the write may have been done; otherwise why nothing was done.
pub(super) async fn sync(
    node: &Node,
    index: &Index,
    leases: &LeaseTable,
    write: &AcceptedWrite,
) -> Result<u64, ApiError> {
    // Computed when it is first needed: keys that the index has by then are not hashed again.
    let wanted = LazyLock::new(|| index.fingerprint_of(&write.keys));
    let mut written = None;
    // A stored pair means that an entry of this very write was applied.
    let mut confirmed = write.pair.is_some();
    for _ in 0..SYNC_ROUNDS {
        let record = index.host(&write.holder);
        let stored = record.as_ref().and_then(|record| record.pair);
        refuse_stale(write.pair, stored)?;
        if let Some(commands) = introduction(write, record.as_ref()) {
            refuse_without_room(node).map_err(|error| after_a_part(written.is_some(), error))?;
            // An introduction may be repeated, so a write that is refused after it has changed nothing.
            for command in commands {
                propose(node, vec![command]).await?;
            }
            confirmed = true;
            continue;
        }
        let pair_is_stored = write.pair.is_none() || stored == write.pair;
        // Equal fingerprints say that nothing has to change, without a look at the disk.
        let same =
            |record: &HostRecord| record.count == write.keys.len() as u64 && record.fingerprint == *wanted;
        // A hidden host is shown again by an entry, whether or not its keys have changed.
        let visible = record.as_ref().filter(|record| record.is_visible());
        if let Some(record) = visible.filter(|record| pair_is_stored && same(record)) {
            if !confirmed {
                node.catch_up().await?;
                confirmed = true;
                continue;
            }
            leases.renew(&write.holder, record.ttl_seconds);
            return Ok(written.unwrap_or_else(|| record.last_write_index.max(index.applied_index())));
        }
        refuse_without_room(node).map_err(|error| after_a_part(written.is_some(), error))?;
        let difference = match &record {
            Some(record) if same(record) => Difference::default(),
            Some(record) if record.count == 0 => Difference::between(&BTreeSet::new(), &write.keys),
            None => Difference::between(&BTreeSet::new(), &write.keys),
            Some(_) => difference(index, write)?,
        };
        let proposed = propose(node, difference.entries(&write.holder, write.pair)).await;
        written = Some(proposed.map_err(|error| after_a_part(written.is_some(), error))?);
        confirmed = true;
    }
    tracing::warn!(
        holder = %write.holder.address,
        "a sync did not end with the fingerprint that the holder has sent: the holder syncs again"
    );
    Err(ApiError::OutcomeUnknown)
}

/// The difference between what is applied and the keys of `write`. An inventory that cannot be read is an
/// error: nothing is deleted on a guess (I3).
fn difference(index: &Index, write: &AcceptedWrite) -> Result<Difference, ApiError> {
    let applied = index.inventory(&write.holder)?.unwrap_or_default();
    Ok(Difference::between(&applied, &write.keys))
}

/// The commands that make the zone and the lease of the host known, before it has keys: a zone that comes
/// later would move the host in the postings of all its keys. `None` if both are known, or if the write names
/// neither.
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
