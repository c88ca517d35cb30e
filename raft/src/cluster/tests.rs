//! Nodes on real sockets of loopback, each with a runtime of its own: to kill a node is to drop its
//! runtime with everything in it.

#![expect(clippy::disallowed_methods, reason = "deadlines of these tests are in real time")]

mod connections;
mod crashes;
mod growing;
mod members;
mod month;
mod moving;
mod offline;
#[path = "../../../tests/support/ports.rs"]
mod ports;
mod slow;
mod space;
mod stopping;
mod tasks;
mod wire;
mod writes;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::runtime::{Handle, Runtime};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::command::{Command, Reply, Write};
use crate::disk::{Disk, FolderDisk, MemoryDisk, Space};
use crate::format::{Level, WIRE};
use crate::log::LogStore;
use crate::model::{COMMAND_BYTES_MAX, Holder, Key};
use crate::network::client::CallError;
use crate::network::frame::Message;
use crate::network::identity::Identity;
use crate::network::names::Resolve;
use crate::network::{Header, Http, ListHash};
use crate::state_machine::Raft;
use crate::testing::lone_client;
use crate::types::{ClusterId, LogId, TypeConfig, Vote};
use connections::Connections;

/// For anything that has no deadline of its own.
const SOON: Duration = Duration::from_secs(60);

impl Node {
    /// What the simulation looks at.
    pub(crate) fn parts(&self) -> (&Raft, &Identity, &LogStore) {
        (&self.inner.leadership.raft, &self.inner.contacts.identity, &self.inner.stores.log)
    }
}

/// What a server has, around `disk`, on the runtime of the caller.
fn system(disk: Arc<dyn Disk>) -> Env {
    Env::system(disk, Handle::current())
}

/// A folder whose room is what a test says.
#[derive(Debug)]
struct WithRoom {
    files: Arc<FolderDisk>,
    room: MemoryDisk,
}

impl Disk for WithRoom {
    fn database(&self, name: &str, builder: redb::Builder) -> Result<redb::Database, redb::DatabaseError> {
        self.files.database(name, builder)
    }

    fn read(&self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        self.files.read(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        self.files.write(name, bytes)
    }

    fn place(&self) -> String {
        self.files.place()
    }

    fn space(&self) -> std::io::Result<Option<Space>> {
        self.room.space()
    }

    fn ballast(&self) -> std::io::Result<u64> {
        self.room.ballast()
    }

    fn set_ballast(&self, bytes: u64) -> std::io::Result<()> {
        self.room.set_ballast(bytes)
    }
}

struct Server {
    address: SocketAddr,
    config: NodeConfig,
    /// Waits to be admitted to the cluster of the server at this address.
    join: Option<String>,
    folder: tempfile::TempDir,
    /// What its disk says of its room.
    room: MemoryDisk,
    /// Instead of the system's.
    resolver: Option<Arc<dyn Resolve>>,
    /// To the other servers.
    connections: Connections,
    running: Option<(Runtime, Node)>,
}

impl Server {
    fn start(&mut self, listener: Option<TcpListener>) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let disk = FolderDisk::open(self.folder.path()).unwrap();
        let node = self.open(&runtime, Arc::new(disk));
        let router = node.router();
        // A killed node's port is free a moment after it is gone.
        let listener =
            listener.unwrap_or_else(|| within(SOON, "a free port", || TcpListener::bind(self.address).ok()));
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router).await.unwrap();
        });
        self.running = Some((runtime, node));
    }

    /// A killed node's files are free a moment after it is gone.
    fn open(&self, runtime: &Runtime, disk: Arc<FolderDisk>) -> Node {
        let deadline = std::time::Instant::now() + SOON;
        loop {
            match runtime.block_on(self.try_open(disk.clone())) {
                Ok(node) => return node,
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error:?}"),
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Why its files are refused, once those of a killed node are free.
    fn refusal(&self, runtime: &Runtime, disk: &Arc<FolderDisk>) -> StartError {
        let deadline = std::time::Instant::now() + SOON;
        loop {
            match runtime.block_on(self.try_open(Arc::clone(disk))).err().expect("the files are refused") {
                StartError::InUse { .. } if std::time::Instant::now() < deadline => {
                    std::thread::sleep(POLL_INTERVAL);
                }
                error => return error,
            }
        }
    }

    async fn try_open(&self, disk: Arc<FolderDisk>) -> Result<Node, StartError> {
        let (config, stop) = (self.config.clone(), CancellationToken::new());
        let disk = Arc::new(WithRoom { files: disk, room: self.room.clone() });
        let mut env = system(disk);
        env.network = Arc::new(Http::over(Arc::new(self.connections.clone())));
        if let Some(resolver) = &self.resolver {
            env.resolver = Arc::clone(resolver);
        }
        match &self.join {
            Some(member) => Node::start_joining(config, member.clone(), env, stop).await,
            None => Node::start(config, env, stop).await,
        }
    }

    fn kill(&mut self) {
        let (runtime, node) = self.running.take().unwrap();
        drop(node);
        runtime.shutdown_timeout(Duration::from_millis(10));
    }

    fn wipe(&mut self) {
        self.folder = tempfile::tempdir().unwrap();
    }

    fn node(&self) -> &Node {
        &self.running.as_ref().unwrap().1
    }

    fn propose(&self, command: Command) -> Result<Proposed, ProposeError> {
        let (runtime, node) = self.running.as_ref().unwrap();
        runtime.block_on(node.propose(command))
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.running.as_ref().unwrap().0.block_on(work)
    }

    fn log_file(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join(crate::log::LOG_FILE)).unwrap()
    }

    fn state_file(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join(crate::index::STATE_FILE)).unwrap()
    }
}

