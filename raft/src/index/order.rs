//! The order of hosts in postings, as one number a host.
//!
//! Postings are sorted by (zone, address, port). A search through 50,000 holders compares 16 times,
//! and comparing zones as text would cost more than all the rest of it. So each host has a *label*:
//! a number larger than those of all hosts of its group that come before it. A new host gets the
//! middle between its neighbours' labels; when there is none left, its group is numbered anew
//! (order maintenance in its simplest form, after Dietz and Sleator, 1987). Labels are this
//! replica's own: nothing that is replicated or answered depends on their values.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::{Bound, Range};

/// Between a new label at either end and the one beside it.
const STEP: u64 = 1 << 32;
/// Label of the first host.
const MIDDLE: u64 = 1 << 63;

/// Labels by host id, and the addresses of the same hosts: what a lookup reads of the holders that it
/// passes and of those that it names, close together.
#[derive(Debug, Default)]
pub(super) struct Labels {
    labels: Vec<u64>,
    addresses: Vec<SocketAddr>,
}

/// An address at which no host is.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

impl Labels {
    /// The label of a host that is in the order.
    pub(super) fn of(&self, id: u32) -> u64 {
        self.labels[id as usize]
    }

    /// The address of a host that is in the order.
    pub(super) fn address(&self, id: u32) -> SocketAddr {
        self.addresses[id as usize]
    }

    /// Host `id` is at `address`; its label comes with its place in the order.
    pub(super) fn settle(&mut self, id: u32, address: SocketAddr) {
        let count = id as usize + 1;
        if self.labels.len() < count {
            self.labels.resize(count, 0);
            self.addresses.resize(count, NOWHERE);
        }
        self.addresses[id as usize] = address;
    }

    fn set(&mut self, id: u32, label: u64) {
        self.labels[id as usize] = label;
    }
}

/// Address and port of a host, as they are sorted.
pub(super) type Place = (u128, u16);

/// The hosts of one group in their order, hidden ones included.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// By zone; no empty ones.
    zones: BTreeMap<String, BTreeMap<Place, u32>>,
}

impl Order {
    /// Puts host `id`, which is not in the order and has been settled, into its place.
    pub(super) fn insert(&mut self, labels: &mut Labels, zone: &str, place: Place, id: u32) {
        let label = between(self.before(zone, place), self.after(zone, place), labels);
        self.restore(zone, place, id);
        match label {
            Some(label) => labels.set(id, label),
            None => self.number_anew(labels),
        }
    }

    /// Puts a host into the order without a label; false if the place is taken. [`Order::number_anew`] must follow.
    pub(super) fn restore(&mut self, zone: &str, place: Place, id: u32) -> bool {
        let taken = match self.zones.get_mut(zone) {
            Some(hosts) => hosts.insert(place, id),
            None => self.zones.entry(zone.to_owned()).or_default().insert(place, id),
        };
        taken.is_none()
    }

    /// Takes the host at `place` out.
    pub(super) fn remove(&mut self, zone: &str, place: Place) {
        let Some(hosts) = self.zones.get_mut(zone) else { return };
        hosts.remove(&place);
        if hosts.is_empty() {
            self.zones.remove(zone);
        }
    }

    /// All hosts.
    pub(super) fn hosts(&self) -> impl Iterator<Item = u32> {
        self.zones.values().flat_map(|hosts| hosts.values().copied())
    }

    /// Labels of the hosts of `zone` whose address is from `low` to `high`, both inclusive, and of
    /// no other hosts of the group.
    pub(super) fn range(&self, labels: &Labels, zone: &str, low: u128, high: u128) -> Range<u64> {
        let Some(hosts) = self.zones.get(zone) else { return 0..0 };
        let first = hosts.range((low, 0)..).next();
        let last = hosts.range(..=(high, u16::MAX)).next_back();
        match (first, last) {
            (Some((from, first)), Some((to, last))) if from <= to => labels.of(*first)..labels.of(*last) + 1,
            _ => 0..0,
        }
    }

    fn before(&self, zone: &str, place: Place) -> Option<u32> {
        let inside = self.zones.get(zone).and_then(|hosts| hosts.range(..place).next_back());
        let before = (Bound::Unbounded, Bound::Excluded(zone));
        let earlier = || self.zones.range::<str, _>(before).next_back()?.1.last_key_value();
        inside.or_else(earlier).map(|(_, id)| *id)
    }

