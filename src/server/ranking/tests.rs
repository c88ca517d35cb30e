//! Both orders compared with a naive sort, and the spread.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::*;

/// Holders in a sorted vector; counts how many of them are visited.
struct Sorted {
    entries: Vec<(String, u128, SocketAddr)>,
    /// All hosts of the group, and whether each is one of the holders.
    hosts: BTreeMap<(u128, u16), (SocketAddr, bool)>,
    looked_at: Cell<usize>,
}

impl Sorted {
    fn new<'a>(holders: impl IntoIterator<Item = (&'a str, SocketAddr)>) -> Self {
        let mut entries: Vec<_> = holders
            .into_iter()
            .map(|(zone, address)| (zone.to_owned(), address_key(address.ip()), address))
            .collect();
        entries.sort_by_key(|(zone, key, address)| (zone.clone(), *key, address.port()));
        let host = |(_, key, address): &(_, u128, SocketAddr)| ((*key, address.port()), (*address, true));
        let hosts = entries.iter().map(host).collect();
        Self { entries, hosts, looked_at: Cell::new(0) }
    }

    /// Holders among hosts that do not hold the key.
    fn among(mut self, others: impl IntoIterator<Item = SocketAddr>) -> Self {
        for other in others {
            self.hosts.entry((address_key(other.ip()), other.port())).or_insert((other, false));
        }
        self
    }

    fn look(&self) {
        self.looked_at.set(self.looked_at.get() + 1);
    }
}

impl Holders for Sorted {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn address(&self, position: usize) -> SocketAddr {
        self.look();
        self.entries[position].2
    }

    fn range(&self, zone: &str, low: u128, high: u128) -> Range<usize> {
        self.look();
        let start = self.entries.partition_point(|(z, key, _)| (z.as_str(), *key) < (zone, low));
        let end = self.entries.partition_point(|(z, key, _)| (z.as_str(), *key) <= (zone, high));
        start..end
    }

    fn zone_range(&self, zone: &str) -> Range<usize> {
        self.range(zone, 0, u128::MAX)
    }

    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        (0..self.len()).map(|position| self.address(position))
    }

    fn hosts(&self, low: u128, high: u128) -> impl Iterator<Item = (SocketAddr, bool)> {
        self.hosts.range((low, 0)..=(high, u16::MAX)).map(|(_, host)| *host).inspect(|_| self.look())
    }

    fn host_at_or_below(&self, address: u128) -> Option<u128> {
        self.look();
        self.hosts.range(..=(address, u16::MAX)).next_back().map(|((address, _), _)| *address)
    }

    fn host_at_or_above(&self, address: u128) -> Option<u128> {
        self.look();
        self.hosts.range((address, 0)..).next().map(|((address, _), _)| *address)
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn holders(list: &[(&str, &str)]) -> Sorted {
    Sorted::new(list.iter().map(|(zone, text)| (*zone, address(text))))
}

fn native<'a>(text: &str, zone: &'a str) -> Asker<'a> {
    Asker::Holder { address: address(text), zone, prefix_order: false }
}

fn key() -> Key {
    "docker.io/library/a:1".parse().unwrap()
}

fn numbered(n: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 7781)
}

#[test]
fn tiers_come_in_order_for_both_families() {
    let v4 = holders(&[
        ("a", "10.0.0.9:1"),
        ("a", "10.0.7.9:1"),
        ("a", "10.9.0.9:1"),
        ("b", "10.0.0.8:1"),
        ("a", "[fd00::1]:1"),
    ]);
    let ranked = rank(&v4, &key(), &native("10.0.0.1:1", "a"), 10);
    assert_eq!(ranked[..2], [address("10.0.0.9:1"), address("10.0.7.9:1")]);
    assert_eq!(
        BTreeSet::from([ranked[2], ranked[3]]),
        BTreeSet::from([address("10.9.0.9:1"), address("[fd00::1]:1")])
    );
    assert_eq!(ranked[4], address("10.0.0.8:1"));

    let v6 = holders(&[
        ("", "[fd00:1:2:3::9]:1"),
        ("", "[fd00:1:2:4::9]:1"),
        ("", "[fd00:9::9]:1"),
        ("x", "[fd00:1:2:3::8]:1"),
    ]);
    let ranked = rank(&v6, &key(), &native("[fd00:1:2:3::1]:1", ""), 10);
    let expected =
        ["[fd00:1:2:3::9]:1", "[fd00:1:2:4::9]:1", "[fd00:9::9]:1", "[fd00:1:2:3::8]:1"].map(address);
    assert_eq!(ranked, expected);
}

