//! `apply`: what a command does to the state. A pure function of (state, command, log index): no
//! clock, no randomness, no order of a hash map, no panic on data, because a poisonous entry would
//! crash every replica at every restart.

use std::collections::BTreeMap;

use super::hash;
use super::host::{HostRecord, HostSlot};
use super::postings::Postings;
use super::state::IndexState;
use crate::command::{Command, Reply, Write};
use crate::format::{Level, Levels, Next};
use crate::model::{Fingerprint, Holder, Key};

/// Inventories that a batch of entries has read or changed; sorted key ids.
#[derive(Debug, Default)]
pub(super) struct Batch {
    inventories: BTreeMap<u32, Vec<u32>>,
}

impl Batch {
    /// True once the inventory of `host` need not be read from disk.
    pub(super) fn has_inventory(&self, host: u32) -> bool {
        self.inventories.contains_key(&host)
    }

    /// The inventory of `host` as it is now.
    pub(super) fn load(&mut self, host: u32, inventory: Vec<u32>) {
        self.inventories.insert(host, inventory);
    }

    /// The inventory of `host`, loaded before.
    pub(super) fn inventory(&self, host: u32) -> &[u32] {
        self.inventories.get(&host).map_or(&[], Vec::as_slice)
    }

    fn take(&mut self, host: u32) -> Vec<u32> {
        self.inventories.remove(&host).unwrap_or_default()
    }
}

/// The host that a command speaks of.
pub(crate) fn holder_of(command: &Command) -> Option<&Holder> {
    match command {
        Command::Advertise(write) | Command::Withdraw(write) => Some(&write.holder),
        Command::SetHost { holder, .. }
        | Command::Hide { holder, .. }
        | Command::Unhide { holder }
        | Command::Forget { holder, .. } => Some(holder),
        #[cfg(any(test, feature = "next-format"))]
        Command::NotedAdvertise(write) => Some(&write.holder),
        Command::Tombstone { .. } | Command::Activate { .. } | Command::Readable { .. } => None,
    }
}

const DONE: Reply = Reply::Applied { changed: 0 };

impl IndexState {
    /// Applies `command`, which is at `index` of the log. `batch` holds the inventory of its host.
    pub(super) fn apply(&mut self, batch: &mut Batch, index: u64, command: &Command) -> Reply {
        let (needs, active) = (command.needs(), self.levels.active);
        if needs > active {
            return Reply::BeyondLevel { needs, active };
        }
        let known = holder_of(command).map(|holder| self.host_id(holder));
        match (command, known.flatten()) {
            (Command::Activate { level }, _) => self.activate(*level),
            (Command::Readable { level, seconds }, _) => {
                let next = Next { level: *level, seconds: *seconds };
                self.set_levels(Levels { next: (*level > active).then_some(next), active });
                DONE
            }
            #[cfg(any(test, feature = "next-format"))]
            (Command::NotedAdvertise(write), known) => {
                self.note();
                self.advertise(batch, index, write, known)
            }
            (Command::Tombstone { node_id }, _) => {
                self.unflushed.changes.tombstones |= self.add_tombstone(*node_id);
                DONE
            }
            (Command::Advertise(write), known) => self.advertise(batch, index, write, known),
            // The pair must be known: a lower one that comes late would be applied otherwise.
            (Command::Withdraw(write), None) if write.pair.is_some() => {
                let id = self.create_host(batch, write.holder.clone());
                self.withdraw(batch, index, write, id)
            }
            (_, None) => Reply::UnknownHost,
            (Command::Withdraw(write), Some(id)) => self.withdraw(batch, index, write, id),
            (Command::SetHost { zone, ttl_seconds, .. }, Some(id)) => {
                self.set_host(batch, index, id, zone, *ttl_seconds)
            }
            (Command::Hide { last_write_index, unix_ms, .. }, Some(id)) => {
                self.hide(batch, index, id, *last_write_index, *unix_ms)
            }
            (Command::Unhide { .. }, Some(id)) => self.unhide(batch, index, id),
            (Command::Forget { hidden_unix_ms, .. }, Some(id)) => {
                self.forget(batch, index, id, *hidden_unix_ms)
            }
        }
    }

    fn activate(&mut self, level: Level) -> Reply {
        if level <= self.levels.active {
            return Reply::NotApplicable;
        }
        self.set_levels(Levels { active: level, next: None });
        DONE
    }

