//! Servers that come, go, and change places, on real sockets.

mod interrupted;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant as StdInstant;

use openraft::raft::VoteRequest;

use super::*;
use crate::cluster::{Change, MembersError, Phase, Progress, Refusal, Who};
use crate::limits::SEED_ENTRIES_MIN;
use crate::network::identity::Identity;

/// A server that waits to be admitted by the cluster of `member`.
pub(super) fn joining(member: &Server) -> Server {
    joining_seeing(member, None)
}

pub(super) fn joining_seeing(member: &Server, api_port: Option<Arc<dyn ApiPort>>) -> Server {
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let config = NodeConfig {
        members: Vec::new(),
        raft_address: Some(address.to_string()),
        api_address: format!("api-{}:7789", address.port()),
        disk_free_min: Some(0),
        found_after: Duration::ZERO,
        api_port,
    };
    let folder = tempfile::tempdir().unwrap();
    let join = Some(member.address.to_string());
    let room = MemoryDisk::default();
    let mut server = Server {
        address,
        config,
        join,
        folder,
        room,
        resolver: None,
        connections: Connections::default(),
        running: None,
    };
    server.start(Some(listener));
    server
}

impl Server {
    pub(super) fn id(&self) -> NodeId {
        self.node().status().node_id
    }

    fn step(&self, change: &Change) -> Result<Progress, MembersError> {
        self.run(self.node().change_members(change.clone()))
    }
}

/// Asks whoever leads, again and again.
#[track_caller]
pub(super) fn done(servers: &[&Server], change: Change) -> Vec<Phase> {
    let mut phases = Vec::new();
    within(SOON, &format!("{change:?}"), || {
        let leading = servers.iter().find(|s| s.running.is_some() && s.node().is_leader())?;
        match leading.step(&change) {
            Ok(progress) => {
                if phases.last() != Some(&progress.phase) {
                    phases.push(progress.phase);
                }
                (progress.phase == Phase::Done).then_some(())
            }
            Err(MembersError::Propose(_)) => None,
            Err(error) => panic!("{change:?}: {error}"),
        }
    });
    phases
}

#[track_caller]
pub(super) fn refusal(servers: &[Server], change: Change) -> Refusal {
    within(SOON, "a refusal", || match servers[leader(servers)].step(&change) {
        Err(MembersError::Refused(refusal)) => Some(refusal),
        Err(MembersError::Propose(_)) => None,
        other => panic!("{change:?}: {other:?}"),
    })
}

pub(super) fn add(server: &Server) -> Change {
    Change::Add { addresses: vec![server.address.to_string()] }
}

pub(super) fn remove(server: &Server) -> Change {
    Change::Remove { who: Who::Address(server.address.to_string()) }
}

/// Voters by id as all of `servers` see them.
#[track_caller]
pub(super) fn expect_voters(servers: &[&Server], voters: &[&Server]) {
    let mut expected: Vec<NodeId> = voters.iter().map(|server| server.id()).collect();
    expected.sort();
    for server in servers {
        within(SOON, "the membership everywhere", || {
            let members = server.node().status().members;
            let voters = members.iter().filter(|m| m.role != Role::Learner);
            (members.len() == expected.len() && voters.map(|m| m.node_id).eq(expected.iter().copied()))
                .then_some(())
        });
    }
}

pub(super) fn refs(servers: &[Server]) -> Vec<&Server> {
    servers.iter().collect()
}

#[track_caller]
pub(super) fn expect_removed(server: &Server) {
    let reason = server.run(async {
        tokio::time::timeout(SOON, server.node().failed()).await.expect("it learns that it was removed")
    });
    assert!(reason.to_string().contains("was removed from its cluster"), "{reason}");
}

