//! Servers whose disks get full: of the room that they see, not of the files.

use super::*;

const MIB: u64 = 1 << 20;
const MINIMUM: u64 = 4 * MIB;
/// Keys of one write, and about its bytes.
const KEYS: usize = 1000;
/// More than a low disk still takes.
const WRITES: usize = 16;

/// Three servers that want [`MINIMUM`], with more.
fn three() -> Vec<Server> {
    let start = |(mut server, listener): (Server, Option<TcpListener>)| {
        server.config.disk_free_min = Some(MINIMUM);
        server.has(1024 * MIB);
        server.start(listener);
        server
    };
    servers_stopped(3, |all, _| all.to_vec()).into_iter().map(start).collect()
}

impl Server {
    /// From now on so much is free, the ballast included.
    fn has(&self, free_bytes: u64) {
        self.room.set_space(Space { free_bytes, total_bytes: 64 * 1024 * MIB });
    }

    fn is_low(&self) -> bool {
        self.node().disk().is_some_and(|disk| disk.low)
    }

    fn fills_up(&self) {
        let ballast =
            within(SOON, "a ballast", || Some(self.room.ballast().unwrap()).filter(|bytes| *bytes > 0));
        self.has(MINIMUM / 2 + ballast);
        within(SOON, "a disk that is seen to be low", || self.is_low().then_some(()));
    }
}

/// A batch of keys through whoever leads.
#[track_caller]
fn write_many(servers: &[Server], number: usize) {
    let keys = number * KEYS..(number + 1) * KEYS;
    within(SOON, "a large write", || servers[leader(servers)].propose(advertise(keys.clone())).ok());
}

fn terms(servers: &[Server]) -> u64 {
    servers.iter().filter(|s| s.running.is_some()).map(|s| s.node().term()).max().unwrap()
}