/// On a port that is free again while its server is down.
fn listener() -> TcpListener {
    TcpListener::bind(ports::free_address()).unwrap()
}

/// Servers with bound listeners; `lists` maps all their addresses and a position to that one's list.
fn servers_with(count: usize, lists: impl Fn(&[String], usize) -> Vec<String>) -> Vec<Server> {
    let start = |(mut server, listener): (Server, Option<TcpListener>)| {
        server.start(listener);
        server
    };
    servers_stopped(count, lists).into_iter().map(start).collect()
}

fn servers_stopped(
    count: usize,
    lists: impl Fn(&[String], usize) -> Vec<String>,
) -> Vec<(Server, Option<TcpListener>)> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| listener()).collect();
    let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
    let server = |(at, listener): (usize, TcpListener)| {
        let config = NodeConfig {
            members: lists(&addresses, at),
            raft_address: None,
            api_address: format!("api-{at}:7789"),
            disk_free_min: Some(0),
            found_after: Duration::ZERO,
            api_port: None,
        };
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (join, room) = (None, MemoryDisk::default());
        (
            Server {
                address,
                config,
                join,
                folder,
                room,
                resolver: None,
                connections: Connections::default(),
                running: None,
            },
            Some(listener),
        )
    };
    listeners.into_iter().enumerate().map(server).collect()
}

fn servers(count: usize) -> Vec<Server> {
    servers_with(count, |all, _| all.to_vec())
}

#[track_caller]
fn within<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < deadline, "{what}: not within {deadline:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn leader(servers: &[Server]) -> usize {
    within(SOON, "a leader", || {
        servers.iter().position(|s| s.running.is_some() && s.node().is_leader() && s.node().has_quorum())
    })
}

fn holder() -> Holder {
    Holder { group: "default".to_owned(), address: "10.0.0.1:7781".parse().unwrap() }
}

fn key(number: usize) -> Key {
    format!("registry.local/app:{number}").parse().unwrap()
}

fn advertise(numbers: impl Iterator<Item = usize>) -> Command {
    let keys = numbers.map(key).collect();
    Command::Advertise(Write { holder: holder(), pair: None, stores_pair: false, keys })
}

/// Writes through whoever leads, until somebody takes it.
#[track_caller]
fn write(servers: &[Server], number: usize) -> Proposed {
    within(SOON, "a write", || servers[leader(servers)].propose(advertise(number..number + 1)).ok())
}

#[track_caller]
fn expect_on_all(servers: &[Server], numbers: impl Iterator<Item = usize> + Clone) {
    for server in servers {
        within(SOON, "keys on all servers", || {
            let held = server.node().index().inventory(&holder()).unwrap()?;
            numbers.clone().all(|number| held.contains(&key(number))).then_some(())
        });
    }
    within(SOON, "equal checksums", || {
        let sums: Vec<_> = servers.iter().map(|s| s.node().index().checksum()).collect();
        sums.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
    });
}

#[test]
fn three_nodes_form_one_cluster_and_a_write_is_on_all() {
    let servers = servers(3);
    let leading = leader(&servers);
    for number in 0..20 {
        write(&servers, number);
    }
    expect_on_all(&servers, 0..20);
    let status = servers[leading].node().status();
    assert_eq!((status.members.len(), status.quorum, status.reasons.len()), (3, true, 0), "{status:?}");
    let mut apis: Vec<_> = status.members.iter().map(|m| m.member.api_address.as_str()).collect();
    apis.sort();
    assert_eq!(apis, ["api-0:7789", "api-1:7789", "api-2:7789"]);
    for server in &servers {
        within(SOON, "the same view everywhere", || {
            let seen = server.node().status();
            (seen.cluster_id == status.cluster_id && seen.leader == status.leader && seen.reasons.is_empty())
                .then_some(())
        });
    }
    within(SOON, "followers without lag", || {
        servers[leading].node().status().members.iter().all(|m| m.lag == Some(0)).then_some(())
    });
}

#[test]
fn a_restart_of_all_in_any_order_keeps_everything() {
    let mut servers = servers(3);
    for number in 0..10 {
        write(&servers, number);
    }
    let cluster_id = servers[0].node().status().cluster_id;
    let ids: Vec<NodeId> = servers.iter().map(|s| s.node().status().node_id).collect();
    servers.iter_mut().for_each(Server::kill);
    for at in [2, 0, 1] {
        servers[at].start(None);
    }
    write(&servers, 10);
    expect_on_all(&servers, 0..=10);
    assert_eq!(servers[1].node().status().cluster_id, cluster_id);
    assert_eq!(servers.iter().map(|s| s.node().status().node_id).collect::<Vec<_>>(), ids);
}

