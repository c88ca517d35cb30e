//! New clusters from snapshots and from what is left of old ones.

use std::path::Path;

use super::members::{add, done, expect_removed, expect_voters, joining, refs, remove};
use super::*;
use crate::cluster::offline::{Addresses, Founded, OfflineError, force_new_cluster, restore};
use crate::snapshot::SnapshotData;
use crate::snapshot::file::Saved;

fn blocking<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn force(server: &Server) -> Result<Founded, OfflineError> {
    blocking(force_new_cluster(server.folder.path(), |own| own))
}

fn addresses(server: &Server) -> Addresses {
    Addresses { raft: server.address.to_string(), api: server.config.api_address.clone() }
}

fn restored(folder: &Path, file: &[u8]) -> Result<Founded, OfflineError> {
    let addresses = Addresses { raft: "127.0.0.1:1".to_owned(), api: "127.0.0.1:2".to_owned() };
    blocking(restore(folder, file, addresses)).map(|(founded, _)| founded)
}

/// What `piccolo snapshot save` writes.
fn snapshot_of(server: &Server) -> Vec<u8> {
    let (_, data) = server.run(SnapshotData::of(server.node().index())).unwrap();
    let chunks = data.into_chunks().unwrap().flat_map(|chunk| chunk.unwrap());
    let status = server.node().status();
    let saved = Saved {
        cluster_id: status.cluster_id.unwrap(),
        node_id: status.node_id,
        unix_ms: 1,
        version: "test".to_owned(),
    };
    saved.to_bytes(crate::format::Level::FIRST).into_iter().chain(chunks).collect()
}

/// A server that is not started, at an address of its own.
fn stopped() -> (Server, TcpListener) {
    let (server, listener) = servers_stopped(1, |all, _| all.to_vec()).remove(0);
    (server, listener.unwrap())
}

