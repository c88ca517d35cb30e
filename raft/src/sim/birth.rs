//! How a cluster is born: one, or none, never two, whatever the order and the moment of starts, crashes
//! and wipes.

use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::cluster::{Change, Who};
use crate::limits::FOUND_AFTER;

use super::cluster::Cluster;
use super::host::{Role, address_of};
use super::nemesis::insist;
use super::net::HostId;
use super::world::{self, Fault};

/// With equal lists and nobody wiped, a cluster is born and takes a write within so long, milliseconds.
const BIRTH_MS: u64 = 15_000;
/// For so long nothing may be born that must not be.
const NEVER_MS: u64 = 6_000;

fn list() -> Vec<String> {
    (0..3).map(address_of).collect()
}

fn three(seed: u64) -> Cluster {
    Cluster::new(seed, vec![Role::Listed(list()); 3])
}

/// All of one cluster, with a leader, and it takes writes.
fn expect_one(cluster: &mut Cluster, told: &str) {
    let born = cluster.run_until(BIRTH_MS, |cluster| {
        let all = |cluster: &Cluster| cluster.seen.clusters.values().any(|hosts| hosts.len() == 3);
        cluster.leader().is_some() && all(cluster)
    });
    assert!(born, "{told}: not born: {:?}, {}", cluster.seen.clusters, cluster.tell());
    cluster.spawn_clients(1, 0);
    cluster.book.open().stop = true;
    let written = cluster.run_until(BIRTH_MS, |cluster| cluster.book.open().ended == 1);
    assert!(written, "{told}: takes no write: {}", cluster.tell());
    expect_sound(cluster, told);
}

fn expect_sound(cluster: &Cluster, told: &str) {
    assert_eq!(cluster.violations(), Vec::<String>::new(), "{told}");
}

#[test]
fn any_order_and_timing_of_three_starts_bears_one_cluster() {
    for gap_ms in [0, 40, 400, 2500] {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut cluster = three(gap_ms + order[0] as u64 * 7 + order[1] as u64);
            for id in order {
                cluster.start(id);
                let gap = world::inside(|world| world.rng.random_range(0..=gap_ms));
                cluster.run(gap);
            }
            expect_one(&mut cluster, &format!("order {order:?}, gap {gap_ms} ms"));
        }
    }
}

/// Syncs of each disk until the first write is everywhere.
fn syncs_of_a_birth(seed: u64) -> Vec<u64> {
    let mut cluster = three(seed);
    (0..3).for_each(|id| cluster.start(id));
    expect_one(&mut cluster, "undisturbed");
    cluster.hosts.iter().map(|host| host.disk.syncs()).collect()
}

fn a_crash_at_each_sync_bears_one(seed: u64) -> usize {
    let mut crashes = 0;
    for (victim, syncs) in syncs_of_a_birth(seed).into_iter().enumerate() {
        for sync in 1..=syncs {
            let mut cluster = three(seed);
            cluster.hosts[victim].disk.cut_power_at_sync(sync);
            (0..3).for_each(|id| cluster.start(id));
            expect_one(&mut cluster, &format!("seed {seed}: s{victim} loses its power at sync {sync}"));
            crashes += cluster.seen.cuts;
        }
    }
    crashes
}

#[test]
fn a_power_cut_at_any_sync_of_a_birth_bears_one_cluster() {
    let crashes = a_crash_at_each_sync_bears_one(1);
    println!("{crashes} crashes");
    assert!(crashes > 30, "{crashes}");
}

#[test]
fn soak_power_cuts_at_any_sync_of_many_births_bear_one_cluster() {
    for seed in 2..40 {
        a_crash_at_each_sync_bears_one(seed);
    }
}

#[test]
fn power_cuts_of_all_three_during_a_birth_bear_one_cluster() {
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut cluster = three(seed);
        for id in 0..3 {
            cluster.hosts[id].disk.cut_power_at_sync(rng.random_range(1..16));
            cluster.start(id);
        }
        expect_one(&mut cluster, &format!("seed {seed}"));
    }
}

/// The one with the other list finds nobody who agrees, and nobody agrees with it.
#[test]
fn one_node_with_another_list_bears_no_second_cluster() {
    for odd in 0..3 {
        let other: Vec<String> = [0, 1, 2].map(|id| address_of(if id == 2 { 3 } else { id })).to_vec();
        let mut roles = vec![Role::Listed(list()); 4];
        roles[odd] = Role::Listed(other.clone());
        roles[3] = Role::Listed(other);
        for with_fourth in [false, true] {
            let mut cluster = Cluster::new(odd as u64, roles.clone());
            (0..if with_fourth { 4 } else { 3 }).for_each(|id| cluster.start(id));
            cluster.run(NEVER_MS);
            expect_sound(&cluster, &format!("s{odd} differs, the fourth runs: {with_fourth}"));
        }
    }
}

