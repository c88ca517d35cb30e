//! A site of three servers and some nodes, all of them real processes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::network::Network;
use crate::node::Node;
use crate::server::{Launcher, PICCOLO, Server, here};
use crate::support::{SOON, free_address, in_memory, within};
use crate::wire;

const SERVERS: usize = 3;
/// Ports of servers that have their own hosts.
const PORTS: (u16, u16) = (7789, 7790);

/// One scenario under load at a time: it has deadlines, and there are only two cores.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub struct Site {
    pub servers: Vec<Server>,
    pub nodes: Vec<Node>,
    pub root: TempDir,
    /// Folder of the servers' data, if it is not in `folder`.
    pub disk: Option<TempDir>,
    /// Dropped last, after all processes have ended.
    _turn: Option<tokio::sync::MutexGuard<'static, ()>>,
}

impl Site {
    /// Three servers on loopback with a leader. Their folders are in memory: a disk that is busy with other
    /// work must not fail the test, and kill -9 keeps what is written in either.
    pub async fn of_three() -> Self {
        let turn = TURN.lock().await;
        Self::of_three_in(in_memory(), None, Some(turn)).await
    }

    /// Like [`Self::of_three`], for a scenario without load that may run beside others.
    pub async fn of_three_unhurried() -> Self {
        Self::of_three_in(in_memory(), None, None).await
    }

    /// Like [`Self::of_three`], with the servers' data on a disk; logs stay in memory.
    pub async fn of_three_on_disk() -> Self {
        let disk = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self::of_three_in(in_memory(), Some(disk), None).await
    }

    async fn of_three_in(
        root: TempDir,
        disk: Option<TempDir>,
        turn: Option<tokio::sync::MutexGuard<'static, ()>>,
    ) -> Self {
        let addresses = [(); SERVERS].map(|()| (free_address(), free_address()));
        let list = list_of(&addresses);
        let servers = addresses.iter().enumerate().map(|(at, addresses)| {
            let mut server = Server::new(root.path(), at + 1, *addresses, list.clone(), here());
            if let Some(disk) = &disk {
                server.data = disk.path().join(format!("server-{}", at + 1));
            }
            server
        });
        Self { servers: servers.collect(), nodes: Vec::new(), root, disk, _turn: turn }.started().await
    }

    /// Three servers on hosts 1 to 3 of the network.
    pub async fn of_three_on(network: &Network) -> Self {
        let turn = TURN.lock().await;
        let root = in_memory();
        let on = |host: u8, port: u16| SocketAddr::new(network.address(host).parse().unwrap(), port);
        let addresses = [1, 2, 3].map(|host| (on(host, PORTS.0), on(host, PORTS.1)));
        let list = [list_of(&addresses), vec!["--insecure".to_owned()]].concat();
        let server = |host: u8| {
            let command = network.command(host, PICCOLO);
            let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            let launcher: Launcher = Box::new(move || {
                let mut command = std::process::Command::new("ip");
                command.args(&words);
                command
            });
            Server::new(root.path(), host.into(), addresses[usize::from(host) - 1], list.clone(), launcher)
        };
        let servers = [1, 2, 3].map(server).into();
        Self { servers, nodes: Vec::new(), root, disk: None, _turn: Some(turn) }.started().await
    }

    async fn started(mut self) -> Self {
        self.servers.iter_mut().for_each(Server::start);
        self.all_ready().await;
        self.leader().await;
        self
    }

    /// Starts real agents over empty layouts.
    pub async fn add_nodes(&mut self, count: usize, more: &[&str]) {
        let apis = self.apis();
        for number in 1..=count {
            let mut node = Node::new(self.path(), &format!("node-{number}"), &apis, more, here());
            node.start();
            self.nodes.push(node);
        }
        for node in &self.nodes {
            node.synced().await;
        }
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn apis(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.api).collect()
    }

    pub async fn all_ready(&self) {
        for server in &self.servers {
            server.ready().await;
        }
    }

    /// Position of the server that says it leads.
    pub async fn leader(&self) -> usize {
        self.leader_among(&[0, 1, 2]).await
    }

    /// Like [`Self::leader`], among the servers at `positions`, while others are silent or wrong.
    pub async fn leader_among(&self, positions: &[usize]) -> usize {
        within("a leader", SOON, async || {
            for position in positions {
                let status = wire::ask(
                    self.servers[*position].api,
                    "GET",
                    piccolo::api::path::STATUS,
                    "",
                    Duration::from_millis(500),
                )
                .await;
                let status: Option<piccolo::api::StatusResponse> = status.and_then(|said| said.read());
                if status.is_some_and(|status| status.quorum && status.leader == Some(status.node)) {
                    return Some(*position);
                }
            }
            None
        })
        .await
    }
}

fn list_of(addresses: &[(SocketAddr, SocketAddr)]) -> Vec<String> {
    let raft: Vec<String> = addresses.iter().map(|(_, raft)| raft.to_string()).collect();
    vec!["--cluster".to_owned(), raft.join(",")]
}

/// Random number generator of a test, and its seed, which is printed.
pub fn rng() -> (u64, StdRng) {
    let seed = std::env::var("PICCOLO_CHAOS_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    println!("PICCOLO_CHAOS_SEED={seed}");
    (seed, StdRng::seed_from_u64(seed))
}

/// Duration of a soak.
pub fn soak_time() -> Duration {
    let seconds = std::env::var("PICCOLO_CHAOS_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(180))
}
