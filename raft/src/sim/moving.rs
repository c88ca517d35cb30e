//! Servers whose addresses change, and names that cannot be looked up, or only slowly.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use rand::Rng;

use super::cluster::Cluster;
use super::host::{Role, address_of};
use super::nemesis::insist;
use super::net::{Dns, HostId, ip_of};
use super::world;
use crate::cluster::{Change, Who};

/// The promise for servers that all have new addresses, milliseconds.
const MOVED_MS: u64 = 10_000;
/// The promise for an election after the leader's death, milliseconds.
const ELECTION_MS: u64 = 2_000;
/// What slow DNS may add to anything, milliseconds.
const SLOW_MS: u64 = 1_000;
/// A leader looks at the membership several times within so long, milliseconds.
const NAT_MS: u64 = 3_000;
/// For what has no promise of its own, milliseconds.
const SOON_MS: u64 = 15_000;

const HOSTS: [HostId; 3] = [0, 1, 2];

fn set_dns(dns: Dns) {
    world::inside(|world| world.net.dns = dns);
}

/// Three hosts whose addresses are names.
fn named(seed: u64) -> Cluster {
    let list = HOSTS.map(address_of).to_vec();
    let mut cluster = Cluster::new(seed, vec![Role::Listed(list); 3]);
    HOSTS.into_iter().for_each(|id| cluster.start(id));
    cluster
}

/// Gives all hosts, which are down, other addresses and a list of them, and starts them.
fn move_all(cluster: &mut Cluster, to: [IpAddr; 3], named: bool) {
    for id in HOSTS {
        cluster.hosts[id].move_to(to[id], named);
    }
    let list: Vec<String> = cluster.hosts.iter().map(|host| host.address.clone()).collect();
    for id in HOSTS {
        cluster.hosts[id].role = Role::Listed(list.clone());
    }
    cluster.book.open().servers = list;
    HOSTS.into_iter().for_each(|id| cluster.start(id));
}

fn kill_all(cluster: &mut Cluster) {
    HOSTS.into_iter().for_each(|id| cluster.hosts[id].kill());
}

/// How long until somebody leads with a quorum, milliseconds.
#[track_caller]
fn until_led(cluster: &mut Cluster, deadline_ms: u64, what: &str) -> u64 {
    let start = cluster.now_ms;
    let led = cluster.run_until(deadline_ms, |cluster| cluster.leader().is_some());
    assert!(led, "{what}: no leader within {deadline_ms} ms: {}", cluster.tell());
    cluster.now_ms - start
}

/// Kills the leader and waits for the next one; the dead one comes back.
#[track_caller]
fn fail_over(cluster: &mut Cluster, deadline_ms: u64, what: &str) -> u64 {
    let dead = cluster.leader().expect("there is a leader");
    cluster.hosts[dead].kill();
    let took = until_led(cluster, deadline_ms, what);
    cluster.start(dead);
    took
}

/// Everybody's membership says where everybody is, and a write goes through any server.
#[track_caller]
fn expect_settled(cluster: &mut Cluster, what: &str) {
    let right = cluster.run_until(MOVED_MS, |cluster| {
        let mut expected: Vec<String> = cluster.hosts.iter().map(|host| host.address.clone()).collect();
        expected.sort();
        cluster.hosts.iter().all(|host| {
            let members = host.ask(|node| node.status().members).unwrap_or_default();
            let mut said: Vec<String> = members.into_iter().map(|info| info.member.raft_address).collect();
            said.sort();
            said == expected
        })
    });
    assert!(right, "{what}: the membership is not corrected: {}", cluster.tell());
    cluster.spawn_clients(1, 0);
    let before = cluster.book.open().ended;
    cluster.book.open().stop = true;
    let written = cluster.run_until(SOON_MS, |cluster| cluster.book.open().ended > before);
    assert!(written, "{what}: takes no write: {}", cluster.tell());
    assert_eq!(cluster.violations(), Vec::<String>::new(), "{what}");
}

