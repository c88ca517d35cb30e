//! The index in memory: everything but the inventories, which only redb holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use super::IndexError;
use super::changes::{Changes, HostChanges};
use super::host::{HostRecord, HostSlot, tombstone_hash};
use super::keys::KeyTable;
use super::postings::PostingList;
use super::slots::Slots;
use crate::command::{Holder, Key};
use crate::fingerprint::{Fingerprint, key_fingerprint};
use crate::types::{LogId, StoredMembership};

/// How much the index holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Groups that have a host.
    pub groups: u64,
    /// Hosts, hidden ones included.
    pub hosts: u64,
    /// Hosts that are hidden.
    pub hosts_hidden: u64,
    /// Distinct keys, also those that only hidden hosts have.
    pub keys: u64,
    /// Pairs of host and key, also those of hidden hosts.
    pub pairs: u64,
}

/// One group: who is in it, and who of them holds what.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) hosts: BTreeMap<SocketAddr, u32>,
    /// By key id; visible hosts only, no empty lists.
    pub(super) postings: HashMap<u32, PostingList>,
}

/// What `apply` works on.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(super) keys: KeyTable,
    pub(super) hosts: Slots<HostSlot>,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) tombstones: BTreeSet<u64>,
    pub(super) changes: Changes,
    pub(super) pairs: u64,
    pub(super) hosts_hidden: u64,
    pub(super) checksum: u128,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
}

/// What a stored state consists of besides its inventories.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) tombstones: BTreeSet<u64>,
    pub(crate) keys: Vec<(u32, Key)>,
    pub(crate) hosts: Vec<(u32, HostRecord)>,
}

impl State {
    /// Builds the state from its parts and checks it: every id known, every key used, fingerprints
    /// and counts as stored. Hosts come in the order of postings, so that each posting is a push.
    pub(crate) fn build(
        parts: Parts,
        mut inventory_of: impl FnMut(u32) -> Result<Vec<u32>, IndexError>,
    ) -> Result<Self, IndexError> {
        let damaged = |reason: String| IndexError::Damaged { reason };
        let applied_index = parts.applied.as_ref().map_or(0, |id| id.index);
        let mut state = Self {
            applied: parts.applied,
            membership: parts.membership,
            changes: Changes::starting_at(applied_index),
            ..Self::default()
        };
        for node_id in parts.tombstones {
            state.add_tombstone(node_id);
        }
        let mut sums: HashMap<u32, u128> = HashMap::with_capacity(parts.keys.len());
        for (id, key) in parts.keys {
            sums.insert(id, key_fingerprint(&key));
            if !state.keys.restore(id, key) {
                return Err(damaged(format!("key {id} is there twice")));
            }
        }
        let mut order: Vec<u32> = Vec::with_capacity(parts.hosts.len());
        for (id, record) in parts.hosts {
            state.restore_host(id, record)?;
            order.push(id);
        }
        order.sort_by(|&a, &b| state.host_slot(a).order().cmp(&state.host_slot(b).order()));
        for id in order {
            let inventory = inventory_of(id)?;
            let mut fingerprint = Fingerprint::default();
            for key in &inventory {
                let Some(sum) = sums.get(key) else {
                    return Err(damaged(format!("host {id} has the unknown key {key}")));
                };
                fingerprint.0 = fingerprint.0.wrapping_add(*sum);
            }
            state.restore_inventory(id, &inventory, fingerprint)?;
        }
        match state.keys.unused() {
            Some(key) => Err(damaged(format!("nobody has key {key}"))),
            None => Ok(state),
        }
    }

    fn restore_host(&mut self, id: u32, record: HostRecord) -> Result<(), IndexError> {
        let group = self.groups.entry(record.holder.group.clone()).or_default();
        if group.hosts.insert(record.holder.address, id).is_some() {
            return Err(IndexError::Damaged {
                reason: format!("host {} is there twice", record.holder.address),
            });
        }
        let slot = HostSlot::new(record);
        self.checksum = self.checksum.wrapping_add(slot.hash);
        self.changes.touch(id, slot.changed, slot.changed);
        self.hosts_hidden += u64::from(!slot.record.is_visible());
        if !self.hosts.restore(id, slot) {
            return Err(IndexError::Damaged { reason: format!("host {id} is there twice") });
        }
        Ok(())
    }

    fn restore_inventory(&mut self, id: u32, keys: &[u32], sum: Fingerprint) -> Result<(), IndexError> {
        let slot = self.hosts.get(id).expect("restored before its inventory");
        let record = &slot.record;
        if record.fingerprint != sum || record.count != keys.len() as u64 {
            let reason = format!(
                "host {} has {} keys with fingerprint {sum}, its record says {} with {}",
                record.holder.address,
                keys.len(),
                record.count,
                record.fingerprint
            );
            return Err(IndexError::Damaged { reason });
        }
        self.pairs += keys.len() as u64;
        let group = self.groups.get_mut(&record.holder.group).expect("restored with its group");
        for &key in keys {
            self.keys.use_again(key);
            if record.is_visible() {
                group.postings.entry(key).or_default().push_last(id);
            }
        }
        Ok(())
    }

    pub(super) fn add_tombstone(&mut self, node_id: u64) -> bool {
        let new = self.tombstones.insert(node_id);
        if new {
            self.checksum = self.checksum.wrapping_add(tombstone_hash(node_id));
        }
        new
    }

    pub(super) fn host_id(&self, holder: &Holder) -> Option<u32> {
        self.groups.get(&holder.group)?.hosts.get(&holder.address).copied()
    }

    pub(super) fn host_slot(&self, id: u32) -> &HostSlot {
        self.hosts.get(id).expect("ids come from this state")
    }

    pub(super) fn host(&self, holder: &Holder) -> Option<&HostRecord> {
        Some(&self.host_slot(self.host_id(holder)?).record)
    }

    /// Sorted by group and address.
    pub(super) fn hosts_of(&self, group: Option<&str>) -> Vec<HostRecord> {
        let groups = self.groups.iter().filter(|(name, _)| group.is_none_or(|group| group == name.as_str()));
        let ids = groups.flat_map(|(_, group)| group.hosts.values());
        ids.map(|&id| self.host_slot(id).record.clone()).collect()
    }

    pub(super) fn changes_since(&self, index: u64) -> HostChanges {
        let mut answer =
            HostChanges { index: self.applied_index(), all: false, changed: vec![], gone: vec![] };
        match self.changes.since(index) {
            None => {
                answer.all = true;
                answer.changed = self.hosts_of(None);
            }
            Some((ids, gone)) => {
                answer.changed = ids.map(|id| self.host_slot(id).record.clone()).collect();
                answer.gone = gone.filter(|holder| self.host_id(holder).is_none()).cloned().collect();
            }
        }
        answer
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            groups: self.groups.len() as u64,
            hosts: self.hosts.len() as u64,
            hosts_hidden: self.hosts_hidden,
            keys: self.keys.len() as u64,
            pairs: self.pairs,
        }
    }

    pub(crate) fn applied_state(&self) -> (Option<LogId>, StoredMembership) {
        (self.applied, self.membership.clone())
    }

    /// 0 before the first entry.
    pub(super) fn applied_index(&self) -> u64 {
        self.applied.as_ref().map_or(0, |id| id.index)
    }
}
