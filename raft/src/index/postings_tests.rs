//! Postings against a naive model: a sorted set of (zone, address, port, id).

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::groups::Group;
use super::super::host::{HostRecord, address_key};
use super::super::order::{Order, Place};
use super::*;
use crate::model::Holder;

const ZONES: [&str; 4] = ["", "a", "b", "zone-with-a-name"];

/// A group of hosts, whose ids are a stride apart: with a wide one some of them need four bytes.
struct Hosts {
    slots: Slots<HostSlot>,
    group: Group,
    labels: Labels,
    ids: Vec<u32>,
}

impl Hosts {
    fn random(random: &mut StdRng, count: usize, stride: u32) -> Self {
        let mut hosts =
            Self { slots: Slots::default(), group: Group::default(), labels: Labels::default(), ids: vec![] };
        while hosts.ids.len() < count {
            let port = random.random_range(1..4);
            let address: SocketAddr = match random.random_bool(0.8) {
                true => ([10, random.random_range(0..4), random.random_range(0..40), random.random()], port)
                    .into(),
                false => ([0xfd00, 0, 0, 0, 0, 0, random.random_range(0..4), random.random()], port).into(),
            };
            let mut record = HostRecord::new(Holder { group: "g".into(), address });
            record.zone = ZONES[random.random_range(0..ZONES.len())].into();
            let slot = HostSlot::new(record, 0, 0);
            let id = hosts.ids.len() as u32 * stride;
            if hosts.group.add(&mut hosts.labels, id, &slot) {
                assert!(hosts.slots.restore(id, slot));
                hosts.ids.push(id);
            }
        }
        hosts
    }

    fn entry(&self, id: u32) -> (&str, Place, u32) {
        let slot = self.slots.get(id).unwrap();
        (&slot.record.zone, slot.place(), id)
    }

    fn postings<'a>(&'a self, list: &'a PostingList) -> Postings<'a> {
        Postings { list, hosts: &self.slots, group: &self.group, labels: &self.labels }
    }
}

type Model<'a> = BTreeSet<(&'a str, Place, u32)>;

fn assert_equal(list: &PostingList, model: &Model<'_>, context: &str) {
    assert_eq!(list.len(), model.len(), "{context}");
    for (position, (_, _, id)) in model.iter().enumerate() {
        assert_eq!(list.get(position), *id, "{context}, position {position}");
    }
    match list {
        PostingList::Small(ids) => {
            assert!(ids.len() <= CHUNK_HOSTS_MAX, "{context}");
            ids.assert_whole(context);
        }
        PostingList::Large(large) => match &**large {
            Large::Narrow(chunks) => chunks.assert_whole(context),
            Large::Wide(chunks) => chunks.assert_whole(context),
        },
    }
}

fn random_address(random: &mut StdRng) -> u128 {
    address_key(([10, random.random_range(0..4), random.random_range(0..40), 0]).into())
}

fn assert_ranges_equal(postings: &Postings<'_>, model: &Model<'_>, random: &mut StdRng, context: &str) {
    let (mut low, mut high) = (random_address(random), random_address(random) + 5_000);
    // Bounds that are somebody's address: both are inclusive.
    if let Some((_, (address, _), _)) = model.iter().nth(random.random_range(0..=model.len())) {
        low = *address;
        high = if random.random() { low } else { low + 70_000 };
    }
    for zone in ZONES {
        let inside =
            |(other, (address, _), _): &&(_, Place, _)| *other == zone && (low..=high).contains(address);
        let before = model.iter().take_while(|(other, (address, _), _)| (*other, *address) < (zone, low));
        let (start, length) = (before.count(), model.iter().filter(inside).count());
        let found = postings.range(zone, low, high);
        assert_eq!(found.len(), length, "{context}, zone {zone}");
        assert!(length == 0 || found.start == start, "{context}, zone {zone}");
        let whole = model.iter().filter(|(other, _, _)| *other == zone).count();
        assert_eq!(postings.zone_range(zone).len(), whole, "{context}, zone {zone}");
    }
}

