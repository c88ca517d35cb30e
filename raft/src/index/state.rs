//! The index in memory: everything but the inventories, which only redb holds.

mod levels;
mod rebuild;

use std::collections::BTreeSet;

use super::IndexError;
use super::changes::{Change, Changes};
use super::groups::Groups;
use super::hash;
use super::host::{HostRecord, HostSlot};
use super::keys::KeyTable;
use super::order::Labels;
use super::slots::Slots;
use super::unflushed::Unflushed;
use crate::format::{Level, Levels};
use crate::model::{Holder, Key};
use crate::types::{LogId, StoredMembership};

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

/// The state that `apply` changes.
#[derive(Debug, Default)]
pub(crate) struct IndexState {
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
    pub(super) levels: Levels,
    #[cfg(any(test, feature = "next-format"))]
    pub(super) noted: u64,
    pub(super) unflushed: Unflushed,
}

/// What a stored state consists of besides its inventories.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) tombstones: BTreeSet<u64>,
    pub(crate) levels: Levels,
    #[cfg(any(test, feature = "next-format"))]
    pub(crate) noted: u64,
    pub(crate) keys: Vec<(u32, Key)>,
    pub(crate) hosts: Vec<(u32, HostRecord)>,
}

impl IndexState {
    fn restore_host(&mut self, id: u32, record: HostRecord) -> Result<(), IndexError> {
        let group = self.groups.intern(&record.holder.group);
        let hash = hash::host(self.levels.active, &record);
        let slot = HostSlot::new(record, group, hash);
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
            self.checksum = self.checksum.wrapping_add(hash::tombstone(self.levels.active, node_id));
        }
        new
    }

    /// See [`super::Index::begin_anew`].
    pub(super) fn begin_anew(&mut self, membership: StoredMembership) {
        for node_id in std::mem::take(&mut self.tombstones) {
            self.checksum = self.checksum.wrapping_sub(hash::tombstone(self.levels.active, node_id));
        }
        self.set_levels(Levels { next: None, ..self.levels });
        self.applied = *membership.log_id();
        self.membership = membership;
        self.unflushed.changes.tombstones = true;
        self.unflushed.changes.membership = true;
        self.unflushed.changes.levels = true;
    }

    pub(super) fn host_id(&self, holder: &Holder) -> Option<u32> {
        self.groups.get(self.groups.id(&holder.group)?).host(holder.address)
    }

    pub(super) fn host_slot(&self, id: u32) -> &HostSlot {
        self.hosts.get(id).expect("ids come from this state")
    }

    pub(super) fn host(&self, holder: &Holder) -> Option<&HostRecord> {
        Some(&self.host_slot(self.host_id(holder)?).record)
    }

    /// Up to `most` hosts of `group`, or of all groups, behind `after`; sorted by group and address.
    pub(super) fn hosts_after(
        &self,
        group: Option<&str>,
        after: Option<&Holder>,
        most: usize,
    ) -> Vec<HostRecord> {
        let first = after.map(|after| after.group.as_str()).max(group).unwrap_or_default();
        let groups = self.groups.from(first).take_while(|(name, _)| group.is_none_or(|group| group == *name));
        let hosts = groups.flat_map(|(name, group)| {
            let inside = after.filter(|after| after.group == name);
            group.hosts_after(inside.map(|after| after.address))
        });
        hosts.take(most).map(|id| self.host_slot(id).record.clone()).collect()
    }

    /// Holders that were forgotten after log index `index`, and are not there again; `None` if that is not
    /// known any more.
    pub(super) fn gone_since(&self, index: u64) -> Option<Vec<Holder>> {
        let gone = self.changes.gone_since(index)?;
        Some(gone.filter(|holder| self.host_id(holder).is_none()).cloned().collect())
    }

    /// Up to `most` hosts whose last change is behind `after` and not behind log index `until`, in this order;
    /// `None` if that is not known any more.
    pub(super) fn changed_after(
        &self,
        after: Change,
        until: u64,
        most: usize,
    ) -> Option<Vec<(Change, HostRecord)>> {
        let changes = self.changes.after(after, until)?.take(most);
        Some(changes.map(|change| (change, self.host_slot(change.1).record.clone())).collect())
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

    /// What is written of it is of this level.
    pub(crate) fn level(&self) -> Level {
        self.levels.active
    }

    /// 0 before the first entry.
    pub(super) fn applied_index(&self) -> u64 {
        self.applied.as_ref().map_or(0, |id| id.index)
    }
}
