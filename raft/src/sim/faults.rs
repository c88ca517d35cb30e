//! Shows that the checks can fail: builds that break a promise in one way each, and what finds them.

use super::seeds::{THREE, live};
use super::world::Fault;

/// A broken build is found within so many seeds.
const SEEDS: u64 = 30;

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
fn an_apply_that_skips_withdraws_on_one_server_is_found() {
    found(Fault::WithdrawSkippedOnOne, &["differ", "shows"]);
}

#[test]
fn an_apply_that_draws_dice_on_one_server_is_found() {
    found(Fault::DiceInApplyOfOne, &["differ", "does not show"]);
}

#[test]
fn a_lease_whose_end_deletes_is_found() {
    found(Fault::HideDeletes, &["does not show", "shows pair"]);
}