#[track_caller]
fn expect_nothing_changes_for(duration: Duration, server: &Server) {
    let (node, before) = (server.node(), server.node().status());
    let checksum = node.index().checksum();
    let end = std::time::Instant::now() + duration;
    while std::time::Instant::now() < end {
        assert_eq!((node.status(), node.index().checksum()), (before.clone(), checksum));
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[test]
fn the_last_server_goes_on_as_a_new_cluster_and_the_others_join_it_empty() {
    let mut servers = servers(3);
    for number in 0..10 {
        write(&servers, number);
    }
    expect_on_all(&servers, 0..10);
    let old = servers[1].node().status();
    // At once: what was applied is in the log, and not yet durable in the state.
    servers.iter_mut().for_each(Server::kill);
    let founded = force(&servers[1]).unwrap();
    assert!(Some(founded.cluster_id) != old.cluster_id && founded.node_id != old.node_id);
    let mut left_out = vec![servers[0].address.to_string(), servers[2].address.to_string()];
    left_out.sort();
    let mut said = founded.left_out.clone();
    said.sort();
    assert_eq!((said, founded.member.raft_address), (left_out, servers[1].address.to_string()));
    assert_eq!((founded.counts.pairs, founded.finished_only), (10, false));

    servers[1].start(None);
    within(SOON, "a leader of its own", || servers[1].node().is_leader().then_some(()));
    let status = servers[1].node().status();
    assert_eq!((status.cluster_id, status.node_id), (Some(founded.cluster_id), founded.node_id));
    assert_eq!(status.members.len(), 1);
    let held = servers[1].node().index().inventory(&holder()).unwrap().unwrap();
    assert!((0..10).all(|number| held.contains(&key(number))));
    servers[1].propose(advertise(10..11)).unwrap();

    for at in [0, 2] {
        servers[at].wipe();
        servers[at].start(None);
        let waits = within(SOON, "its reason", || servers[at].node().status().reasons.into_iter().next());
        assert!(!waits.is_empty() && servers[at].node().status().cluster_id.is_none());
        done(&[&servers[1]], add(&servers[at]));
    }
    expect_voters(&refs(&servers), &refs(&servers));
    write(&servers, 11);
    expect_on_all(&servers, 0..12);
    // And it is a cluster like any other: all of them start again.
    servers.iter_mut().for_each(Server::kill);
    servers.iter_mut().for_each(|server| server.start(None));
    write(&servers, 12);
    expect_on_all(&servers, 0..13);
}

#[test]
fn servers_of_the_old_cluster_that_come_back_do_not_disturb_the_new_one() {
    let mut servers = servers(3);
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    servers.iter_mut().for_each(Server::kill);
    let founded = force(&servers[2]).unwrap();
    servers[2].start(None);
    within(SOON, "its own leader", || servers[2].node().is_leader().then_some(()));
    servers[0].start(None);
    servers[1].start(None);
    // They are a majority of the old cluster, and write on.
    let old = within(SOON, "the old cluster", || {
        servers[..2].iter().find(|server| server.node().is_leader() && server.node().has_quorum())
    });
    let old_cluster = old.node().status().cluster_id;
    within(SOON, "a write of the old one", || old.propose(advertise(50..51)).ok());
    expect_nothing_changes_for(Duration::from_secs(2), &servers[2]);
    assert_eq!(servers[2].node().status().cluster_id, Some(founded.cluster_id));
    assert_ne!(old_cluster, Some(founded.cluster_id));
    // Nor are they taken in by mistake.
    let address = servers[0].address.to_string();
    let refused = servers[2].step_of_add(&address);
    assert!(refused.contains("has data of cluster"), "{refused}");
}

impl Server {
    fn step_of_add(&self, address: &str) -> String {
        let change = crate::cluster::Change::Add { addresses: vec![address.to_owned()] };
        self.run(self.node().change_members(change)).unwrap_err().to_string()
    }
}

#[test]
fn a_restored_snapshot_is_a_cluster_that_others_join() {
    let mut first = servers(1);
    for number in 0..10 {
        write(&first, number);
    }
    first[0].propose(Command::Tombstone { node_id: 99 }).unwrap();
    let file = snapshot_of(&first[0]);
    write(&first, 10);
    let before = first[0].node().index().host(&holder()).unwrap();
    first[0].kill();

    let (mut server, listener) = stopped();
    let (founded, saved) = blocking(restore(server.folder.path(), &file[..], addresses(&server))).unwrap();
    assert!(saved.is_some() && founded.counts.pairs == 10);
    server.start(Some(listener));
    within(SOON, "a leader of its own", || server.node().is_leader().then_some(()));
    assert!(!server.node().index().is_tombstone(99), "that was of the old cluster");
    let record = server.node().index().host(&holder()).unwrap();
    assert_eq!(record.count, 10, "what came after the snapshot is gone: {before:?}");
    assert!(record.last_write_index <= founded.log_index);

    let new = joining(&server);
    done(&[&server], add(&new));
    let mut both = vec![server, new];
    expect_voters(&refs(&both), &refs(&both));
    expect_on_all(&both, 0..10);
    // What goes by the numbers of the old log goes on.
    let hide = Command::Hide { holder: holder(), last_write_index: record.last_write_index, unix_ms: 1 };
    within(SOON, "hidden", || both[leader(&both)].propose(hide.clone()).ok());
    assert!(!both[leader(&both)].node().index().host(&holder()).unwrap().is_visible());
    write(&both, 20);
    expect_on_all(&both, (0..10).chain(20..21));
    both.iter_mut().for_each(Server::kill);
}

#[test]
fn a_removed_server_can_be_all_that_is_left() {
    let mut servers = servers(3);
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    let victim = (leader(&servers) + 1) % 3;
    let change = remove(&servers[victim]);
    done(&refs(&servers), change);
    expect_removed(&servers[victim]);
    servers.iter_mut().for_each(Server::kill);
    // It may have learned of its end before the membership without it reached it.
    let given = addresses(&servers[victim]);
    blocking(force_new_cluster(servers[victim].folder.path(), |_| Some(given))).unwrap();
    servers[victim].start(None);
    within(SOON, "it leads", || servers[victim].node().is_leader().then_some(()));
    servers[victim].propose(advertise(1..2)).unwrap();
}

#[test]
fn what_would_destroy_something_is_refused() {
    let mut servers = servers(1);
    write(&servers, 0);
    let file = snapshot_of(&servers[0]);
    assert!(matches!(force(&servers[0]), Err(OfflineError::InUse { user: Some(_) })), "it runs");
    servers[0].kill();
    let folder = servers[0].folder.path().to_owned();
    assert!(matches!(restored(&folder, &file), Err(OfflineError::NotEmpty { .. })));
    servers[0].start(None);
    write(&servers, 1);

    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(blocking(force_new_cluster(empty.path(), |own| own)), Err(OfflineError::NoData)));
    let missing = empty.path().join("missing");
    assert!(matches!(blocking(force_new_cluster(&missing, |own| own)), Err(OfflineError::NoData)));
    assert!(!missing.exists() && std::fs::read_dir(empty.path()).unwrap().count() == 0);

    for (cut, what) in [(file.len() - 1, "cut"), (100, "cut"), (0, "empty")] {
        let error = restored(empty.path(), &file[..cut]).unwrap_err();
        assert!(matches!(error, OfflineError::Snapshot(_)), "{what}: {error}");
    }
    let mut changed = file.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert!(matches!(restored(empty.path(), &changed), Err(OfflineError::Snapshot(_))));
    let mut newer = file.clone();
    newer[12] = 9;
    let error = restored(empty.path(), &newer).unwrap_err();
    let OfflineError::Snapshot(error) = error else { panic!("{error}") };
    assert!(error.to_string().contains("newer piccolo"), "{error}");
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "nothing is left of all that");

    servers[0].kill();
    for lost in ["log.redb", "state.redb", "node"] {
        std::fs::rename(folder.join(lost), empty.path().join(lost)).unwrap();
        let files = || {
            let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let before = files();
        let error = force(&servers[0]).unwrap_err();
        assert!(matches!(error, OfflineError::Missing { name } if name == lost), "{error}");
        assert_eq!(files(), before, "the folder is as it was");
        std::fs::rename(empty.path().join(lost), folder.join(lost)).unwrap();
    }

    let pristine = servers_stopped(1, |all, _| [&all[0], "127.0.0.1:1"].map(str::to_owned).to_vec());
    let (mut pristine, listener) = pristine.into_iter().next().unwrap();
    pristine.start(listener);
    pristine.kill();
    assert!(matches!(force(&pristine), Err(OfflineError::NoData)));
}

#[test]
fn a_call_that_was_cut_is_made_again_or_finished() {
    let mut servers = servers(3);
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    let file = snapshot_of(&servers[0]);
    servers.iter_mut().for_each(Server::kill);
    // Before the new files counted.
    let half = servers[0].folder.path().join("new-cluster");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("state.redb"), "half").unwrap();
    let first = force(&servers[0]).unwrap();
    assert!(!first.finished_only && !half.exists());
    let again = force(&servers[0]).unwrap();
    assert_eq!((again.finished_only, again.cluster_id), (true, first.cluster_id), "it is alone already");
    // After.
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("new-cluster")).unwrap();
    let second = restored(folder.path(), &file).unwrap();
    let ready = folder.path().join("new-cluster.ready");
    std::fs::create_dir(&ready).unwrap();
    for name in ["log.redb", "log.id", "node"] {
        std::fs::rename(folder.path().join(name), ready.join(name)).unwrap();
    }
    let again = restored(folder.path(), &file).unwrap();
    assert_eq!(Founded { finished_only: true, left_out: Vec::new(), ..second }, again);
    assert!(!ready.exists());
    servers[0].start(None);
    within(SOON, "a write", || servers[0].propose(advertise(1..2)).ok());
}