#[track_caller]
fn never_within(time: Duration, what: &str, mut bad: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while start.elapsed() < time {
        assert!(!bad(), "{what}, after {:?}", start.elapsed());
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[test]
fn a_leader_whose_disk_is_low_hands_over_and_writes_go_on() {
    let servers = three();
    write(&servers, 0);
    let first = leader(&servers);
    servers[first].fills_up();
    let second = within(SOON, "another leader", || {
        let leading = leader(&servers);
        (leading != first).then_some(leading)
    });
    for number in 0..WRITES {
        write_many(&servers, number);
    }
    never_within(Duration::from_secs(2), "it leads again", || servers[first].node().is_leader());
    let behind = || servers[first].node().index().applied_index();
    assert!(behind() < servers[second].node().index().applied_index(), "it has stored everything");
    let term = terms(&servers);
    servers[first].has(1024 * MIB);
    expect_on_all(&servers, 0..WRITES * KEYS);
    assert_eq!(terms(&servers), term, "its return has cost an election");
}

#[test]
fn a_follower_whose_disk_is_low_gets_nothing_holds_nobody_up_and_comes_back_by_snapshot() {
    let servers = three();
    write(&servers, 0);
    let leading = leader(&servers);
    let node = servers[leading].node().clone();
    let follower = &servers[(leading + 1) % 3];
    follower.fills_up();
    let term = terms(&servers);
    for number in 0..WRITES {
        write_many(&servers, number);
    }
    let stored = follower.node().index().applied_index();
    never_within(Duration::from_secs(3), "an election, or an entry on the low disk", || {
        write(&servers, WRITES * KEYS);
        terms(&servers) != term || follower.node().index().applied_index() != stored
    });
    let seen = |status: ClusterStatus| {
        let member = status
            .members
            .into_iter()
            .find(|member| member.node_id == follower.node().inner.contacts.identity.node_id);
        member.unwrap().disk.is_some_and(|disk| disk.low)
    };
    within(SOON, "the leader's status tells", || seen(node.status()).then_some(()));
    assert!(
        follower.node().status().reasons[0].contains("the disk is low"),
        "{:?}",
        follower.node().status()
    );

    let upto = node.index().applied_index();
    servers[leading].run(node.inner.compaction.compact(upto));
    within(SOON, "a purge that does not wait for the low one", || {
        let purged = node.inner.leadership.raft.metrics().borrow_watched().purged;
        purged.is_some_and(|id: LogId| id.index == upto).then_some(())
    });
    follower.has(1024 * MIB);
    let start = std::time::Instant::now();
    expect_on_all(&servers, 0..WRITES * KEYS);
    println!("back within {:?}", start.elapsed());
    assert_eq!(terms(&servers), term);
}

#[test]
fn without_a_majority_with_room_writes_are_refused_until_there_is_one() {
    let servers = three();
    write(&servers, 0);
    let leading = leader(&servers);
    let others = [(leading + 1) % 3, (leading + 2) % 3];
    others.iter().for_each(|other| servers[*other].fills_up());
    let reason = within(SOON, "a refusal", || servers[leading].node().no_room()).to_string();
    for other in others {
        assert!(reason.contains(&servers[other].address.to_string()), "{reason}");
    }
    match servers[leading].propose(advertise(1..2)) {
        Err(ProposeError::NoRoom(reason)) => assert!(reason.to_string().contains("2.0 MiB free"), "{reason}"),
        other => panic!("{other:?}"),
    }
    servers[others[0]].has(1024 * MIB);
    let taken = || servers[leader(&servers)].propose(advertise(1..2)).ok();
    within(SOON, "a write", taken);
    servers[others[1]].has(1024 * MIB);
    expect_on_all(&servers, 0..2);
}

#[test]
fn with_all_disks_low_there_is_a_leader_also_after_the_next_start() {
    let mut servers = three();
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    servers.iter().for_each(Server::fills_up);
    for round in 0..2 {
        let leading = within(SOON, "a leader that refuses", || {
            let leading = leader(&servers);
            servers[leading].node().no_room().map(|_| leading)
        });
        let node = servers[leading].node().clone();
        // Its first entry is committed: keepalives are answered.
        servers[leading].run(node.catch_up()).unwrap();
        drop(node);
        match round {
            0 => servers[leading].kill(),
            _ => servers.iter_mut().filter(|s| s.running.is_some()).for_each(Server::kill),
        }
        if round == 0 {
            let two = within(SOON, "one of the two others leads", || Some(leader(&servers)));
            assert_ne!(two, leading);
            servers.iter_mut().filter(|s| s.running.is_some()).for_each(Server::kill);
        }
        servers.iter_mut().for_each(|server| server.start(None));
    }
    servers.iter().for_each(|server| server.has(1024 * MIB));
    write(&servers, 1);
    expect_on_all(&servers, 0..2);
}

#[test]
fn a_node_whose_disk_is_low_does_not_win_while_another_can() {
    let mut servers = three();
    write(&servers, 0);
    let leading = leader(&servers);
    let low = (leading + 1) % 3;
    servers[low].fills_up();
    // The look after that one has told openraft.
    std::thread::sleep(crate::limits::DISK_LOOK_INTERVAL * 2);
    // It would win every other time.
    let mut leading = leading;
    for _ in 0..5 {
        expect_on_all(&servers, 0..1);
        servers[leading].kill();
        let start = std::time::Instant::now();
        let next = 3 - low - leading;
        let elected = leader(&servers);
        if elected == low && start.elapsed() >= crate::limits::CANDIDATE_AFTER {
            println!("no election within {:?} on this machine: then it may", start.elapsed());
            return;
        }
        assert_eq!(elected, next);
        servers[leading].start(None);
        leading = next;
    }
    servers[3 - low - leading].kill();
    // Alone with a low one it can store nothing for sure.
    within(SOON, "a refusal", || servers[leading].node().no_room());
}

#[test]
fn the_ballast_is_given_back_on_a_full_disk_and_made_again() {
    let servers = three();
    write(&servers, 0);
    let server = &servers[0];
    let ballast = || server.room.ballast().unwrap();
    let size = within(SOON, "a ballast", || Some(ballast()).filter(|bytes| *bytes > 0));
    assert_eq!(size, MINIMUM / 2);
    server.has(size + MINIMUM / 2);
    within(SOON, "a low disk", || server.is_low().then_some(()));
    never_within(Duration::from_secs(1), "the ballast is gone while there is room", || ballast() == 0);
    server.has(size);
    within(SOON, "the ballast given back", || (ballast() == 0).then_some(()));
    server.has(MINIMUM * 9 / 8 + size - 1);
    within(SOON, "room again", || (!server.is_low()).then_some(()));
    never_within(Duration::from_secs(1), "a ballast that makes the disk low", || ballast() > 0);
    server.has(MINIMUM * 9 / 8 + size);
    within(SOON, "the ballast again", || (ballast() == size).then_some(()));
}
