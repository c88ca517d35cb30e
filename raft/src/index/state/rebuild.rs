//! The state from what is stored: at start, and from a snapshot. Twenty million pairs are a second's
//! work: each list is made once, at its size.

use super::super::IndexError;
use super::super::changes::Changes;
use super::super::postings::PostingList;
use super::{IndexState, Parts};
use crate::model::{Fingerprint, HOST_IDS_MAX, KEY_IDS_MAX};

/// A group whose pairs are fewer than the keys divided by this is sorted instead of counted.
const COUNTED_SHARE: usize = 4;

/// What is counted of each key, by id.
struct Keys {
    fingerprints: Vec<Option<u128>>,
    uses: Vec<u32>,
}

impl IndexState {
    /// Builds the state from its parts and checks it: every id known, every key used, fingerprints
    /// and counts as stored. `inventory_of` appends the key ids of a host, ascending; it is asked
    /// twice for each.
    pub(crate) fn build(
        parts: Parts,
        inventory_of: impl Fn(u32, &mut Vec<u32>) -> Result<(), IndexError>,
    ) -> Result<Self, IndexError> {
        let applied_index = parts.applied.as_ref().map_or(0, |id| id.index);
        let mut state = Self {
            applied: parts.applied,
            membership: parts.membership,
            changes: Changes::starting_at(applied_index),
            levels: parts.levels,
            #[cfg(any(test, feature = "next-format"))]
            noted: parts.noted,
            ..Self::default()
        };
        state.checksum = state.checksum_of_levels();
        for node_id in parts.tombstones {
            state.add_tombstone(node_id);
        }
        for (id, key) in parts.keys {
            check_id("key", id, KEY_IDS_MAX)?;
            if !state.keys.restore(id, key) {
                return Err(damaged(format!("key {id} is there twice")));
            }
        }
        for (id, record) in parts.hosts {
            check_id("host", id, HOST_IDS_MAX)?;
            state.restore_host(id, record)?;
        }
        for (_, group) in state.groups.iter() {
            group.number(&mut state.labels);
        }
        let ids = 0..state.keys.ids_end() as u32;
        let fingerprints: Vec<_> = ids.map(|id| state.keys.fingerprint(id)).collect();
        let mut keys = Keys { uses: vec![0; fingerprints.len()], fingerprints };
        let groups: Vec<Vec<u32>> =
            state.groups.iter().map(|(_, group)| group.order().hosts().collect()).collect();
        for hosts in groups {
            state.restore_group(&hosts, &mut keys, &inventory_of)?;
        }
        for (id, &uses) in (0..).zip(&keys.uses) {
            if uses > 0 {
                state.keys.use_again(id, uses);
            }
        }
        match state.keys.unused() {
            Some(key) => Err(damaged(format!("nobody has key {key}"))),
            None => Ok(state),
        }
    }

    /// All hosts of one group, in the order of postings.
    fn restore_group(
        &mut self,
        hosts: &[u32],
        keys: &mut Keys,
        inventory_of: &impl Fn(u32, &mut Vec<u32>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let Some(&first) = hosts.first() else { return Ok(()) };
        let group = self.host_slot(first).group;
        let visible: Vec<u32> =
            hosts.iter().copied().filter(|&host| self.host_slot(host).record.is_visible()).collect();
        let mut inventory = Vec::new();
        for &host in hosts {
            inventory.clear();
            inventory_of(host, &mut inventory)?;
            self.check_inventory(host, &inventory, keys)?;
            self.pairs += inventory.len() as u64;
        }
        let pairs: u64 = visible.iter().map(|&host| self.host_slot(host).record.count).sum();
        if (pairs as usize) < keys.uses.len() / COUNTED_SHARE {
            self.restore_by_sorting(group, &visible, inventory_of)
        } else {
            self.restore_by_counting(group, &visible, pairs as usize, keys.uses.len(), inventory_of)
        }
    }

    /// A host's inventory is what its record says of it.
    fn check_inventory(&self, host: u32, inventory: &[u32], keys: &mut Keys) -> Result<(), IndexError> {
        let mut sum = Fingerprint::default();
        for &key in inventory {
            let Some(Some(fingerprint)) = keys.fingerprints.get(key as usize) else {
                return Err(damaged(format!("host {host} has the unknown key {key}")));
            };
            sum.0 = sum.0.wrapping_add(*fingerprint);
            keys.uses[key as usize] += 1;
        }
        let record = &self.host_slot(host).record;
        if record.fingerprint == sum && record.count == inventory.len() as u64 {
            return Ok(());
        }
        Err(damaged(format!(
            "host {} has {} keys with fingerprint {sum}, its record says {} with {}",
            record.holder.address,
            inventory.len(),
            record.count,
            record.fingerprint
        )))
    }

    /// For few pairs: pairs by key, those of one key in the order of hosts.
    fn restore_by_sorting(
        &mut self,
        group: u32,
        hosts: &[u32],
        inventory_of: &impl Fn(u32, &mut Vec<u32>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let (mut pairs, mut inventory) = (Vec::new(), Vec::new());
        for &host in hosts {
            inventory.clear();
            inventory_of(host, &mut inventory)?;
            pairs.extend(inventory.iter().map(|&key| (key, host)));
        }
        pairs.sort_by_key(|(key, _)| *key);
        for same in pairs.chunk_by(|a, b| a.0 == b.0) {
            let hosts: Vec<u32> = same.iter().map(|(_, host)| *host).collect();
            self.keys.lists_mut(same[0].0).restore(group, PostingList::from_sorted(&hosts));
        }
        Ok(())
    }

    /// For many: first how long each key's list is, then all lists behind each other in one.
    fn restore_by_counting(
        &mut self,
        group: u32,
        hosts: &[u32],
        pairs: usize,
        keys: usize,
        inventory_of: &impl Fn(u32, &mut Vec<u32>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut inventories: Vec<u32> = Vec::with_capacity(pairs);
        let mut ends = Vec::with_capacity(hosts.len());
        for &host in hosts {
            inventory_of(host, &mut inventories)?;
            ends.push(inventories.len());
        }
        let mut next = vec![0u32; keys + 1];
        for &key in &inventories {
            next[key as usize + 1] += 1;
        }
        for key in 0..keys {
            next[key + 1] += next[key];
        }
        let mut lists = vec![0u32; inventories.len()];
        let mut start = 0;
        for (&host, &end) in hosts.iter().zip(&ends) {
            for &key in &inventories[start..end] {
                let position = &mut next[key as usize];
                lists[*position as usize] = host;
                *position += 1;
            }
            start = end;
        }
        // Each `next` has become the end of its key's list.
        let mut start = 0;
        for (key, &end) in (0..).zip(&next[..keys]) {
            if end > start {
                let list = PostingList::from_sorted(&lists[start as usize..end as usize]);
                self.keys.lists_mut(key).restore(group, list);
            }
            start = end;
        }
        Ok(())
    }
}

fn check_id(what: &str, id: u32, ids_max: u32) -> Result<(), IndexError> {
    if id < ids_max { Ok(()) } else { Err(damaged(format!("{what} {id} is past the last id, {ids_max}"))) }
}

fn damaged(reason: String) -> IndexError {
    IndexError::Damaged { reason }
}