#[test]
fn a_native_asker_is_left_out_but_not_its_neighbour_on_the_same_host() {
    let both = holders(&[("", "10.0.0.1:7781"), ("", "10.0.0.1:7791"), ("", "10.0.0.2:7781")]);
    for prefix_order in [false, true] {
        let asker = Asker::Holder { address: address("10.0.0.1:7781"), zone: "", prefix_order };
        let ranked = rank(&both, &key(), &asker, 10);
        assert!(!ranked.contains(&address("10.0.0.1:7781")), "{ranked:?}");
        assert_eq!(ranked.len(), 2);
    }
}

#[test]
fn a_bare_ip_leaves_out_all_on_it() {
    let both = holders(&[("", "10.0.0.1:7781"), ("", "10.0.0.1:7791"), ("", "10.0.0.2:7781")]);
    let ranked = rank(&both, &key(), &Asker::Host("10.0.0.1".parse().unwrap()), 10);
    assert_eq!(ranked, [address("10.0.0.2:7781")]);
}

#[test]
fn an_asker_that_is_the_only_holder_gets_no_holders() {
    let own = holders(&[("", "10.0.0.1:7781")]);
    assert_eq!(rank(&own, &key(), &native("10.0.0.1:7781", ""), 10), []);
    assert_eq!(rank(&own, &key(), &Asker::Host("10.0.0.1".parse().unwrap()), 10), []);
    assert_eq!(rank(&holders(&[]), &key(), &native("10.0.0.1:7781", ""), 10), []);
}

#[test]
fn equal_prefixes_go_by_address_then_by_text() {
    let list = holders(&[
        ("z", "10.0.0.3:9999"),
        ("a", "10.0.0.3:10000"),
        ("a", "10.0.0.2:1"),
        ("", "10.0.0.0:1"),
        ("", "192.168.0.1:1"),
        ("", "[fd00::1]:1"),
    ]);
    let ranked = rank(&list, &key(), &Asker::Host("10.0.0.1".parse().unwrap()), 10);
    let expected =
        ["10.0.0.0:1", "10.0.0.2:1", "10.0.0.3:10000", "10.0.0.3:9999", "192.168.0.1:1", "[fd00::1]:1"];
    assert_eq!(ranked, expected.map(address));
    let first = rank(&list, &key(), &Asker::Host("10.0.0.1".parse().unwrap()), 3);
    assert_eq!(first, expected[..3].iter().map(|text| address(text)).collect::<Vec<_>>());
}

/// A small deterministic RNG: tests print no seed, because it never changes.
fn numbers(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

/// Hosts of three zones and both families, close together.
fn some_hosts(next: &mut impl FnMut() -> u64, count: usize) -> BTreeSet<(&'static str, SocketAddr)> {
    let host = |_| {
        let zone = ["", "a", "b"][next() as usize % 3];
        let port = [80, 7781, 10_000][next() as usize % 3];
        let ip = match next() % 4 {
            0 => IpAddr::from((0xfd00_u128 << 112 | u128::from(next() % 9)).to_be_bytes()),
            1 => IpAddr::from(u128::from(next() % 9).to_be_bytes()),
            _ => IpAddr::from((0x0a00_0000 + (next() % 1_000) as u32).to_be_bytes()),
        };
        (SocketAddr::new(ip, port), zone)
    };
    // One zone each.
    let hosts: BTreeMap<_, _> = (0..count).map(host).collect();
    hosts.into_iter().map(|(address, zone)| (zone, address)).collect()
}

/// The order of the Go Piccolo, computed as it does.
fn sorted_by_prefix(holders: impl Iterator<Item = SocketAddr>, asker: IpAddr) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = holders.filter(|holder| holder.ip() != asker).collect();
    all.sort_by_key(|holder| {
        let common = (address_key(holder.ip()) ^ address_key(asker)).leading_zeros();
        (std::cmp::Reverse(common), address_key(holder.ip()), holder.to_string())
    });
    all
}

