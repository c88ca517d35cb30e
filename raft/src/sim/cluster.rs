//! A simulated cluster, its clients and its clock. Each host has its turn of one tick after the other;
//! a message takes longer than a tick, so that the order of the turns shows nowhere.

use std::collections::{BTreeMap, BTreeSet};

use openraft::async_runtime::WatchReceiver;
use rand::Rng;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::cluster::Node;
use crate::errors::chain;
use crate::testing::sim_disk::SimDisk;
use crate::types::{ClusterId, NodeId};

use super::host::{self, Ended, Host, Role, address_of};
use super::net::{self, HostId, Message, TICK_MS};
use super::workload::{Book, Client, hide_holders};
use super::world::{self, Current, Inside};

/// The host on which all clients run.
pub(crate) const CLIENTS: HostId = 100;

/// The simulation. Fields are dropped in order: what runs, then the world that it runs in.
pub(crate) struct Cluster {
    pub(crate) hosts: Vec<Host>,
    clients: Clients,
    pub(crate) book: Book,
    /// Those who make up the cluster, as far as the operator knows.
    pub(crate) members: BTreeSet<HostId>,
    pub(crate) seen: Seen,
    /// Hosts that are down, and when they are to start.
    pub(crate) restarts: BTreeMap<HostId, u64>,
    pub(crate) now_ms: u64,
    _inside: Inside,
}

struct Clients {
    current: Current,
    runtime: Runtime,
}

/// What was observed of all servers in this life.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// By term and node: openraft's advanced leader ids are ordered by both, and a term may have a second
    /// leader with a higher id. With the start of the process that led: none leads twice by one id, or it
    /// could give other entries the same log id.
    leaders: BTreeMap<(u64, NodeId), u64>,
    checksums: BTreeMap<u64, (u128, HostId)>,
    /// All clusters that were seen, with the hosts that belong to them.
    pub(crate) clusters: BTreeMap<ClusterId, BTreeSet<HostId>>,
    pub(crate) cuts: usize,
    /// Power cuts that took something which was written and not synced.
    pub(crate) losses: usize,
    pub(crate) purges: usize,
    /// What servers said that ended because they do not know the cluster's level.
    pub(crate) unknown_levels: Vec<String>,
}

impl Cluster {
    /// A cluster of hosts that are not started yet.
    pub(crate) fn new(seed: u64, roles: Vec<Role>) -> Self {
        let inside = Inside::new(seed);
        let hosts: Vec<Host> = roles.into_iter().enumerate().map(|(id, role)| Host::new(id, role)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without threads and sockets");
        let began = runtime.block_on(async { Instant::now() });
        let clients = Clients { current: Current { host: CLIENTS, began, began_ms: 0 }, runtime };
        let book = Book::default();
        book.open().servers = hosts.iter().map(|host| host.address.clone()).collect();
        let (seen, restarts) = (Seen::default(), BTreeMap::new());
        let members = (0..hosts.len()).collect();
        Self { hosts, clients, book, members, seen, restarts, now_ms: 0, _inside: inside }
    }

    /// `count` hosts that are started with the list of all of them, and `spares` that are not started.
    pub(crate) fn of_listed(seed: u64, count: usize, spares: usize) -> Self {
        let list: Vec<String> = (0..count).map(address_of).collect();
        let mut cluster = Self::new(seed, vec![Role::Listed(list); count + spares]);
        cluster.members.retain(|id| *id < count);
        cluster.book.open().servers.truncate(count);
        for id in 0..count {
            cluster.start(id);
        }
        cluster
    }

    pub(crate) fn start(&mut self, id: HostId) {
        let now_ms = self.now_ms;
        self.restarts.remove(&id);
        self.hosts[id].start(now_ms);
    }

    /// Holders with pairs, and as many without as `raw` says.
    pub(crate) fn spawn_clients(&mut self, paired: u8, raw: u8) {
        for number in 0..paired + raw {
            let seed = world::inside(|world| world.rng.random());
            let client = Client::new(CLIENTS, number, number < paired, self.book.clone(), seed);
            self.spawn(client.live());
        }
        let seed = world::inside(|world| world.rng.random());
        self.spawn(hide_holders(CLIENTS, self.book.clone(), seed));
    }

    /// Spawns a task on the clients' host.
    pub(crate) fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.clients.runtime.spawn(work);
    }