#[test]
fn different_lists_do_not_form_a_cluster_and_say_why() {
    let servers = servers_with(3, |all, at| if at == 2 { all[1..].to_vec() } else { all.to_vec() });
    for server in &servers {
        within(SOON, "a reason that names the lists", || {
            let reasons = server.node().status().reasons;
            reasons.iter().any(|reason| reason.contains("the lists differ")).then_some(())
        });
    }
    let never = std::time::Instant::now() + Duration::from_secs(2);
    while std::time::Instant::now() < never {
        assert!(
            servers.iter().all(|s| s.node().leader().is_none() && s.node().status().cluster_id.is_none())
        );
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[test]
fn a_cluster_of_one_needs_no_network_and_survives_a_restart() {
    let mut servers = servers(1);
    let taken = write(&servers, 0);
    assert_eq!(taken.reply, Reply::Applied { changed: 1 });
    servers[0].kill();
    servers[0].start(None);
    write(&servers, 1);
    expect_on_all(&servers, 0..=1);
    assert_eq!(servers[0].node().status().members[0].role, Role::Leader);
}

#[test]
fn a_wiped_follower_is_not_taken_for_the_old_one() {
    let mut servers = servers(3);
    write(&servers, 0);
    let follower = (leader(&servers) + 1) % 3;
    let old = servers[follower].node().status().node_id;
    servers[follower].kill();
    servers[follower].wipe();
    servers[follower].start(None);
    write(&servers, 1);
    let reason = within(SOON, "the wiped node's reason", || {
        let reasons = servers[follower].node().status().reasons;
        reasons.into_iter().find(|reason| reason.contains("belongs to cluster"))
    });
    assert!(reason.contains("not a member"), "{reason}");
    let never = std::time::Instant::now() + Duration::from_secs(2);
    while std::time::Instant::now() < never {
        let status = servers[follower].node().status();
        assert!(status.cluster_id.is_none() && status.node_id != old);
        assert_eq!(servers[follower].node().index().applied_index(), 0);
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[test]
fn at_rest_nothing_is_written() {
    let servers = servers(3);
    write(&servers, 0);
    expect_on_all(&servers, 0..1);
    let flush = |s: &Server| s.run(s.node().index().flush_durable()).unwrap();
    let files =
        |s: &Server| (s.log_file(), s.state_file(), s.node().inner.stores.log.commits(), s.node().term());
    // An election writes votes and an entry; on a busy machine there may be one.
    for window in 1..=5 {
        servers.iter().for_each(flush);
        let before: Vec<_> = servers.iter().map(files).collect();
        std::thread::sleep(Duration::from_secs(3));
        let after: Vec<_> = servers.iter().map(files).collect();
        if before == after {
            break;
        }
        let elected = before.iter().zip(&after).any(|(before, after)| before.3 != after.3);
        assert!(elected && window < 5, "somebody wrote while nothing happened");
    }
}

/// A connection belongs to the threads that it was opened on: on those of the API, which it was opened on by an
/// activation and by the search for other servers, it would have carried heartbeats later.
#[test]
fn what_the_api_asks_of_a_node_is_asked_of_others_on_the_nodes_own_threads() {
    let mut servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    servers[(leading + 1) % 3].kill();
    let api = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = servers[leading].node();
    // Nobody answers there, and no connection is kept.
    within(SOON, "a refusal", || match api.block_on(node.activate()) {
        Err(MembersError::Refused(Refusal::Unreadable { .. })) => Some(()),
        _ => None,
    });
    assert!(!servers[leading].connections.begun_on_this_thread(), "for an activation");
    let (mut newcomer, listener) = servers_stopped(1, |_, _| Vec::new()).pop().unwrap();
    newcomer.join = Some("127.0.0.1:1".to_owned());
    newcomer.start(listener);
    assert_eq!(api.block_on(newcomer.node().other_apis()), Vec::<String>::new());
    assert!(!newcomer.connections.begun_on_this_thread(), "to find other servers");
}

#[test]
fn a_stopping_leader_hands_over_first() {
    let mut servers = servers(3);
    write(&servers, 0);
    let leading = leader(&servers);
    let node = servers[leading].node().clone();
    let term = node.term();
    assert!(servers[leading].run(node.transfer_leader()));
    servers[leading].run(node.shutdown());
    let start = std::time::Instant::now();
    let others: Vec<&Server> =
        servers.iter().filter(|s| !s.node().inner.lifetime.stop.is_cancelled()).collect();
    assert_eq!(others.len(), 2);
    within(SOON, "a write after an orderly stop", || {
        others.iter().find_map(|s| s.propose(advertise(1..2)).ok())
    });
    println!("hand-over {:?}", start.elapsed());
    assert!(others.iter().all(|s| s.node().term() <= term + 1), "it was elected after a time-out");
    assert!(matches!(servers[leading].propose(advertise(2..3)), Err(ProposeError::Stopped { .. })));
    drop(node);
    servers[leading].kill();
    servers[leading].start(None);
    expect_on_all(&servers, 0..2);
}