/// Some of three are wiped at some moment of the birth or after it, others are down then.
fn wipe_some(seed: u64, fault: Option<Fault>) -> (Vec<String>, usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = three(seed);
    if let Some(fault) = fault {
        world::break_it(fault);
    }
    (0..3).for_each(|id| cluster.start(id));
    cluster.run([20, 60, 120, 200, 400, 1500, 4000][rng.random_range(0..7)]);
    let mut victims: Vec<HostId> = vec![0, 1, 2];
    victims.shuffle(&mut rng);
    victims.truncate(rng.random_range(1..=2));
    let down: Vec<HostId> = (0..3).filter(|id| !victims.contains(id) && rng.random()).collect();
    for id in down {
        cluster.kill(id);
    }
    for id in victims {
        cluster.wipe(id, Role::Listed(list()));
        cluster.run(rng.random_range(0..300));
        cluster.start(id);
    }
    cluster.run(NEVER_MS);
    (cluster.violations(), cluster.seen.clusters.len())
}

#[test]
fn a_partial_wipe_bears_no_second_cluster() {
    let mut clusters = 0;
    for seed in 0..40 {
        let (violations, alive) = wipe_some(seed, None);
        assert_eq!(violations, Vec::<String>::new(), "seed {seed}");
        clusters += alive;
    }
    assert!(clusters > 20, "after wipes there was a cluster {clusters} times");
}

#[test]
fn a_founder_that_does_not_wait_for_all_is_found() {
    let found = (0..60).find(|seed| {
        let (violations, _) = wipe_some(*seed, Some(Fault::FoundsWithoutSeeingAll));
        violations.iter().any(|text| text.contains("two clusters"))
    });
    println!("found by seed {found:?}");
    assert!(found.is_some());
}

/// Asks for a change until it is done.
fn change(cluster: &mut Cluster, change: Change, told: &str) {
    let done = Arc::new(Mutex::new(false));
    let seed = world::inside(|world| world.rng.random());
    let asking = insist(change, cluster.book.clone(), seed, done.clone());
    cluster.spawn(asking);
    let is_done = cluster.run_until(2 * BIRTH_MS, |_| *done.lock().unwrap());
    assert!(is_done, "{told}: not changed: {}, {}", cluster.book.open().last_change, cluster.tell());
}

/// The first server of a cluster that has grown from one to three gets an empty disk; the others may be
/// down when it does, and come back.
fn wipe_the_first(seed: u64, fault: Option<Fault>) -> Vec<String> {
    let told = format!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let alone = Role::Listed(vec![address_of(0)]);
    let joins = Role::Joining(address_of(0));
    let mut cluster = Cluster::new(seed, vec![alone.clone(), joins.clone(), joins]);
    (0..3).for_each(|id| cluster.start(id));
    let born = cluster.run_until(BIRTH_MS, |cluster| cluster.leader() == Some(0));
    assert!(born && cluster.now_ms >= FOUND_AFTER.as_millis() as u64, "{told}: {}", cluster.tell());
    let addresses = [1, 2].map(address_of).to_vec();
    change(&mut cluster, Change::Add { addresses }, &told);
    if let Some(fault) = fault {
        world::break_it(fault);
    }
    let old = cluster.hosts[0].node().expect("it serves").parts().1.node_id;
    cluster.run([0, 20, 400, 2000][rng.random_range(0..4)]);
    for id in [1, 2] {
        if rng.random() {
            cluster.kill(id);
        }
    }
    cluster.wipe(0, alone);
    cluster.run(rng.random_range(0..300));
    cluster.start(0);
    cluster.run(FOUND_AFTER.as_millis() as u64 + NEVER_MS);
    let violations = cluster.violations();
    if violations.is_empty() {
        let address = address_of(0);
        change(&mut cluster, Change::Replace { old: Who::Id(old), address }, &told);
        let level = cluster.run_until(BIRTH_MS, |cluster| cluster.is_level());
        assert!(level, "{told}: not level: {}", cluster.tell());
        expect_sound(&cluster, &told);
    }
    violations
}

#[test]
fn the_first_server_of_a_grown_cluster_founds_no_second_one_on_an_empty_disk() {
    for seed in 0..12 {
        assert_eq!(wipe_the_first(seed, None), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn a_founder_that_does_not_listen_is_found() {
    let founds = |seed: &u64| {
        let violations = wipe_the_first(*seed, Some(Fault::FoundsWithoutListening));
        violations.iter().any(|text| text.contains("two clusters"))
    };
    assert!((0..4).any(|seed| founds(&seed)));
}