    /// Runs all hosts for one tick.
    pub(crate) fn tick(&mut self) {
        self.now_ms += TICK_MS;
        for id in 0..self.hosts.len() {
            if self.restarts.get(&id).is_some_and(|at| *at <= self.now_ms) && !self.hosts[id].is_running() {
                self.restarts.remove(&id);
                self.hosts[id].start(self.now_ms - TICK_MS);
            }
            let ended = self.hosts[id].turn(self.now_ms);
            if !self.hosts[id].disk.is_off() {
                self.take_note(id, ended);
            } else if !self.hosts[id].outlives_its_disk || !matches!(ended, Ended::No) {
                self.seen.cuts += 1;
                self.cut_power(id);
            }
        }
        let Clients { current, runtime } = &self.clients;
        world::inside(|world| world.current = Some(*current));
        host::run_until(runtime, *current, self.now_ms, |message| {
            if let Message::Answer { call, answer } = message {
                net::answered(call, answer);
            }
        });
        world::inside(|world| world.current = None);
        self.observe();
    }

    /// Ticks until `look` is true; false if it is not within `deadline_ms`.
    pub(crate) fn run_until(&mut self, deadline_ms: u64, mut look: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now_ms + deadline_ms;
        while self.now_ms < end {
            self.tick();
            if look(self) {
                return true;
            }
        }
        false
    }

    pub(crate) fn run(&mut self, duration_ms: u64) {
        self.run_until(duration_ms, |_| false);
    }

    /// Cuts the power of a host, which is started again after a while.
    pub(crate) fn cut_power(&mut self, id: HostId) {
        self.hosts[id].cut_power();
        self.seen.losses += usize::from(self.hosts[id].disk.lost_sectors() > 0);
        self.come_back(id);
    }

    /// Kills a host as `kill -9` does; it is started again after a while.
    pub(crate) fn kill(&mut self, id: HostId) {
        self.hosts[id].kill();
        self.come_back(id);
    }

    /// Kills a host for good, with its disk.
    pub(crate) fn destroy(&mut self, id: HostId) {
        let role = self.hosts[id].role.clone();
        self.wipe(id, role);
        self.restarts.remove(&id);
    }

    /// Kills a host and gives it an empty disk.
    pub(crate) fn wipe(&mut self, id: HostId, role: Role) {
        let host = &mut self.hosts[id];
        host.kill();
        (host.disk, host.role) = (SimDisk::default(), role);
        self.seen.forget(id);
        world::inside(|world| world.release(id));
    }

    fn come_back(&mut self, id: HostId) {
        let pause = world::inside(|world| world.rng.random_range(0..2500));
        self.restarts.insert(id, self.now_ms + pause);
    }

    fn take_note(&mut self, id: HostId, ended: Ended) {
        use crate::cluster::{NodeFailure, StartError};
        use crate::index::IndexError;
        match ended {
            Ended::No => {}
            Ended::Forgetful(why) => self.book.violate(why),
            Ended::Stopped => {
                self.hosts[id].kill();
                self.come_back(id);
            }
            Ended::Failed(NodeFailure::Removed { .. }) | Ended::NotStarted(StartError::Removed { .. }) => {
                self.hosts[id].kill();
            }
            Ended::Failed(NodeFailure::Level(unknown))
            | Ended::NotStarted(StartError::Index(IndexError::Level(unknown))) => {
                self.seen.unknown_levels.push(unknown.to_string());
                self.hosts[id].kill();
            }
            Ended::Failed(
                failure @ (NodeFailure::Broken(_) | NodeFailure::Disk(_) | NodeFailure::RaftEnded),
            ) => {
                self.book.violate(format!("s{id} failed without a reason: {}", chain(&failure)));
                self.kill(id);
            }
            Ended::Failed(defect @ (NodeFailure::TaskPanicked { .. } | NodeFailure::TaskEnded { .. })) => {
                self.book.violate(format!("s{id}: {defect}"));
                self.kill(id);
            }
            Ended::NotStarted(error) => {
                self.book.violate(format!("s{id} does not start: {error:?}"));
                self.hosts[id].kill();
            }
        }
    }