    fn advertise(&mut self, batch: &mut Batch, index: u64, write: &Write, known: Option<u32>) -> Reply {
        let id = match known {
            Some(id) => id,
            None => self.create_host(batch, write.holder.clone()),
        };
        if let Some(stale) = self.stale(id, write) {
            return stale;
        }
        let mut inventory = batch.take(id);
        let added = self.intern_missing(&inventory, &write.keys);
        let sum = self.sum_of(&added);
        let changed = added.len();
        if changed > 0 {
            inventory.extend(&added);
            inventory.sort();
        }
        if self.host_slot(id).record.is_visible() {
            self.post(id, &added);
        } else {
            self.post(id, &inventory);
        }
        batch.load(id, inventory);
        if changed > 0 {
            self.unflushed.put(id, &added, true);
        }
        self.finish_write(index, write, id, |record| {
            record.fingerprint.0 = record.fingerprint.0.wrapping_add(sum.0);
            record.count += changed as u64;
        });
        self.pairs += changed as u64;
        Reply::Applied { changed: changed as u32 }
    }

    /// Ids of those of `keys` that are not in `inventory`, ascending; one inventory more has them.
    fn intern_missing(&mut self, inventory: &[u32], keys: &[Key]) -> Vec<u32> {
        let mut missing = Vec::with_capacity(keys.len());
        for key in keys {
            let (id, new) = self.keys.intern(key);
            if new {
                self.unflushed.changes.keys.insert(id);
            }
            if inventory.binary_search(&id).is_err() {
                missing.push(id);
            }
        }
        missing.sort_unstable();
        missing.dedup();
        for &id in &missing {
            self.keys.use_again(id, 1);
        }
        missing
    }

    fn sum_of(&self, keys: &[u32]) -> Fingerprint {
        let fingerprint =
            |&key: &u32| self.keys.fingerprint(key).expect("an inventory holds ids in use only");
        Fingerprint(keys.iter().map(fingerprint).fold(0, u128::wrapping_add))
    }

    fn withdraw(&mut self, batch: &mut Batch, index: u64, write: &Write, id: u32) -> Reply {
        if let Some(stale) = self.stale(id, write) {
            return stale;
        }
        let mut inventory = batch.take(id);
        let held = |key: &Key| self.keys.find(key).filter(|id| inventory.binary_search(id).is_ok());
        let mut removed: Vec<u32> = write.keys.iter().filter_map(held).collect();
        removed.sort_unstable();
        removed.dedup();
        let sum = self.sum_of(&removed);
        inventory.retain(|key| removed.binary_search(key).is_err());
        if self.host_slot(id).record.is_visible() {
            self.unpost(id, &removed);
        } else {
            self.post(id, &inventory);
        }
        self.release_keys(&removed);
        batch.load(id, inventory);
        if !removed.is_empty() {
            self.unflushed.put(id, &removed, false);
        }
        let changed = removed.len();
        self.finish_write(index, write, id, |record| {
            record.fingerprint.0 = record.fingerprint.0.wrapping_sub(sum.0);
            record.count -= changed as u64;
        });
        self.pairs -= changed as u64;
        Reply::Applied { changed: changed as u32 }
    }

    fn stale(&self, id: u32, write: &Write) -> Option<Reply> {
        let stored = self.host_slot(id).record.pair?;
        (write.pair? < stored).then_some(Reply::Stale { stored })
    }

    /// What every applied write does to the record, besides its keys.
    fn finish_write(&mut self, index: u64, write: &Write, id: u32, change: impl FnOnce(&mut HostRecord)) {
        self.update_host(index, id, |record| {
            change(record);
            record.hidden_unix_ms = None;
            record.last_write_index = index;
            if write.stores_pair && write.pair.is_some() {
                record.pair = write.pair;
            }
        });
    }

    fn set_host(&mut self, batch: &mut Batch, index: u64, id: u32, zone: &str, ttl_seconds: u32) -> Reply {
        let record = &self.host_slot(id).record;
        let (before, posted) = (record.zone.clone(), record.is_visible());
        let moves = before != zone;
        if moves && posted {
            self.unpost(id, batch.inventory(id));
        }
        self.update_host(index, id, |record| {
            zone.clone_into(&mut record.zone);
            record.ttl_seconds = ttl_seconds;
            record.last_write_index = index;
        });
        if moves {
            let slot = self.hosts.get(id).expect("ids come from this state");
            self.groups.get_mut(slot.group).move_zone(&mut self.labels, id, slot, &before);
        }
        if moves && posted {
            self.post(id, batch.inventory(id));
        }
        DONE
    }

