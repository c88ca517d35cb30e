//! What the whole index may hold. The leader looks before it proposes: `apply` knows no limits, so
//! that servers of different versions cannot differ in what they apply. Writes under way at the same
//! time may pass a limit by their own number.
//!
//! Hosts that are there go on: a limit refuses what would add, and nothing else.

use piccolo_raft::index::{Counts, IndexError};

use crate::limits::{INDEX_GROUPS_MAX, INDEX_HOSTS_MAX, INDEX_KEYS_OF_A_HOLDER_MAX, INDEX_PAIRS_MAX};
use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::requests::accepted::AcceptedWrite;
use crate::server::writes::Kind;

/// A limit of the index that a write would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Distinct groups.
    #[error("the index holds {INDEX_GROUPS_MAX} groups, the limit")]
    Groups,
    /// Hosts, hidden ones included.
    #[error("the index holds {INDEX_HOSTS_MAX} hosts, the limit")]
    Hosts,
    /// Keys of one holder.
    #[error("the holder would have {keys} keys or more, the limit is {INDEX_KEYS_OF_A_HOLDER_MAX}")]
    KeysOfAHolder {
        /// How many.
        keys: u64,
    },
    /// Pairs of key and holder.
    #[error("the index holds {pairs} pairs of key and holder, the limit is {INDEX_PAIRS_MAX}")]
    Pairs {
        /// How many.
        pairs: u64,
    },
}

/// What a write finds.
#[derive(Clone, Copy, Debug)]
struct Found {
    counts: Counts,
    group_is_known: bool,
    /// Keys of its holder; `None`: a new one.
    keys: Option<u64>,
}

/// Refuses a write that would pass a limit. In the holder's turn.
pub fn check(app: &App, kind: Kind, write: &AcceptedWrite) -> Result<(), ApiError> {
    let record = app.index.host(&write.holder);
    let found = Found {
        counts: app.index.counts(),
        group_is_known: record.is_some() || app.index.has_group(&write.holder.group),
        keys: record.map(|record| record.count),
    };
    let offered = write.keys.len() as u64;
    let after = keys_after(kind, found.keys.unwrap_or(0), offered);
    if refusal(found, after).is_some() && kind == Kind::Advertise {
        // It may offer again what it has: only here is that worth a look at the disk.
        let after = found.keys.unwrap_or(0) + new_keys(app, write)?;
        return refusal(found, after).map_or(Ok(()), |full| Err(full.into()));
    }
    refusal(found, after).map_or(Ok(()), |full| Err(full.into()))
}

/// Refuses a list that is longer than any holder's, before it waits for anything.
pub fn check_length(write: &AcceptedWrite) -> Result<(), Full> {
    let keys = write.keys.len() as u64;
    if keys > INDEX_KEYS_OF_A_HOLDER_MAX { Err(Full::KeysOfAHolder { keys }) } else { Ok(()) }
}

/// The most keys that the holder has after the write.
fn keys_after(kind: Kind, keys: u64, offered: u64) -> u64 {
    match kind {
        Kind::Advertise => keys.saturating_add(offered),
        Kind::Withdraw => keys,
        Kind::Sync => offered,
    }
}

fn new_keys(app: &App, write: &AcceptedWrite) -> Result<u64, IndexError> {
    let held = app.index.inventory(&write.holder)?.unwrap_or_default();
    Ok(write.keys.iter().filter(|key| !held.contains(*key)).count() as u64)
}

fn refusal(found: Found, after: u64) -> Option<Full> {
    let Found { counts, group_is_known, keys } = found;
    if keys.is_none() && counts.hosts >= INDEX_HOSTS_MAX {
        return Some(Full::Hosts);
    }
    if !group_is_known && counts.groups >= INDEX_GROUPS_MAX {
        return Some(Full::Groups);
    }
    let added = after.saturating_sub(keys.unwrap_or(0));
    if added > 0 && after > INDEX_KEYS_OF_A_HOLDER_MAX {
        return Some(Full::KeysOfAHolder { keys: after });
    }
    (added > 0 && counts.pairs.saturating_add(added) > INDEX_PAIRS_MAX)
        .then_some(Full::Pairs { pairs: counts.pairs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(groups: u64, hosts: u64, pairs: u64, group_is_known: bool, keys: Option<u64>) -> Found {
        Found { counts: Counts { groups, hosts, pairs, ..Counts::default() }, group_is_known, keys }
    }

    #[test]
    fn a_limit_refuses_what_would_add_and_nothing_else() {
        let (groups, hosts) = (INDEX_GROUPS_MAX, INDEX_HOSTS_MAX);
        let (most, pairs) = (INDEX_KEYS_OF_A_HOLDER_MAX, INDEX_PAIRS_MAX);
        for (what, found, after, full) in [
            ("the last group", found(groups - 1, 1, 0, false, None), 1, None),
            ("one group more", found(groups, 1, 0, false, None), 1, Some(Full::Groups)),
            ("a new host in a known group", found(groups, 1, 0, true, None), 1, None),
            ("the last host", found(1, hosts - 1, 0, true, None), 1, None),
            ("one host more", found(1, hosts, 0, true, None), 1, Some(Full::Hosts)),
            ("a known host", found(groups, hosts, 0, true, Some(7)), 8, None),
            ("the last key", found(1, 1, 0, true, Some(most - 1)), most, None),
            (
                "one key more",
                found(1, 1, 0, true, Some(most)),
                most + 1,
                Some(Full::KeysOfAHolder { keys: most + 1 }),
            ),
            ("fewer keys than over the limit", found(1, 1, 0, true, Some(most + 9)), most + 1, None),
            ("the last pair", found(1, 1, pairs - 1, true, Some(7)), 8, None),
            ("one pair more", found(1, 1, pairs, true, Some(7)), 8, Some(Full::Pairs { pairs })),
            ("fewer pairs", found(1, 1, pairs + 5, true, Some(7)), 6, None),
            ("the same pairs", found(groups, hosts, pairs, true, Some(7)), 7, None),
        ] {
            assert_eq!(refusal(found, after), full, "{what}");
        }
    }

    #[test]
    fn a_sync_replaces_an_advertise_adds_and_a_withdraw_does_neither() {
        let after = [Kind::Sync, Kind::Advertise, Kind::Withdraw].map(|kind| keys_after(kind, 10, 4));
        assert_eq!(after, [4, 14, 10]);
    }
}
