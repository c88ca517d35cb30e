//! Shows that the checks can fail: builds that break a promise in one way each, and what finds them.

use crate::log::LOG_FILE;

use super::cluster::Cluster;
use super::seeds::{THREE, live};
use super::world::{self, Fault};

/// A broken build is found within so many seeds.
const SEEDS: u64 = 30;

/// A leader is elected within this time, milliseconds.
const BIRTH_MS: u64 = 20_000;
/// Longer than a server needs to come back, and to write some.
const BETWEEN_CUTS_MS: u64 = 3_500;
const LOOK_MS: u64 = 100;
const POWER_CUTS: usize = 5;
/// A disk that does its syncs later does them so much later.
const SYNCS_LATE: usize = 4;

/// What is found, by the first seed that finds it.
fn found(fault: Fault, words: &[&str]) {
    for seed in 0..SEEDS {
        let violations = live(THREE, seed, Some(fault)).violations;
        if violations.iter().any(|text| words.iter().any(|word| text.contains(word))) {
            println!("{fault:?}: seed {seed}: {}", violations[0]);
            return;
        }
        assert!(violations.is_empty(), "{fault:?}: seed {seed}: something else: {violations:?}");
    }
    panic!("{fault:?} was not found within {SEEDS} seeds");
}

/// A life in which all servers lose their power at once, again and again. It goes on whatever is found.
fn live_through_power_cuts(seed: u64, fault: Option<Fault>) -> Vec<String> {
    let mut cluster = Cluster::of_listed(seed, 3, 0);
    assert!(cluster.run_until(BIRTH_MS, |cluster| cluster.leader().is_some()), "seed {seed}: not born");
    if let Some(fault) = fault {
        world::break_it(fault);
    }
    if fault == Some(Fault::LogSyncsAreLate) {
        cluster.hosts.iter().for_each(|host| host.disk.delay_syncs_of(LOG_FILE, SYNCS_LATE));
    }
    cluster.spawn_clients(3, 1);
    for _ in 0..POWER_CUTS {
        // What is lost may soon be written again: looks must be frequent.
        for _ in 0..BETWEEN_CUTS_MS / LOOK_MS {
            cluster.run(LOOK_MS);
            cluster.judge_all();
        }
        (0..3).for_each(|id| cluster.cut_power(id));
    }
    cluster.violations()
}

/// I1, by the history of the holders alone, whatever else finds the same life before it.
fn lost_by_the_history(fault: Fault) {
    let lost = |text: &String| ["does not show", "shows pair"].iter().any(|words| text.contains(words));
    for seed in 0..SEEDS {
        assert_eq!(
            live_through_power_cuts(seed, None),
            Vec::<String>::new(),
            "seed {seed}, nothing is broken"
        );
        let violations = live_through_power_cuts(seed, Some(fault));
        if let Some(text) = violations.into_iter().find(lost) {
            println!("{fault:?}: seed {seed}: {text}");
            return;
        }
    }
    panic!("{fault:?}: no acknowledged write was missed within {SEEDS} seeds");
}

#[test]
fn a_disk_that_acknowledges_syncs_and_does_them_later_loses_acknowledged_writes() {
    lost_by_the_history(Fault::LogSyncsAreLate);
}

#[test]
fn an_append_that_is_acknowledged_before_its_commit_loses_acknowledged_writes() {
    lost_by_the_history(Fault::AppendAckedBeforeCommit);
}

#[test]
fn a_disk_that_acknowledges_syncs_without_doing_them_is_found() {
    found(
        Fault::LogSyncIsALie,
        &["does not start", "does not show", "shows", "differ", "forgotten its vote"],
    );
}

#[test]
fn a_vote_that_is_answered_before_it_is_on_disk_is_found() {
    found(Fault::VoteIsNotSynced, &["forgotten its vote"]);
}

#[test]
fn an_append_that_is_acknowledged_before_its_commit_is_found() {
    found(Fault::AppendAckedBeforeCommit, &["does not show", "shows", "differ", "raft ended"]);
}

#[test]
fn a_server_that_loses_withdraws_is_found() {
    found(Fault::WithdrawsLostOnOne, &["differ", "shows"]);
}

#[test]
fn a_server_that_loses_some_advertises_is_found() {
    found(Fault::AdvertisesLostAtRandomOnOne, &["differ", "does not show"]);
}

#[test]
fn a_lease_whose_end_deletes_is_found() {
    found(Fault::HideDeletes, &["does not show", "shows pair"]);
}
