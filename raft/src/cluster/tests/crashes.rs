//! Nodes that die at bad moments.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::log::LOG_FILE;
use crate::network::identity::Identity;
use crate::testing::sim_disk::SimDisk;

#[test]
fn acknowledged_writes_survive_kills_of_any_server_and_all_agree() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut servers = servers(3);
    write(&servers, 0);
    let mut written = 1;
    for _ in 0..8 {
        let victim = random.random_range(0..3);
        servers[victim].kill();
        for _ in 0..random.random_range(1..8) {
            write(&servers, written);
            written += 1;
        }
        servers[victim].start(None);
    }
    expect_on_all(&servers, 0..written);
    servers.iter_mut().for_each(Server::kill);
    servers.iter_mut().for_each(|server| server.start(None));
    expect_on_all(&servers, 0..written);
}

#[test]
fn a_founder_that_died_before_it_initialised_founds_the_same_cluster() {
    let mut servers = servers_stopped(3, |all, _| all.to_vec());
    let mut list = servers[0].0.config.members.clone();
    list.sort();
    let founder = servers.iter().position(|(server, _)| server.address.to_string() == list[0]).unwrap();
    let disk = Arc::new(FolderDisk::open(servers[founder].0.folder.path()).unwrap());
    Identity::load(disk, &crate::random::SystemRandom, list, None, String::new(), false, Default::default())
        .unwrap()
        .adopt(ClusterId(77))
        .unwrap();
    for (server, listener) in &mut servers {
        server.start(listener.take());
    }
    let servers: Vec<Server> = servers.into_iter().map(|(server, _)| server).collect();
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    assert!(servers.iter().all(|server| server.node().status().cluster_id == Some(ClusterId(77))));
}

/// Databases that can fail, beside small files that do not.
#[derive(Debug, Default)]
struct FailingDisk {
    databases: SimDisk,
    files: MemoryDisk,
}

impl Disk for FailingDisk {
    fn database(&self, name: &str, builder: redb::Builder) -> Result<redb::Database, redb::DatabaseError> {
        self.databases.database(name, builder)
    }

