//! Limits of the index. The leader checks them before it proposes: `apply` knows no limits, so that servers
//! of different versions cannot differ in what they apply. Writes under way at the same time may pass a limit
//! by their own number.
//!
//! A limit refuses what would add to the index, and nothing else: known hosts go on.

use piccolo_raft::index::{Counts, Index, IndexError};

use super::kind::WriteKind;
use crate::limits::{INDEX_GROUPS_MAX, INDEX_HOSTS_MAX, INDEX_KEYS_OF_A_HOLDER_MAX, INDEX_PAIRS_MAX};
use crate::server::error::{ApiError, Full};
use crate::server::requests::accepted::AcceptedWrite;

/// What the index has when a write comes.
#[derive(Clone, Copy, Debug)]
struct Found {
    counts: Counts,
    group_is_known: bool,
    /// Keys of the holder; `None` if the holder is new.
    keys: Option<u64>,
}

/// Refuses a write that would pass a limit. The caller has the lock of the holder.
///
/// # Errors
/// [`ApiError::Full`], or [`ApiError::Index`] if the inventory of the holder cannot be read.
pub fn check(index: &Index, kind: WriteKind, write: &AcceptedWrite) -> Result<(), ApiError> {
    let record = index.host(&write.holder);
    let found = Found {
        counts: index.counts(),
        group_is_known: record.is_some() || index.has_group(&write.holder.group),
        keys: record.map(|record| record.count),
    };
    let offered = write.keys.len() as u64;
    let after = keys_after(kind, found.keys.unwrap_or(0), offered);
    if refusal(found, after).is_some() && kind == WriteKind::Advertise {
        // Some of the keys may be in the index already: only here is that worth a look at the disk.
        let after = found.keys.unwrap_or(0) + new_keys(index, write)?;
        return refusal(found, after).map_or(Ok(()), |full| Err(full.into()));
    }
    refusal(found, after).map_or(Ok(()), |full| Err(full.into()))
}

/// Refuses a list that is longer than any holder may have, before the write waits for anything.
///
/// # Errors
/// [`Full::KeysOfAHolder`].
pub fn check_length(write: &AcceptedWrite) -> Result<(), Full> {
    let keys = write.keys.len() as u64;
    if keys > INDEX_KEYS_OF_A_HOLDER_MAX { Err(Full::KeysOfAHolder { keys }) } else { Ok(()) }
}

/// Upper bound of the holder's keys after the write.
fn keys_after(kind: WriteKind, keys: u64, offered: u64) -> u64 {
    match kind {
        WriteKind::Advertise => keys.saturating_add(offered),
        WriteKind::Withdraw => keys,
        WriteKind::Sync => offered,
    }
}

fn new_keys(index: &Index, write: &AcceptedWrite) -> Result<u64, IndexError> {
    let held = index.inventory(&write.holder)?.unwrap_or_default();
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
        let after =
            [WriteKind::Sync, WriteKind::Advertise, WriteKind::Withdraw].map(|kind| keys_after(kind, 10, 4));
        assert_eq!(after, [4, 14, 10]);
    }
}