#[test]
fn a_joining_server_waits_says_so_and_becomes_a_voter_with_all_data() {
    let mut servers = servers(3);
    for number in 0..10 {
        write(&servers, number);
    }
    let new = joining(&servers[0]);
    let reasons = within(SOON, "its reason", || {
        let reasons = new.node().status().reasons;
        reasons.iter().any(|reason| reason.contains("waits to be admitted to cluster")).then_some(reasons)
    });
    assert!(reasons[0].contains(&format!("piccolo members add {}", new.address)), "{reasons:?}");
    assert_eq!(new.node().status().cluster_id, None);
    let change = add(&new);
    servers.push(new);
    done(&refs(&servers), change.clone());
    write(&servers, 10);
    expect_on_all(&servers, 0..=10);
    expect_voters(&refs(&servers), &refs(&servers));
    within(SOON, "no reason left", || servers[3].node().status().reasons.is_empty().then_some(()));
    assert_eq!(done(&refs(&servers), change), [Phase::Done], "a repetition changes nothing");
    // It votes: with two of four down nothing is written, with one down all is.
    servers[3].kill();
    servers[3].start(None);
    write(&servers, 11);
    expect_on_all(&servers, 0..=11);
}

#[test]
fn an_empty_server_gets_a_snapshot_and_not_a_long_log() {
    let mut servers = servers(1);
    write(&servers, 0);
    let node = servers[0].node().clone();
    let all = (0..SEED_ENTRIES_MIN as usize + 100).map(|number| node.propose(advertise(number..number + 1)));
    servers[0].run(futures_util::future::join_all(all));
    assert_eq!(node.inner.stores.log.purged(), None, "the log is whole");
    let new = joining(&servers[0]);
    let change = add(&new);
    servers.push(new);
    let phases = done(&refs(&servers), change);
    assert!(phases.contains(&Phase::Snapshot), "{phases:?}");
    write(&servers, 5000);
    expect_on_all(&servers, 0..SEED_ENTRIES_MIN as usize);
    let purged = servers[1].node().inner.stores.log.purged().expect("its log begins behind a snapshot");
    assert!(purged.index >= SEED_ENTRIES_MIN, "{purged}");
}

#[test]
fn a_server_that_has_its_snapshot_is_no_member_until_it_is_admitted() {
    let mut servers = servers(1);
    write(&servers, 0);
    let node = servers[0].node().clone();
    let all = (0..SEED_ENTRIES_MIN as usize + 100).map(|number| node.propose(advertise(number..number + 1)));
    servers[0].run(futures_util::future::join_all(all));
    let new = joining(&servers[0]);
    let change = add(&new);
    let progress = within(SOON, "a step", || servers[0].step(&change).ok());
    assert_eq!(progress.phase, Phase::Snapshot);
    within(SOON, "its snapshot", || (new.node().index().applied_index() > 0).then_some(()));
    assert!(!new.node().is_member(), "nobody admits it while nobody asks");
    servers.push(new);
    done(&refs(&servers), change);
    within(SOON, "its admission", || servers[1].node().is_member().then_some(()));
    servers[0].kill();
    servers[1].kill();
    servers[1].start(None);
    within(SOON, "a member without a quorum", || servers[1].node().is_member().then_some(()));
}

#[test]
fn behind_a_purged_log_an_empty_server_catches_up_by_snapshot() {
    let mut servers = servers(1);
    for number in 0..40 {
        write(&servers, number);
    }
    let node = servers[0].node().clone();
    let upto = node.index().applied_index();
    servers[0].run(node.inner.compaction.compact(upto));
    within(SOON, "the purge", || node.inner.stores.log.purged());
    let new = joining(&servers[0]);
    let change = add(&new);
    servers.push(new);
    done(&refs(&servers), change);
    expect_on_all(&servers, 0..40);
    within(SOON, "its log begins behind a snapshot", || servers[1].node().inner.stores.log.purged());
}

#[test]
fn a_wiped_server_is_replaced_at_its_address_and_the_old_one_is_buried() {
    let mut servers = servers(3);
    write(&servers, 0);
    let victim = (leader(&servers) + 1) % 3;
    let old = servers[victim].id();
    servers[victim].kill();
    servers[victim].wipe();
    for number in 1..20 {
        write(&servers, number);
    }
    // With the same list as before: it waits for a cluster, and is admitted all the same.
    servers[victim].start(None);
    assert_ne!(servers[victim].id(), old);
    let address = servers[victim].address.to_string();
    let change = Change::Replace { old: Who::Address(address.clone()), address };
    done(&refs(&servers), change.clone());
    write(&servers, 20);
    expect_on_all(&servers, 0..=20);
    expect_voters(&refs(&servers), &refs(&servers));
    assert!(servers.iter().all(|server| server.node().is_leaving(old)), "a tombstone");
    assert_eq!(done(&refs(&servers), change), [Phase::Done]);
}

