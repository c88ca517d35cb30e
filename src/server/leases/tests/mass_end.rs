//! Many leases that end at once: how fast the hosts of a group may be hidden.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::limits::LEASE_SWEEP_INTERVAL;

/// Host `n` of a group.
fn member(group: &str, n: u32) -> Holder {
    Holder { group: group.into(), address: ((n + (10 << 24)).to_be_bytes(), 7781).into() }
}

fn members(group: &str, count: u32) -> Vec<HostLease> {
    (0..count).map(|n| host(member(group, n), NATIVE, None)).collect()
}

/// Sweeps as often as the leader does, for so long; returns what was due at each sweep.
fn sweeps(scene: &mut Scene, seconds: u32) -> Vec<Vec<Due>> {
    let sweep = |_| {
        scene.skip(LEASE_SWEEP_INTERVAL);
        scene.sweep()
    };
    (0..seconds * 10).map(sweep).collect()
}

fn hidden(due: &[Due], group: &str) -> usize {
    due.iter().filter(|due| matches!(due, Due::Hide(holder) if holder.group == group)).count()
}

/// The most hosts of a group that ten sweeps in a row, which take a second, hide.
fn busiest_second(swept: &[Vec<Due>], group: &str) -> usize {
    let counts: Vec<usize> = swept.iter().map(|due| hidden(due, group)).collect();
    counts.windows(10).map(|second| second.iter().sum()).max().unwrap()
}

fn total(swept: &[Vec<Due>], group: &str) -> usize {
    swept.iter().map(|due| hidden(due, group)).sum()
}

#[test]
fn of_a_group_a_hundredth_or_ten_hosts_is_hidden_in_any_second() {
    for (size, most) in
        [(1, 1), (5, 5), (10, 10), (11, 10), (999, 10), (1_000, 10), (1_100, 11), (50_000, 500)]
    {
        let mut scene = Scene::new(&members("g", size));
        assert_eq!(total(&sweeps(&mut scene, 89), "g"), 0);
        let swept = sweeps(&mut scene, 10);
        assert_eq!(busiest_second(&swept, "g"), most, "of {size}");
        let expected = (most * 10).min(size as usize);
        assert!((expected * 9 / 10..=expected).contains(&total(&swept, "g")), "of {size}");
    }
}

#[test]
fn a_small_group_ends_at_once_while_a_large_one_goes_slowly() {
    let hosts = [members("large", 20_000), members("small", 5), members("ten", 10)].concat();
    let mut scene = Scene::new(&hosts);
    sweeps(&mut scene, 89);
    let swept = sweeps(&mut scene, 1);
    assert_eq!(["large", "small", "ten"].map(|group| total(&swept, group)), [200, 5, 10]);
}

#[test]
fn a_host_over_the_budget_stays_visible_and_is_renewed_by_a_heartbeat() {
    let mut scene = Scene::new(&members("g", 5_000));
    sweeps(&mut scene, 89);
    let first = sweeps(&mut scene, 1);
    assert_eq!(total(&first, "g"), 50);
    let gone: HashSet<Holder> = first
        .concat()
        .into_iter()
        .map(|due| match due {
            Due::Hide(holder) | Due::Forget(holder, _) => holder,
        })
        .collect();
    // The cut has ended.
    for n in 0..5_000 {
        if !gone.contains(&member("g", n)) {
            scene.renew(&member("g", n), NATIVE);
        }
    }
    assert_eq!(sweeps(&mut scene, 89).concat(), []);
}

/// A cut hides some hosts, ends, and comes again: the hidden ones come back with one heartbeat each.
#[test]
fn all_hosts_of_a_fleet_come_back_with_one_heartbeat_each() {
    let mut scene = Scene::new(&members("g", 50_000));
    sweeps(&mut scene, 89);
    let mut gone = 0;
    for due in sweeps(&mut scene, 110).concat() {
        let Due::Hide(holder) = due else { panic!("{due:?}") };
        scene.follow(host(holder, NATIVE, Some(scene.unix_ms)));
        gone += 1;
    }
    assert_eq!(gone, 50_000);
    for n in 0..50_000 {
        let known = KnownHost { hidden: true, ..known() };
        let outcome = on_heartbeat(&member("g", n), Some(&known), &heartbeat());
        assert_eq!(
            outcome,
            HeartbeatOutcome { resync: false, commands: vec![Command::Unhide { holder: member("g", n) }] }
        );
        scene.renew(&member("g", n), NATIVE);
        assert_eq!(scene.follow(host(member("g", n), NATIVE, None)), []);
    }
    assert_eq!(sweeps(&mut scene, 89).concat(), []);
}

