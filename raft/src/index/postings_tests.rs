//! Postings against a naive model: a sorted set of (zone, address, port, id).

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::host::{HostRecord, address_key};
use super::*;
use crate::command::Holder;

const ZONES: [&str; 4] = ["", "a", "b", "zone-with-a-name"];

fn random_hosts(random: &mut StdRng, count: usize) -> Slots<HostSlot> {
    let mut hosts = Slots::default();
    let mut addresses = BTreeSet::new();
    while hosts.len() < count {
        let port = random.random_range(1..4);
        let address: SocketAddr = match random.random_bool(0.8) {
            true => {
                ([10, random.random_range(0..4), random.random_range(0..40), random.random()], port).into()
            }
            false => ([0xfd00, 0, 0, 0, 0, 0, random.random_range(0..4), random.random()], port).into(),
        };
        if addresses.insert(address) {
            let mut record = HostRecord::new(Holder { group: "g".into(), address });
            record.zone = ZONES[random.random_range(0..ZONES.len())].into();
            hosts.insert(HostSlot::new(record));
        }
    }
    hosts
}

type Model<'a> = BTreeSet<((&'a str, u128, u16), u32)>;

fn assert_equal(list: &PostingList, hosts: &Slots<HostSlot>, model: &Model<'_>, seed: u64) {
    let postings = Postings { list, hosts };
    assert_eq!(postings.len(), model.len(), "seed {seed}");
    for (position, (_, id)) in model.iter().enumerate() {
        assert_eq!(list.get(position), *id, "seed {seed}, position {position}");
    }
    if let PostingList::Large(large) = list {
        assert!(large.chunks.len() > 1, "seed {seed}");
        for (chunk, &start) in large.chunks.iter().zip(&large.starts) {
            assert!(!chunk.is_empty() && chunk.len() <= CHUNK_HOSTS_MAX, "seed {seed}");
            assert_eq!(list.get(start as usize), chunk[0], "seed {seed}");
        }
    }
}

fn random_address(random: &mut StdRng) -> u128 {
    address_key(([10, random.random_range(0..4), random.random_range(0..40), 0]).into())
}

fn assert_ranges_equal(postings: &Postings<'_>, model: &Model<'_>, random: &mut StdRng, seed: u64) {
    let (mut low, mut high) = (random_address(random), random_address(random) + 5_000);
    // Bounds that are somebody's address: both are inclusive.
    if let Some(((_, address, _), _)) = model.iter().nth(random.random_range(0..=model.len())) {
        low = *address;
        high = if random.random() { low } else { low + 70_000 };
    }
    for zone in ZONES {
        let inside = |((other, address, _), _): &&(_, _)| *other == zone && (low..=high).contains(address);
        let before = model.iter().take_while(|((other, address, _), _)| (*other, *address) < (zone, low));
        let start = before.count();
        let expected = start..start + model.iter().filter(inside).count();
        assert_eq!(postings.range(zone, low, high), expected, "seed {seed}, zone {zone}");
    }
    let mut by_address: Vec<_> =
        model.iter().filter(|((_, address, _), _)| (low..=high).contains(address)).collect();
    by_address.sort_by_key(|((_, address, port), _)| (*address, *port));
    let found = postings.by_address(low, high).map(|position| postings.list.get(position));
    assert!(found.eq(by_address.iter().map(|(_, id)| *id)), "seed {seed}");
}

#[test]
fn a_list_holds_what_the_naive_model_holds() {
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let hosts = random_hosts(&mut random, 3_000);
        let mut list = PostingList::default();
        let mut model = Model::new();
        // Grows over the first half, shrinks to little over the second.
        for step in 0..24_000 {
            let id = random.random_range(0..hosts.len() as u32);
            let entry = (hosts.get(id).unwrap().order(), id);
            if random.random_bool(if step < 12_000 { 0.8 } else { 0.2 }) {
                if model.insert(entry) {
                    list.insert(&hosts, id);
                }
            } else {
                assert_eq!(list.remove(&hosts, id), model.remove(&entry), "seed {seed}, step {step}");
            }
            if step % 3_000 == 0 || step == 23_999 {
                assert_equal(&list, &hosts, &model, seed);
                assert_ranges_equal(&Postings { list: &list, hosts: &hosts }, &model, &mut random, seed);
            }
        }
        for (_, id) in std::mem::take(&mut model) {
            assert!(list.remove(&hosts, id), "seed {seed}");
        }
        assert_eq!(list, PostingList::default(), "seed {seed}");
    }
}

#[test]
fn pushing_in_order_gives_the_list_that_inserting_gives() {
    let mut random = StdRng::seed_from_u64(1);
    let hosts = random_hosts(&mut random, 1_500);
    let mut ids: Vec<u32> = (0..1_500).collect();
    ids.sort_by_key(|&id| hosts.get(id).unwrap().order());
    for count in [0, 1, CHUNK_HOSTS_MAX, CHUNK_HOSTS_MAX + 1, 1_500] {
        let mut list = PostingList::default();
        ids[..count].iter().for_each(|&id| list.push_last(id));
        let model: Model<'_> = ids[..count].iter().map(|&id| (hosts.get(id).unwrap().order(), id)).collect();
        assert_equal(&list, &hosts, &model, 1);
    }
}

#[test]
fn zones_are_listed_with_their_positions() {
    let mut random = StdRng::seed_from_u64(2);
    let hosts = random_hosts(&mut random, 800);
    let mut list = PostingList::default();
    (0..800).for_each(|id| list.insert(&hosts, id));
    let postings = Postings { list: &list, hosts: &hosts };
    let zones = postings.zones();
    assert_eq!(zones.iter().map(|(zone, _)| *zone).collect::<Vec<_>>(), ZONES);
    for (zone, range) in zones {
        assert_eq!(postings.zone_range(zone), range);
        assert!(range.clone().all(|position| postings.get(position).1 == zone));
        assert!(!range.is_empty());
    }
    assert!(postings.zone_range("nowhere").is_empty());
    assert!(postings.range("a", 9, 3).is_empty(), "low over high");
}
