//! The groups, each with its hosts by address and in the order of postings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;

use super::host::{HostSlot, address_key};
use super::order::{Labels, Order, Place};
use super::slots::Slots;

/// The hosts of one group.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// By address, whatever their zones.
    hosts: BTreeMap<Place, u32>,
    order: Order,
}

impl Group {
    /// The host at `address`.
    pub(super) fn host(&self, address: SocketAddr) -> Option<u32> {
        self.hosts.get(&(address_key(address.ip()), address.port())).copied()
    }

    /// By address, whatever their zones.
    pub(super) fn hosts(&self) -> &BTreeMap<Place, u32> {
        &self.hosts
    }

    /// The hosts behind an address, or all, by address.
    pub(super) fn hosts_after(&self, address: Option<SocketAddr>) -> impl Iterator<Item = u32> {
        let after = address.map(|address| (address_key(address.ip()), address.port()));
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.hosts.range((first, Bound::Unbounded)).map(|(_, &id)| id)
    }

    /// The order in which postings are sorted.
    pub(super) fn order(&self) -> &Order {
        &self.order
    }

    /// Host `id`, which is new here; false if its address is taken.
    pub(super) fn add(&mut self, labels: &mut Labels, id: u32, host: &HostSlot) -> bool {
        if self.hosts.insert(host.place(), id).is_some() {
            return false;
        }
        labels.settle(id, host.address());
        self.order.insert(labels, &host.record.zone, host.place(), id);
        true
    }

    /// Adds a host that comes back from disk; its label comes with [`Group::number`].
    pub(super) fn restore(&mut self, labels: &mut Labels, id: u32, host: &HostSlot) -> bool {
        labels.settle(id, host.address());
        self.hosts.insert(host.place(), id).is_none()
            && self.order.restore(&host.record.zone, host.place(), id)
    }

    /// Gives all hosts their labels.
    pub(super) fn number(&self, labels: &mut Labels) {
        self.order.number_anew(labels);
    }

    /// The host is no more.
    fn remove(&mut self, host: &HostSlot) {
        self.hosts.remove(&host.place());
        self.order.remove(&host.record.zone, host.place());
    }

    /// Host `id` was in zone `before`. It must be in no list: its label changes.
    pub(super) fn move_zone(&mut self, labels: &mut Labels, id: u32, host: &HostSlot, before: &str) {
        self.order.remove(before, host.place());
        self.order.insert(labels, &host.record.zone, host.place(), id);
    }
}

/// Groups by name and by id. The ids are this replica's own.
#[derive(Debug, Default)]
pub(super) struct Groups {
    ids: BTreeMap<String, u32>,
    slots: Slots<Group>,
}

impl Groups {
    /// The id of the group of that name.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }

    /// The group of an id that a host or [`Groups::id`] gave.
    pub(super) fn get(&self, id: u32) -> &Group {
        self.slots.get(id).expect("a host is in its group")
    }

    /// The group of an id, to change it.
    pub(super) fn get_mut(&mut self, id: u32) -> &mut Group {
        self.slots.get_mut(id).expect("a host is in its group")
    }

    /// The id of the group of that name, made if there is none.
    pub(super) fn intern(&mut self, name: &str) -> u32 {
        if let Some(id) = self.id(name) {
            return id;
        }
        let id = self.slots.insert(Group::default());
        self.ids.insert(name.to_owned(), id);
        id
    }

    /// The host is no more, and with the last one its group.
    pub(super) fn remove_host(&mut self, host: &HostSlot) {
        let group = self.get_mut(host.group);
        group.remove(host);
        if group.hosts.is_empty() {
            self.slots.remove(host.group);
            self.ids.remove(&host.record.holder.group);
        }
    }

    /// Names and groups, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.ids.iter().map(|(name, &id)| (name.as_str(), self.get(id)))
    }

    /// The groups from a name on, whether or not a group has it.
    pub(super) fn from(&self, name: &str) -> impl Iterator<Item = (&str, &Group)> {
        let names = self.ids.range::<str, _>((Bound::Included(name), Bound::Unbounded));
        names.map(|(name, &id)| (name.as_str(), self.get(id)))
    }

    /// Number of groups.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}