#[test]
fn a_sweep_takes_out_no_more_than_its_share_however_many_groups_end() {
    let mut hosts = Vec::new();
    for group in 0..4_000 {
        hosts.extend(members(&format!("g{group}"), 5));
    }
    let mut scene = Scene::new(&hosts);
    sweeps(&mut scene, 89);
    let swept = sweeps(&mut scene, 4);
    assert!(swept.iter().all(|due| due.len() <= HIDES_PER_SWEEP_MAX));
    assert_eq!(swept.iter().map(Vec::len).sum::<usize>(), 20_000, "and the next sweeps go on");
}

#[test]
fn forgetting_is_bounded_by_the_sweep_alone() {
    let since = START_MS - 86_400_000;
    let hosts: Vec<_> = (0..1_000).map(|n| host(member("g", n), NATIVE, Some(since))).collect();
    let mut scene = Scene::new(&hosts);
    assert_eq!(sweeps(&mut scene, 3_599).concat(), []);
    let swept = sweeps(&mut scene, 3);
    assert!(swept.iter().all(|due| due.len() <= FORGETS_PER_SWEEP_MAX));
    assert_eq!(swept.concat().len(), 1_000);
}

/// Compares with a model that visits every host at every step, for random orders of renewals, hides and time.
#[test]
fn no_host_is_hidden_early_and_none_over_the_budget() {
    for seed in 0..30 {
        let mut rng = StdRng::seed_from_u64(seed);
        let groups: Vec<(String, u32)> =
            (0..4).map(|n| (format!("g{n}"), rng.random_range(1..1_500))).collect();
        let hosts: Vec<_> = groups.iter().flat_map(|(name, count)| members(name, *count)).collect();
        let mut scene = Scene::new(&hosts);
        let mut ends: HashMap<Holder, Duration> =
            hosts.iter().map(|host| (host.holder.clone(), scene.now + Duration::from_secs(90))).collect();
        let mut swept = Vec::new();
        for step in 0..1_200 {
            scene.skip(LEASE_SWEEP_INTERVAL);
            for _ in 0..rng.random_range(0..3) {
                let (name, count) = &groups[rng.random_range(0..groups.len())];
                let (holder, ttl) = (member(name, rng.random_range(0..*count)), rng.random_range(3..60));
                scene.renew(&holder, ttl);
                ends.insert(holder, scene.now + Duration::from_secs(ttl.into()));
            }
            let due = scene.sweep();
            for due in &due {
                let Due::Hide(holder) = due else { panic!("seed {seed}: {due:?}") };
                let end = ends.remove(holder).unwrap_or_else(|| panic!("seed {seed}: twice {holder:?}"));
                assert!(end <= scene.now, "seed {seed}, step {step}: {holder:?} is hidden early");
            }
            swept.push(due);
        }
        for (name, count) in &groups {
            let most = (*count as usize / 100).max(10);
            assert!(busiest_second(&swept, name) <= most, "seed {seed}: group {name} of {count}");
            let overdue =
                ends.iter().filter(|(holder, end)| holder.group == *name && **end + HIDE_WINDOW < scene.now);
            let in_budget = swept.iter().rev().take(10).map(|due| hidden(due, name)).sum::<usize>() < most;
            assert!(!in_budget || overdue.count() == 0, "seed {seed}: group {name} of {count} is late");
        }
    }
}

/// This is no speed test: a scan of all ended leases at each sweep would take minutes here.
#[test]
fn a_hundred_thousand_leases_in_a_thousand_groups_that_end_together_are_swept_one_after_the_other() {
    let mut hosts = members("large", 50_000);
    for group in 0..1_000 {
        hosts.extend(members(&format!("g{group}"), 50));
    }
    let mut scene = Scene::new(&hosts);
    sweeps(&mut scene, 89);
    let swept = sweeps(&mut scene, 130);
    assert_eq!(total(&swept, "large"), 50_000);
    assert_eq!(swept.iter().map(Vec::len).sum::<usize>(), 100_000);
}