    fn observe(&mut self) {
        let Self { hosts, seen, book, .. } = self;
        for host in hosts.iter().filter(|host| !host.frozen) {
            let Some(node) = host.node() else { continue };
            if let Err(why) = seen.observe(host, node) {
                book.violate(why);
            }
        }
    }

    /// The host that leads with a quorum.
    pub(crate) fn leader(&self) -> Option<HostId> {
        let leads = |host: &&Host| host.ask(|node| node.is_leader() && node.has_quorum()) == Some(true);
        self.hosts.iter().filter(|host| !host.frozen).find(leads).map(|host| host.id)
    }

    /// All members run, have applied the same, and say so by their checksums.
    pub(crate) fn is_level(&self) -> bool {
        let node = |id: &HostId| self.hosts[*id].node().filter(|node| node.is_member());
        let sum = |id: &HostId| node(id).map(|node| node.index().checksum());
        let mut sums: Vec<Option<(u64, u128)>> = self.members.iter().map(sum).collect();
        sums.dedup();
        sums.len() == 1 && sums[0].is_some()
    }

    /// The state of all hosts, as text for a failed test.
    pub(crate) fn tell(&self) -> String {
        let told = |host: &Host| {
            let told = host.ask(|node| {
                let (index, sum) = node.index().checksum();
                format!("term {} index {index} sum {sum:x} {:?}", node.term(), node.status().reasons)
            });
            let not = if host.is_running() { "starting" } else { "down" };
            format!("s{}: {}", host.id, told.unwrap_or(not.to_owned()))
        };
        self.hosts.iter().map(told).collect::<Vec<_>>().join("; ")
    }

    /// All violations that were found.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.book.open().violations.clone()
    }

    pub(crate) fn trace(&self) -> u64 {
        world::inside(|world| world.trace())
    }
}

impl Seen {
    /// Number of leaders that were seen.
    pub(crate) fn leaders(&self) -> usize {
        self.leaders.len()
    }

    /// Forgets to which cluster a host belonged, whose disk is gone.
    fn forget(&mut self, id: HostId) {
        self.clusters.values_mut().for_each(|hosts| hosts.retain(|host| *host != id));
        self.clusters.retain(|_, hosts| !hosts.is_empty());
    }

    fn observe(&mut self, host: &Host, node: &Node) -> Result<(), String> {
        let id = host.id;
        let (raft, identity, _) = node.parts();
        let (leads, term, purged) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.state.is_leader(), metrics.current_term, metrics.purged)
        };
        self.purges = self.purges.max(purged.map_or(0, |id| id.index as usize));
        if leads {
            let me = identity.node_id;
            let first = *self.leaders.entry((term, me)).or_insert(host.starts);
            if first != host.starts {
                return Err(format!("s{id} leads term {term} by the vote of an earlier start"));
            }
        }
        if let Some(cluster) = identity.cluster_id() {
            self.clusters.entry(cluster).or_default().insert(id);
            if self.clusters.len() > 1 {
                return Err(format!("there are two clusters: {:?}", self.clusters));
            }
        }
        let (index, sum) = node.index().checksum();
        let (first, by) = *self.checksums.entry(index).or_insert((sum, id));
        if first != sum {
            return Err(format!("at index {index} s{by} and s{id} differ: {first:x} and {sum:x}"));
        }
        Ok(())
    }
}
