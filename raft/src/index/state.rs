//! The index in memory: everything but the inventories, which only redb holds.

mod rebuild;

use std::collections::BTreeSet;

use super::IndexError;
use super::changes::{Changes, HostChanges};
use super::groups::Groups;
use super::host::{HostRecord, HostSlot, tombstone_hash};
use super::keys::KeyTable;
use super::order::Labels;
use super::slots::Slots;
use crate::command::{Holder, Key};
use crate::types::{LogId, StoredMembership};

pub use rebuild::{HOST_IDS_MAX, KEY_IDS_MAX};

/// How much the index holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Groups that have hosts.
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

/// What `apply` works on.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(super) keys: KeyTable,
    pub(super) hosts: Slots<HostSlot>,
    pub(super) groups: Groups,
    pub(super) labels: Labels,
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
    fn restore_host(&mut self, id: u32, record: HostRecord) -> Result<(), IndexError> {
        let group = self.groups.intern(&record.holder.group);
        let slot = HostSlot::new(record, group);
        if !self.groups.get_mut(group).restore(&mut self.labels, id, &slot) {
            return Err(IndexError::Damaged { reason: format!("host {} is there twice", slot.address()) });
        }
        self.checksum = self.checksum.wrapping_add(slot.hash);
        self.changes.touch(id, slot.changed, slot.changed);
        self.hosts_hidden += u64::from(!slot.record.is_visible());
        if !self.hosts.restore(id, slot) {
            return Err(IndexError::Damaged { reason: format!("host {id} is there twice") });
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

    /// See [`super::Index::begin_anew`].
    pub(super) fn begin_anew(&mut self, membership: StoredMembership) {
        for node_id in std::mem::take(&mut self.tombstones) {
            self.checksum = self.checksum.wrapping_sub(tombstone_hash(node_id));
        }
        self.applied = *membership.log_id();
        self.membership = membership;
    }

    pub(super) fn host_id(&self, holder: &Holder) -> Option<u32> {
        self.groups.get(self.groups.id(&holder.group)?).hosts().get(&holder.address).copied()
    }

    pub(super) fn host_slot(&self, id: u32) -> &HostSlot {
        self.hosts.get(id).expect("ids come from this state")
    }

    pub(super) fn host(&self, holder: &Holder) -> Option<&HostRecord> {
        Some(&self.host_slot(self.host_id(holder)?).record)
    }

    /// Sorted by group and address.
    pub(super) fn hosts_of(&self, group: Option<&str>) -> Vec<HostRecord> {
        let groups = self.groups.iter().filter(|(name, _)| group.is_none_or(|group| group == *name));
        let ids = groups.flat_map(|(_, group)| group.hosts().values());
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

    pub(crate) fn counts(&self) -> Counts {
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