#[test]
fn a_list_holds_what_the_naive_model_holds() {
    for (seed, stride) in (0..6).zip([1, 1, 1, 40, 40, 40]) {
        let context = format!("seed {seed}");
        println!("{context}");
        let mut random = StdRng::seed_from_u64(seed);
        let hosts = Hosts::random(&mut random, 3_000, stride);
        let mut list = PostingList::default();
        let mut model = Model::new();
        // Grows over the first half, shrinks to little over the second.
        for step in 0..24_000 {
            let id = hosts.ids[random.random_range(0..hosts.ids.len())];
            let entry = hosts.entry(id);
            if random.random_bool(if step < 12_000 { 0.8 } else { 0.2 }) {
                if model.insert(entry) {
                    list.insert(&hosts.labels, id);
                }
            } else {
                assert_eq!(list.remove(&hosts.labels, id), model.remove(&entry), "{context}, step {step}");
            }
            if step % 3_000 == 0 || step == 23_999 {
                assert_equal(&list, &model, &context);
                assert_ranges_equal(&hosts.postings(&list), &model, &mut random, &context);
            }
        }
        for (_, _, id) in std::mem::take(&mut model) {
            assert!(list.remove(&hosts.labels, id), "{context}");
        }
        assert_eq!(list, PostingList::default(), "{context}");
    }
}

#[test]
fn a_list_made_of_sorted_ids_is_the_one_that_inserting_gives() {
    let mut random = StdRng::seed_from_u64(1);
    for stride in [1, 100] {
        let hosts = Hosts::random(&mut random, 1_500, stride);
        let sorted: Vec<u32> = hosts.group.order().hosts().collect();
        for count in [0, 1, CHUNK_HOSTS_MAX, CHUNK_HOSTS_MAX + 1, 1_500] {
            let list = PostingList::from_sorted(&sorted[..count]);
            let model: Model<'_> = sorted[..count].iter().map(|&id| hosts.entry(id)).collect();
            assert_equal(&list, &model, &format!("{count} of stride {stride}"));
        }
    }
}

#[test]
fn the_first_wide_id_and_the_last_one_to_go_change_the_form_and_nothing_else() {
    let (mut order, mut labels) = (Order::default(), Labels::default());
    let ids = [0, 7, 65_535, 65_536, 100_000];
    for id in ids {
        labels.settle(id, ([10, 0, 0, 1], 1).into());
        order.insert(&mut labels, "", (u128::from(id), 0), id);
    }
    let mut list = PostingList::default();
    ids.iter().for_each(|&id| list.insert(&labels, id));
    assert!((0..5).map(|at| list.get(at)).eq(ids), "{list:?}");
    assert!(list.remove(&labels, 100_000) && list.remove(&labels, 65_536));
    assert_eq!(list, PostingList::from_sorted(&[0, 7, 65_535]));
}

/// The first id over 65,535 put a list into chunks, each with a vector and two indexes of its own: one of
/// eight holders took five times as much.
#[test]
fn a_wide_id_makes_a_short_list_no_larger_than_its_ids_are() {
    let (mut order, mut labels) = (Order::default(), Labels::default());
    for id in 65_000..66_000 {
        labels.settle(id, ([10, 0, 0, 1], 1).into());
        order.insert(&mut labels, "", (u128::from(id), 0), id);
    }
    let bytes = |list: &PostingList| match list {
        PostingList::Small(ids) => ids.heap_bytes(),
        PostingList::Large(_) => panic!("in chunks: {list:?}"),
    };
    for holders in [1, 8, 20, 200] {
        let narrow: Vec<u32> = (65_000..65_000 + holders).collect();
        let mut list = PostingList::from_sorted(&narrow);
        assert_eq!(bytes(&list), 2 * holders as usize);
        list.insert(&labels, 65_999);
        assert_eq!(bytes(&list), 4 + 4 * (holders + 1) as usize, "{holders} holders");
        assert_eq!(list, PostingList::from_sorted(&[narrow.as_slice(), &[65_999]].concat()));
        assert!(list.remove(&labels, 65_999));
        assert_eq!(bytes(&list), 2 * holders as usize, "the last wide one is gone");
    }
}