    fn hide(&mut self, batch: &mut Batch, index: u64, id: u32, last_write_index: u64, unix_ms: u64) -> Reply {
        let record = &self.host_slot(id).record;
        if record.last_write_index > last_write_index {
            return Reply::NotApplicable;
        }
        // Hidden before: `forget_after` counts from the first time.
        if record.is_visible() {
            self.unpost(id, batch.inventory(id));
            self.update_host(index, id, |record| record.hidden_unix_ms = Some(unix_ms));
        }
        DONE
    }

    fn unhide(&mut self, batch: &mut Batch, index: u64, id: u32) -> Reply {
        if !self.host_slot(id).record.is_visible() {
            self.post(id, batch.inventory(id));
        }
        self.update_host(index, id, |record| {
            record.hidden_unix_ms = None;
            record.last_write_index = index;
        });
        DONE
    }

    fn forget(&mut self, batch: &mut Batch, index: u64, id: u32, hidden_unix_ms: u64) -> Reply {
        if self.host_slot(id).record.hidden_unix_ms != Some(hidden_unix_ms) {
            return Reply::NotApplicable;
        }
        let inventory = batch.take(id);
        self.release_keys(&inventory);
        self.unflushed.put(id, &inventory, false);
        self.unflushed.changes.hosts.insert(id);
        let slot = self.hosts.remove(id).expect("found by its holder");
        self.groups.remove_host(&slot);
        self.checksum = self.checksum.wrapping_sub(slot.hash);
        self.hosts_hidden -= 1;
        self.pairs -= inventory.len() as u64;
        self.changes.forget(id, slot.changed, index, slot.record.holder);
        Reply::Applied { changed: inventory.len() as u32 }
    }

    fn create_host(&mut self, batch: &mut Batch, holder: Holder) -> u32 {
        let group = self.groups.intern(&holder.group);
        let record = HostRecord::new(holder);
        let hash = hash::host(self.levels.active, &record);
        let slot = HostSlot::new(record, group, hash);
        self.checksum = self.checksum.wrapping_add(slot.hash);
        let id = self.hosts.insert(slot);
        let slot = self.hosts.get(id).expect("just inserted");
        self.groups.get_mut(group).add(&mut self.labels, id, slot);
        batch.load(id, Vec::new());
        self.unflushed.put(id, &[], true);
        id
    }

    /// Changes a record, and with it the checksum, the count of hidden hosts and the changes.
    fn update_host(&mut self, index: u64, id: u32, change: impl FnOnce(&mut HostRecord)) {
        let level = self.levels.active;
        let slot = self.hosts.get_mut(id).expect("ids come from this state");
        let hidden_before = !slot.record.is_visible();
        change(&mut slot.record);
        let hidden = !slot.record.is_visible();
        let hash = hash::host(level, &slot.record);
        self.checksum = self.checksum.wrapping_sub(slot.hash).wrapping_add(hash);
        self.hosts_hidden = self.hosts_hidden + u64::from(hidden) - u64::from(hidden_before);
        self.changes.touch(id, slot.changed, index);
        slot.hash = hash;
        slot.changed = index;
        self.unflushed.changes.hosts.insert(id);
    }

    /// Puts the host into the postings of `keys`.
    fn post(&mut self, id: u32, keys: &[u32]) {
        let group = self.host_slot(id).group;
        for &key in keys {
            self.keys.lists_mut(key).insert(&self.labels, group, id);
        }
    }

    /// Takes the host out of the postings of `keys`.
    fn unpost(&mut self, id: u32, keys: &[u32]) {
        let group = self.host_slot(id).group;
        for &key in keys {
            self.keys.lists_mut(key).remove(&self.labels, group, id);
        }
    }

    fn release_keys(&mut self, keys: &[u32]) {
        for &key in keys {
            if self.keys.release(key) {
                self.unflushed.changes.keys.insert(key);
            }
        }
    }

    /// The visible holders of `key` in `group`.
    pub(super) fn postings(&self, group: &str, key: &Key) -> Option<Postings<'_>> {
        let group = self.groups.id(group)?;
        let list = self.keys.lists(self.keys.find(key)?).get(group)?;
        Some(Postings { list, hosts: &self.hosts, group: self.groups.get(group), labels: &self.labels })
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