/// Addresses that nobody had before, and, worse, those of the others.
#[test]
fn servers_that_all_get_other_bare_addresses_lead_again_within_ten_seconds() {
    for (seed, exchanged) in [(0, false), (1, true), (2, false), (3, true)] {
        let what = format!("seed {seed}, addresses exchanged: {exchanged}");
        let mut cluster = Cluster::new(seed, vec![Role::Listed(vec![]); 3]);
        move_all(&mut cluster, HOSTS.map(|id| ip_of(id, 1)), false);
        until_led(&mut cluster, SOON_MS, "the birth");
        let pause = world::inside(|world| world.rng.random_range(1500..4000));
        cluster.run(pause);
        kill_all(&mut cluster);
        let to = HOSTS.map(|id| if exchanged { ip_of((id + 1) % 3, 1) } else { ip_of(id, 2) });
        move_all(&mut cluster, to, false);
        let took = until_led(&mut cluster, MOVED_MS, &what);
        println!("{what}: {took} ms");
        expect_settled(&mut cluster, &what);
    }
}

/// One after the other, while the others go on with the list that they were started with.
#[test]
fn a_server_that_moves_alone_is_found_and_the_membership_learns_where() {
    let mut cluster = Cluster::new(7, vec![Role::Listed(vec![]); 3]);
    move_all(&mut cluster, HOSTS.map(|id| ip_of(id, 1)), false);
    until_led(&mut cluster, SOON_MS, "the birth");
    cluster.run(1000);
    for moving in HOSTS {
        cluster.hosts[moving].kill();
        cluster.hosts[moving].move_to(ip_of(moving, 2), false);
        // The one that moves has the list as it is then; nobody tells the others.
        let list: Vec<String> = cluster.hosts.iter().map(|host| host.address.clone()).collect();
        cluster.hosts[moving].role = Role::Listed(list.clone());
        cluster.book.open().servers = list;
        cluster.start(moving);
        until_led(&mut cluster, MOVED_MS, "the others, or all");
        let what = format!("s{moving} moves");
        let is_right = |cluster: &mut Cluster| {
            let moved = cluster.hosts[moving].address.clone();
            let says = |node: &crate::cluster::Node| {
                node.status().members.iter().any(|info| info.member.raft_address == moved)
            };
            cluster.hosts.iter().all(|host| host.ask(says) == Some(true))
        };
        assert!(cluster.run_until(MOVED_MS, is_right), "{what}: {}", cluster.tell());
    }
    expect_settled(&mut cluster, "all have moved");
}

/// The leader alone took its own address for wrong: it does not answer itself where all others reach it, and
/// answers where nobody else does. It corrected the membership to that, again and again. Now the others are asked.
#[test]
fn a_leader_behind_a_nat_keeps_the_address_at_which_the_others_reach_it() {
    let mut cluster = Cluster::new(12, vec![Role::Listed(vec![]); 3]);
    move_all(&mut cluster, HOSTS.map(|id| ip_of(id, 1)), false);
    until_led(&mut cluster, SOON_MS, "the birth");
    cluster.run(1_000);
    let ids = [0, 1].map(|host: HostId| cluster.hosts[host].ask(|node| node.status().node_id));
    let [id, other] = ids.map(|id| id.expect("it serves"));
    let outside = format!("{}:1", ip_of(0, 2));
    let changed = |cluster: &mut Cluster, change: Change| {
        let done = Arc::new(Mutex::new(false));
        let asking = insist(change, cluster.book.clone(), 12, done.clone());
        cluster.spawn(asking);
        let is_done = cluster.run_until(SOON_MS, |_| *done.lock().unwrap());
        assert!(is_done, "not changed: {}, {}", cluster.book.open().last_change, cluster.tell());
    };
    // A leader does not ask itself where it does not answer itself.
    changed(&mut cluster, Change::Transfer { to: Some(Who::Id(other)) });
    world::inside(|world| world.net.put_behind_nat(0, ip_of(0, 2)));
    cluster.book.open().servers[0].clone_from(&outside);
    changed(&mut cluster, Change::Replace { old: Who::Id(id), address: outside.clone() });
    for _ in 0..2 {
        changed(&mut cluster, Change::Transfer { to: Some(Who::Id(id)) });
        assert_eq!(cluster.leader(), Some(0));
        cluster.run_until(NAT_MS, |cluster| {
            let members = cluster.hosts[0].ask(|node| node.status().members).unwrap_or_default();
            let own = members.into_iter().find(|info| info.node_id == id).expect("it is a member");
            assert_eq!(own.member.raft_address, outside, "corrected to where only itself is");
            false
        });
        changed(&mut cluster, Change::Transfer { to: None });
    }
}

