//! Writes: who takes them, what bounds them, and how a follower that lacks some of them catches up.

use super::*;

#[test]
fn a_follower_names_the_leader_and_proposes_nothing() {
    let servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    let follower = &servers[(leading + 1) % 3];
    within(SOON, "a follower that knows the leader", || follower.node().leader());
    let before = servers[leading].node().index().applied_index();
    match follower.propose(advertise(0..1)) {
        Err(ProposeError::NotLeader { leader: Some(member) }) => {
            assert_eq!(member.api_address, format!("api-{leading}:7789"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(servers[leading].node().index().applied_index(), before);
}

/// Two seconds are the promise. One election of several may take longer where others keep the machine busy.
#[test]
fn writes_go_on_within_two_seconds_after_the_leader_is_killed() {
    let mut servers = servers(3);
    let mut times = Vec::new();
    for round in 0..5 {
        write(&servers, round);
        let leading = leader(&servers);
        servers[leading].kill();
        let start = std::time::Instant::now();
        let taken = within(SOON, "a write after the leader was killed", || {
            servers.iter().filter(|s| s.running.is_some()).find_map(|s| s.propose(advertise(100..101)).ok())
        });
        times.push(start.elapsed());
        println!("failover {:?}, index {}", start.elapsed(), taken.index);
        servers[leading].start(None);
        expect_on_all(&servers, 0..=round);
    }
    times.sort();
    assert!(times[2] < Duration::from_secs(2), "{times:?}");
}

#[test]
fn a_follower_behind_the_purged_log_catches_up_by_snapshot() {
    let mut servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    let follower = (leading + 1) % 3;
    servers[follower].kill();
    for number in 1..40 {
        write(&servers, number);
    }
    let upto = servers[leading].node().index().applied_index();
    for at in [leading, (leading + 2) % 3] {
        let node = servers[at].node().clone();
        servers[at].run(node.inner.compaction.compact(upto.min(node.index().applied_index())));
        within(SOON, "the purge", || {
            let purged = node.inner.leadership.raft.metrics().borrow_watched().purged;
            purged.is_some_and(|id: LogId| id.index > 30).then_some(())
        });
    }
    servers[follower].start(None);
    expect_on_all(&servers, 0..40);
    within(SOON, "openraft's word that it came by snapshot", || {
        let snapshot = servers[follower].node().inner.leadership.raft.metrics().borrow_watched().snapshot;
        snapshot.is_some_and(|id| id.index > 30).then_some(())
    });
    write(&servers, 40);
    expect_on_all(&servers, 0..=40);
    servers[follower].kill();
    servers[follower].start(None);
    expect_on_all(&servers, 0..=40);
}

#[test]
fn a_leader_without_a_quorum_refuses_writes_and_answers_reads() {
    let mut servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    for other in [(leading + 1) % 3, (leading + 2) % 3] {
        servers[other].kill();
    }
    within(SOON, "the loss of the quorum", || (!servers[leading].node().has_quorum()).then_some(()));
    match servers[leading].propose(advertise(1..2)) {
        Err(ProposeError::NotLeader { leader: None }) => {}
        other => panic!("{other:?}"),
    }
    let status = servers[leading].node().status();
    assert!(!status.quorum && status.reasons.iter().any(|reason| reason.contains("no leader")), "{status:?}");
    assert!(servers[leading].node().index().find("default", &key(0), |holders| holders.len()).is_some());
    servers[(leading + 1) % 3].start(None);
    write(&servers.split_off(0)[..], 1);
}

#[test]
fn a_command_over_the_limit_is_refused_before_it_is_proposed() {
    let servers = servers(1);
    write(&servers, 0);
    let before = servers[0].node().index().applied_index();
    match servers[0].propose(advertise(0..20_000)) {
        Err(ProposeError::TooLarge { bytes }) => assert!(bytes > COMMAND_BYTES_MAX),
        other => panic!("{other:?}"),
    }
    assert_eq!(servers[0].node().index().applied_index(), before);
}

#[test]
fn concurrent_proposals_share_commits() {
    let servers = servers(1);
    write(&servers, 0);
    let node = servers[0].node().clone();
    let (commits, start) = (node.inner.stores.log.commits(), std::time::Instant::now());
    let all = (0..500).map(|number| node.propose(advertise(number..number + 1)));
    let results = servers[0].run(futures_util::future::join_all(all));
    assert!(results.iter().all(Result::is_ok));
    let commits = node.inner.stores.log.commits() - commits;
    println!("500 writes: {commits} commits, {:?}", start.elapsed());
    assert!(commits < 100, "{commits} commits for 500 concurrent writes");
}

/// One append of all that it lacks would be larger than the receiver takes.
#[test]
fn a_follower_far_behind_catches_up_in_appends_of_bounded_size() {
    let mut servers = servers(3);
    write(&servers, 0);
    let follower = (leader(&servers) + 1) % 3;
    servers[follower].kill();
    let large = |number: usize| {
        let keys = (0..900).map(|at| format!("{number}-{at}-{}", "k".repeat(230)).parse().unwrap()).collect();
        let holder = crate::testing::holder(number as u8);
        Command::Advertise(Write { holder, pair: None, stores_pair: false, keys })
    };
    let count = crate::limits::APPEND_BODY_BYTES_MAX / COMMAND_BYTES_MAX * 7 / 4;
    for number in 0..count {
        within(SOON, "a large write", || servers[leader(&servers)].propose(large(number)).ok());
    }
    servers[follower].start(None);
    expect_on_all(&servers, 0..1);
    assert_eq!(servers[follower].node().index().counts().hosts, 1 + count as u64);
    let snapshot = servers[follower].node().inner.leadership.raft.metrics().borrow_watched().snapshot;
    assert_eq!(snapshot, None, "it did not come by the log");
}