#[test]
fn the_prefix_order_is_that_of_sorting_everything() {
    let mut next = numbers(7);
    for round in 0..400 {
        let holders = [60, 400][round % 2];
        let count = 1 + next() as usize % holders;
        let list = some_hosts(&mut next, count);
        // In some rounds nearly all hosts hold the key, in others nearly none.
        let others = some_hosts(&mut next, [0, 20, 2_000][round % 3]);
        let asker = match next() % 3 {
            0 => numbered(next() as u32 % 1_000).ip(),
            1 => list.first().unwrap().1.ip(),
            _ => IpAddr::from(u128::from(next()).to_be_bytes()),
        };
        let mut naive = sorted_by_prefix(list.iter().map(|(_, holder)| *holder), asker);
        let wanted = 1 + next() as usize % [3, 70, 500][round % 3];
        naive.truncate(wanted);
        let sorted = Sorted::new(list).among(others.into_iter().map(|(_, other)| other));
        let ranked = rank(&sorted, &key(), &Asker::Host(asker), wanted);
        assert_eq!(ranked, naive, "round {round}");
    }
}

/// Each prefix length was searched in each zone: 6.4 million ranges under the lock for one lookup.
#[test]
fn a_zone_for_each_host_costs_the_prefix_order_no_more_than_a_look_at_each_holder() {
    const HOSTS: u32 = 50_000;
    let zones: Vec<String> = (0..HOSTS).map(|n| format!("zone-{n}")).collect();
    let far = |n: u32| SocketAddr::new(IpAddr::from((0xac10_0000 + n).to_be_bytes()), 7781);
    let all = || zones.iter().map(String::as_str).zip((0..HOSTS).map(numbered));
    let every_tenth = || all().step_by(10);
    for (what, list, looked_at_max) in [
        ("all hosts hold it", Sorted::new(all()), 200),
        ("every tenth", Sorted::new(every_tenth()).among(all().map(|(_, host)| host)), 400),
        (
            "only far ones",
            Sorted::new(all().map(|(zone, _)| zone).zip((0..HOSTS).map(far))).among((0..HOSTS).map(numbered)),
            HOSTS / 4 * 5,
        ),
    ] {
        let asker = "10.0.77.1".parse().unwrap();
        let ranked = rank(&list, &key(), &Asker::Host(asker), 16);
        let looked_at = list.looked_at.get();
        assert!(looked_at <= looked_at_max as usize, "{what}: {looked_at} looks");
        let holders = list.entries.iter().map(|(_, _, holder)| *holder);
        assert_eq!(ranked, sorted_by_prefix(holders, asker)[..16], "{what}");
    }
}

#[test]
fn every_holder_is_named_once_when_all_are_asked_for() {
    let mut next = numbers(11);
    for n in 1..200 {
        let list: Vec<_> =
            (0..n).map(|i| (["", "a"][next() as usize % 2], numbered(i * 37 % 70_000))).collect();
        let all: BTreeSet<_> = list.iter().map(|(_, holder)| *holder).collect();
        let ranked = rank(&Sorted::new(list), &key(), &native("10.0.0.200:1", "a"), 2_000);
        assert_eq!(ranked.len(), n as usize);
        assert_eq!(ranked.into_iter().collect::<BTreeSet<_>>(), all);
    }
}