    fn read(&self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        self.files.read(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        self.files.write(name, bytes)
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_written_acknowledges_nothing_and_ends_the_node() {
    let disk = Arc::new(FailingDisk::default());
    let config = NodeConfig {
        members: vec!["one:1".to_owned()],
        raft_address: None,
        api_address: "one:2".to_owned(),
        disk_free_min: Some(0),
        found_after: Duration::ZERO,
        api_port: None,
    };
    let node = Node::start(config, system(disk.clone()), CancellationToken::new()).await.unwrap();
    node.wait_leader(SOON).await.unwrap();
    node.propose(advertise(0..1)).await.unwrap();
    let syncs = disk.databases.activity(LOG_FILE).0;
    disk.databases.cut_power_at(LOG_FILE, syncs + 1);
    let proposed = node.propose(advertise(1..2)).await;
    assert!(matches!(proposed, Err(ProposeError::OutcomeUnknown)), "{proposed:?}");
    let reason = tokio::time::timeout(SOON, node.failed()).await.unwrap();
    assert!(reason.to_string().contains("power is off"), "{reason}");
    let proposed = node.propose(advertise(2..3)).await;
    assert!(matches!(proposed, Err(ProposeError::Stopped { .. })), "{proposed:?}");
}

impl Server {
    /// Kills the node, removes one of its files and says why it does not start.
    fn refused_without(&mut self, file: &str) -> StartError {
        self.kill();
        std::fs::remove_file(self.folder.path().join(file)).unwrap();
        let runtime = Runtime::new().unwrap();
        let disk = Arc::new(FolderDisk::open(self.folder.path()).unwrap());
        within(SOON, "an answer that the files of the killed node do not delay", || {
            let env = Env::system(disk.clone(), runtime.handle().clone());
            let start = Node::start(self.config.clone(), env, CancellationToken::new());
            match runtime.block_on(start) {
                Ok(_) => panic!("started without {file}"),
                Err(StartError::InUse { .. } | StartError::Log(_) | StartError::Index(_)) => None,
                Err(error) => Some(error),
            }
        })
    }
}

#[test]
fn a_node_that_lost_its_log_does_not_vote_again() {
    for count in [1, 3] {
        let mut servers = servers(count);
        write(&servers, 0);
        expect_on_all(&servers, 0..1);
        servers[0].run(servers[0].node().index().flush_durable()).unwrap();
        let error = servers[0].refused_without(LOG_FILE);
        assert!(matches!(error, StartError::LogLost { applied: 1.. }), "{count} servers: {error:?}");
        assert!(error.to_string().contains("log.redb with the vote and the entries is lost"), "{error}");
    }
}

#[test]
fn a_state_that_ends_before_the_log_begins_is_refused() {
    let mut servers = servers(1);
    for number in 0..5 {
        write(&servers, number);
    }
    let node = servers[0].node().clone();
    let upto = node.index().applied_index();
    servers[0].run(node.inner.compaction.compact(upto));
    within(SOON, "the purge", || {
        let purged = node.inner.leadership.raft.metrics().borrow_watched().purged;
        purged.is_some_and(|id: LogId| id.index == upto).then_some(())
    });
    // A purge alone is not made durable: the next append is.
    write(&servers, 5);
    drop(node);
    let error = servers[0].refused_without(crate::index::STATE_FILE);
    assert!(matches!(error, StartError::StateLost { purged, applied: 0 } if purged == upto), "{error:?}");
}

#[test]
fn an_older_log_beside_a_newer_state_is_refused() {
    let mut servers = servers(1);
    write(&servers, 0);
    let stop = |server: &mut Server| {
        server.run(server.node().shutdown());
        server.kill();
    };
    stop(&mut servers[0]);
    let older = servers[0].log_file();
    // Another term.
    servers[0].start(None);
    write(&servers, 1);
    stop(&mut servers[0]);
    let newer = servers[0].log_file();
    let path = servers[0].folder.path().join(LOG_FILE);
    std::fs::write(&path, older).unwrap();
    let runtime = Runtime::new().unwrap();
    let disk = Arc::new(FolderDisk::open(servers[0].folder.path()).unwrap());
    let error = servers[0].refusal(&runtime, &disk);
    assert!(matches!(error, StartError::LogOlder { applied, voted } if applied > voted), "{error:?}");
    assert!(error.to_string().contains("members replace"), "{error}");
    // The refused node closes its file on a thread of its own.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, newer).unwrap();
    servers[0].start(None);
    write(&servers, 2);
    expect_on_all(&servers, 0..=2);
}

#[test]
fn a_first_start_that_was_cut_after_any_file_is_followed_by_one_that_works() {
    let (mut whole, listener) =
        servers_stopped(1, |all, _| vec![all[0].clone(), "127.0.0.1:1".to_owned()]).remove(0);
    whole.start(listener);
    whole.kill();
    let files = [LOG_FILE, crate::index::STATE_FILE, crate::log::LOG_NOTE_FILE, "node"];
    let mut there: Vec<_> =
        std::fs::read_dir(whole.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    there.sort();
    let mut expected = files;
    expected.sort();
    assert_eq!(there, expected, "the files of a server that waits for others");
    for count in 0..=files.len() {
        let (mut cut, listener) = servers_stopped(1, |all, _| all.to_vec()).remove(0);
        for name in &files[..count] {
            std::fs::copy(whole.folder.path().join(name), cut.folder.path().join(name)).unwrap();
        }
        // A file that was being made.
        let next = files.get(count).unwrap_or(&"node");
        std::fs::write(cut.folder.path().join(format!("{next}.new")), "half").unwrap();
        cut.start(listener);
        let servers = [cut];
        write(&servers, 0);
        expect_on_all(&servers, 0..1);
    }
}