#[test]
fn a_removed_leader_hands_over_ends_and_does_not_start_again() {
    let mut servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    let change = remove(&servers[leading]);
    let id = servers[leading].id();
    let first = servers[leading].step(&change).unwrap();
    assert_eq!(first.phase, Phase::Leadership, "{first:?}");
    let by_id = Change::Remove { who: Who::Id(id) };
    done(&refs(&servers), by_id.clone());
    expect_removed(&servers[leading]);
    let mut removed = servers.remove(leading);
    write(&servers, 1);
    expect_on_all(&servers, 0..=1);
    expect_voters(&refs(&servers), &refs(&servers));
    assert_eq!(done(&refs(&servers), by_id), [Phase::Done]);

    removed.kill();
    let runtime = Runtime::new().unwrap();
    let disk = Arc::new(FolderDisk::open(removed.folder.path()).unwrap());
    let error = within(SOON, "an answer that the files of the killed node do not delay", || {
        match runtime.block_on(removed.try_open(disk.clone())) {
            Err(StartError::Log(_) | StartError::Index(_) | StartError::InUse { .. }) => None,
            Err(error) => Some(error),
            Ok(_) => panic!("a removed server started"),
        }
    });
    assert!(matches!(error, StartError::Removed { node_id } if node_id == id), "{error:?}");
    assert!(error.to_string().contains("start with an empty folder and --join"), "{error}");
}

#[test]
fn who_was_away_when_it_was_removed_learns_it_on_its_return() {
    let mut servers = servers(3);
    write(&servers, 0);
    let away = (leader(&servers) + 1) % 3;
    expect_on_all(&servers, 0..1);
    servers[away].kill();
    let change = remove(&servers[away]);
    done(&refs(&servers), change);
    write(&servers, 1);
    let (term, leading) = (servers[leader(&servers)].node().term(), leader(&servers));
    servers[away].start(None);
    expect_removed(&servers[away]);
    assert_eq!(
        (servers[leading].node().term(), leader(&servers)),
        (term, leading),
        "no election was disturbed"
    );
}

#[test]
fn a_removed_learner_learns_it_though_it_never_asks_for_votes() {
    let mut servers = servers(1);
    write(&servers, 0);
    let mut new = joining(&servers[0]);
    let id = new.id();
    let leading = &servers[0];
    within(SOON, "a learner", || {
        leading.step(&add(&new)).ok();
        leading.node().status().members.iter().any(|member| member.node_id == id).then_some(())
    });
    new.kill();
    done(&refs(&servers), Change::Remove { who: Who::Id(id) });
    new.start(None);
    expect_removed(&new);
    drop(servers.split_off(0));
}