    fn after(&self, zone: &str, place: Place) -> Option<u32> {
        let inside = self.zones.get(zone).and_then(|hosts| hosts.range(place..).next());
        let behind = (Bound::Excluded(zone), Bound::Unbounded);
        let later = || self.zones.range::<str, _>(behind).next()?.1.first_key_value();
        inside.or_else(later).map(|(_, id)| *id)
    }

    /// Gives every host a new label, evenly spread.
    pub(super) fn number_anew(&self, labels: &mut Labels) {
        let count: usize = self.zones.values().map(BTreeMap::len).sum();
        let step = u64::MAX / (count as u64 + 1);
        for (position, id) in (1..).zip(self.hosts()) {
            labels.set(id, position * step);
        }
    }
}

/// A label between two neighbours', if there is one. The largest number is never a label: ranges
/// end behind their last.
fn between(before: Option<u32>, after: Option<u32>, labels: &Labels) -> Option<u64> {
    match (before.map(|id| labels.of(id)), after.map(|id| labels.of(id))) {
        (None, None) => Some(MIDDLE),
        (Some(before), None) => before.checked_add(STEP).filter(|&label| label < u64::MAX),
        (None, Some(after)) => after.checked_sub(STEP),
        (Some(before), Some(after)) => Some(u64::midpoint(before, after)).filter(|&label| label > before),
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn settled(count: u32) -> Labels {
        let mut labels = Labels::default();
        (0..count).for_each(|id| labels.settle(id, NOWHERE));
        labels
    }

    fn assert_ascending(order: &Order, labels: &Labels) {
        let labels: Vec<u64> = order.hosts().map(|id| labels.of(id)).collect();
        assert!(labels.windows(2).all(|pair| pair[0] < pair[1]), "{labels:?}");
        assert!(labels.last().is_none_or(|last| *last < u64::MAX));
    }

    #[test]
    fn labels_ascend_in_the_order_of_zone_address_and_port() {
        let mut random = StdRng::seed_from_u64(3);
        let (mut order, mut labels) = (Order::default(), settled(2_000));
        let mut model = std::collections::BTreeMap::new();
        for id in 0..2_000 {
            let zone = ["", "a", "b"][random.random_range(0..3)];
            let place = (random.random_range(0..400), random.random_range(0..3));
            if model.insert((zone, place), id).is_some() {
                order.remove(zone, place);
            }
            order.insert(&mut labels, zone, place, id);
        }
        assert!(order.hosts().eq(model.values().copied()));
        assert_ascending(&order, &labels);
    }

    /// Half of what is left between two neighbours goes with each insert: 32 of them, and there is
    /// nothing left.
    #[test]
    fn hosts_that_all_come_between_the_same_two_are_numbered_anew() {
        for descending in [false, true] {
            let (mut order, mut labels) = (Order::default(), settled(2_000));
            order.insert(&mut labels, "z", (0, 0), 0);
            order.insert(&mut labels, "z", (1_000, 0), 1);
            for n in 1..200 {
                let address = if descending { 1_000 - u128::from(n) } else { u128::from(n) };
                order.insert(&mut labels, "z", (address, 0), n + 1);
                assert_ascending(&order, &labels);
            }
        }
    }

    #[test]
    fn both_ends_have_room_and_then_are_numbered_anew() {
        let mut labels = settled(2);
        labels.set(0, u64::MAX - 1);
        labels.set(1, 3);
        assert_eq!(between(Some(0), None, &labels), None);
        assert_eq!(between(None, Some(1), &labels), None);
        assert_eq!(between(None, None, &labels), Some(MIDDLE));
    }

    #[test]
    fn a_range_is_of_one_zone_with_both_ends() {
        let (mut order, mut labels) = (Order::default(), settled(2_000));
        for (id, (zone, address)) in [("a", 10), ("a", 20), ("b", 10), ("b", 15)].into_iter().enumerate() {
            order.insert(&mut labels, zone, (address, 7), id as u32);
        }
        let inside = |zone, low, high| {
            let range = order.range(&labels, zone, low, high);
            (0..4).filter(|&id| range.contains(&labels.of(id))).collect::<Vec<_>>()
        };
        assert_eq!(inside("a", 10, 20), [0, 1]);
        assert_eq!(inside("a", 11, 20), [1]);
        assert_eq!(inside("b", 0, u128::MAX), [2, 3]);
        assert_eq!(inside("b", 11, 14), [] as [u32; 0]);
        assert_eq!(inside("b", 15, 10), [] as [u32; 0]);
        assert_eq!(inside("c", 0, u128::MAX), [] as [u32; 0]);
    }
}