#[test]
fn the_busiest_of_many_holders_is_given_at_most_three_times_the_mean() {
    const ASKERS: u32 = 10_000;
    for (n, count) in [(2, 1), (7, 1), (64, 1), (250, 1), (360, 3), (1_000, 16), (5_000, 16)] {
        // One /8, so that all but a few askers see the same tier.
        let list = Sorted::new((0..n).map(|i| ("", numbered(i * 256))));
        let mut load: HashMap<SocketAddr, u32> = HashMap::new();
        for asker in 0..ASKERS {
            let asker = SocketAddr::new(IpAddr::from((0xac10_0000 + asker).to_be_bytes()), 7781);
            let asker = Asker::Holder { address: asker, zone: "", prefix_order: false };
            for holder in rank(&list, &key(), &asker, count) {
                *load.entry(holder).or_default() += 1;
            }
        }
        let mean = f64::from(ASKERS) * count as f64 / f64::from(n);
        let busiest = f64::from(*load.values().max().unwrap());
        assert!(busiest <= 3.0 * mean, "{n} holders, {count} told: busiest {busiest}, mean {mean}");
        assert_eq!(load.len(), n as usize, "every holder has its share");
    }
}

#[test]
fn fifty_thousand_holders_are_not_looked_at_one_by_one() {
    let list = Sorted::new((0..50_000).map(|i| ("", numbered(i))));
    for asker in [native("10.0.77.1:7781", ""), Asker::Host("10.0.77.1".parse().unwrap())] {
        list.looked_at.set(0);
        assert_eq!(rank(&list, &key(), &asker, 16).len(), 16);
        assert!(list.looked_at.get() < 200, "{} looked at", list.looked_at.get());
    }
}

#[test]
fn the_same_question_has_the_same_answer() {
    let list = Sorted::new((0..500).map(|i| ("", numbered(i * 256))));
    let asker = native("10.0.0.1:7781", "");
    assert_eq!(rank(&list, &key(), &asker, 16), rank(&list, &key(), &asker, 16));
    assert_eq!(rank(&list, &key(), &Asker::Unknown, 2), [numbered(0), numbered(256)]);
}

#[test]
fn a_holder_that_could_not_be_reached_comes_last_in_every_order_and_one_with_wrong_bytes_never() {
    let all: Vec<_> = (1..=40).map(numbered).collect();
    let sorted = Sorted::new(all.iter().map(|holder| ("a", *holder)));
    let bad = |holder: SocketAddr| match holder.ip() {
        IpAddr::V4(ip) if ip.octets()[3] % 4 == 1 => Reputation::LeftOut,
        IpAddr::V4(ip) if ip.octets()[3] % 2 == 0 => Reputation::Last,
        _ => Reputation::Sound,
    };
    for asker in [Asker::Unknown, native("10.0.0.200:1", "a"), Asker::Host("10.0.0.200".parse().unwrap())] {
        let plain = rank(&sorted, &key(), &asker, 100);
        let with = |reputation| plain.iter().copied().filter(move |holder| bad(*holder) == reputation);
        let expected: Vec<_> = with(Reputation::Sound).chain(with(Reputation::Last)).collect();
        assert_eq!(expected.len(), 30);
        for count in [1, 4, 10, 11, 16, 30, 100] {
            let ranked = rank_by_reputation(&sorted, &key(), &asker, count, &mut { bad });
            assert_eq!(ranked, expected[..count.min(30)], "{asker:?} {count}");
        }
    }
}

#[test]
fn a_fleet_that_is_all_dead_is_not_searched_to_its_end() {
    let sorted = Sorted::new((0..50_000).map(|n| ("a", numbered(n))));
    let asker = native("10.200.0.1:1", "a");
    let mut asked = 0;
    let ranked = rank_by_reputation(&sorted, &key(), &asker, 16, &mut |_| {
        asked += 1;
        Reputation::Last
    });
    assert_eq!(ranked, rank(&sorted, &key(), &asker, 16), "somebody is better than nobody");
    assert!(asked <= 3 * (16 + RANKED_LAST_SKIPPED_MAX), "{asked}");
}