#[test]
fn what_would_lose_the_quorum_is_not_done() {
    let mut servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    let (alive, dead) = ((leading + 1) % 3, (leading + 2) % 3);
    servers[dead].kill();
    for change in [remove(&servers[alive]), remove(&servers[leading])] {
        match refusal(&servers, change) {
            Refusal::Quorum { voters: 2, answering: 1, majority: 2, silent, .. } => {
                assert!(silent[0].contains(&servers[dead].address.to_string()), "{silent:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(servers[leader(&servers)].node().status().members.len(), 3);
    done(&refs(&servers), remove(&servers[dead]));
    write(&servers, 1);
    expect_voters(&[&servers[alive], &servers[leading]], &[&servers[alive], &servers[leading]]);
}

#[test]
fn data_of_another_cluster_is_not_taken_in() {
    let (servers, others) = (servers(1), servers(1));
    write(&servers, 0);
    write(&others, 1);
    match refusal(&servers, add(&others[0])) {
        Refusal::OtherCluster { cluster, .. } => {
            assert_eq!(cluster, others[0].node().status().cluster_id.unwrap().to_string());
        }
        other => panic!("{other:?}"),
    }
    // Nor does a server that waits for one cluster let another one take it.
    let waiting = joining(&others[0]);
    within(SOON, "its reason", || {
        waiting
            .node()
            .status()
            .reasons
            .iter()
            .any(|reason| reason.contains("admitted to cluster"))
            .then_some(())
    });
    match refusal(&servers, add(&waiting)) {
        Refusal::Unreachable { reason, .. } => assert!(reason.contains("belongs to cluster"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(waiting.node().status().cluster_id, None);
    assert_eq!(servers[0].node().status().members.len(), 1);
}

#[test]
fn a_removed_server_is_not_added_again() {
    let mut servers = servers(3);
    write(&servers, 0);
    let away = (leader(&servers) + 1) % 3;
    expect_on_all(&servers, 0..1);
    servers[away].kill();
    done(&refs(&servers), remove(&servers[away]));
    servers[away].start(None);
    let gone = servers.remove(away);
    match refusal(&servers, add(&gone)) {
        Refusal::Tombstone { node_id, .. } => assert_eq!(node_id, gone.id()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_lead_goes_where_it_is_sent() {
    let servers = servers(3);
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    for round in 1..4 {
        let to = (leader(&servers) + 1) % 3;
        let change = Change::Transfer { to: Some(Who::Id(servers[to].id())) };
        done(&refs(&servers), change);
        assert_eq!(leader(&servers), to);
        write(&servers, round);
    }
    let before = leader(&servers);
    done(&refs(&servers), Change::Transfer { to: None });
    assert_ne!(leader(&servers), before);
}

#[test]
fn a_member_that_has_moved_is_found_at_its_new_address() {
    let mut servers = servers(3);
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    let mover = (leader(&servers) + 1) % 3;
    let old = servers[mover].address.to_string();
    servers[mover].kill();
    let listener = listener();
    servers[mover].address = listener.local_addr().unwrap();
    servers[mover].config.raft_address = Some(servers[mover].address.to_string());
    servers[mover].start(Some(listener));
    let address = servers[mover].address.to_string();
    // The leader may have found it by itself before.
    done(&refs(&servers), Change::Replace { old: Who::Address(old), address: address.clone() });
    write(&servers, 1);
    expect_on_all(&servers, 0..=1);
    let seen = servers[mover].node().status().members;
    assert!(seen.iter().any(|member| member.member.raft_address == address), "{seen:?}");
}

#[test]
fn a_stranger_with_a_higher_term_disturbs_no_leader() {
    let servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    let term = servers[leading].node().term();
    let client = lone_client();
    let end = StdInstant::now() + Duration::from_secs(1);
    while StdInstant::now() < end {
        for server in &servers {
            let identity = &server.node().inner.contacts.identity;
            let header = Header { sender: 99, ..identity.header(server.id()).unwrap() };
            let vote = VoteRequest::<TypeConfig>::new(Vote::new(term + 50, 99), None);
            let frame = vote.frame(&header, Level::FIRST);
            for route in ["vote", "pre-vote"] {
                server.run(client.call(&server.address.to_string(), route, frame.clone(), SOON)).ok();
            }
        }
        assert_eq!(servers[leading].node().term(), term);
        assert!(servers[leading].node().is_leader());
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[test]
fn the_log_is_kept_while_a_snapshot_is_on_its_way() {
    let servers = servers(1);
    for number in 0..30 {
        write(&servers, number);
    }
    let node = servers[0].node().clone();
    let upto = node.index().applied_index();
    let stream = node.inner.changes.streams.begin(upto - 20);
    servers[0].run(node.inner.compaction.compact(upto));
    within(SOON, "a purge up to the stream", || {
        node.inner.stores.log.purged().filter(|id| id.index == upto - 20)
    });
    drop(stream);
    assert_eq!(
        node.inner.changes.streams.lowest(),
        Some(upto - 20),
        "its receiver goes on from there for a while"
    );
}