/// A StatefulSet after a power cut: DNS runs on the hosts that come back.
#[test]
fn dns_that_is_away_for_a_minute_costs_no_election_and_no_start() {
    let mut cluster = named(11);
    until_led(&mut cluster, SOON_MS, "the birth");
    // Until the addresses are on the disks.
    cluster.run(3_000);
    set_dns(Dns::Away);
    let begin = cluster.now_ms;
    let terms = |cluster: &Cluster| -> Vec<u64> {
        cluster.hosts.iter().filter_map(|host| host.ask(|node| node.term())).collect()
    };
    let before = terms(&cluster);
    cluster.run(35_000);
    assert_eq!(terms(&cluster), before, "somebody was elected while nothing happened");
    for round in 0..3 {
        fail_over(&mut cluster, ELECTION_MS, &format!("election {round} without DNS"));
        cluster.run(4_000);
    }
    kill_all(&mut cluster);
    cluster.run(1_000);
    HOSTS.into_iter().for_each(|id| cluster.start(id));
    until_led(&mut cluster, ELECTION_MS, "all start without DNS");
    let left = (begin + 60_000).saturating_sub(cluster.now_ms);
    cluster.run(left);
    fail_over(&mut cluster, ELECTION_MS, "the last election without DNS");
    expect_settled(&mut cluster, "after a minute without DNS");
}

#[test]
fn dns_that_takes_long_costs_at_most_one_more_second() {
    for seed in 20..23 {
        let mut times = [[0; 2]; 3];
        for (at, slow) in [false, true].into_iter().enumerate() {
            let mut cluster = Cluster::new(seed, vec![Role::Listed(HOSTS.map(address_of).to_vec()); 3]);
            let lookup_ms = if slow { 1_200 } else { 0 };
            set_dns(Dns::Slow(lookup_ms));
            HOSTS.into_iter().for_each(|id| cluster.start(id));
            // Nobody can know an address before the first lookup.
            let born = until_led(&mut cluster, SOON_MS, "the birth");
            cluster.run(3_000);
            let elected = fail_over(&mut cluster, ELECTION_MS + SLOW_MS, "an election");
            cluster.run(3_000);
            kill_all(&mut cluster);
            HOSTS.into_iter().for_each(|id| cluster.start(id));
            let started = until_led(&mut cluster, ELECTION_MS + SLOW_MS, "the start of all");
            times[0][at] = born.saturating_sub(lookup_ms);
            times[1][at] = elected;
            times[2][at] = started;
            kill_all(&mut cluster);
            // New addresses for the old names.
            move_all(&mut cluster, HOSTS.map(|id| ip_of(id, 2)), true);
            let moved = until_led(&mut cluster, ELECTION_MS + lookup_ms + SLOW_MS, "new addresses of names");
            println!(
                "seed {seed}, lookups of {lookup_ms} ms: born {born}, elected {elected}, started {started}, moved {moved} ms"
            );
            expect_settled(&mut cluster, "with new addresses");
        }
        for [sound, slow] in times {
            assert!(slow <= sound + SLOW_MS, "seed {seed}: {times:?}");
        }
    }
}
