//! Normal requests of agents: each sends a heartbeat every 30 s, and now and then one looks a key up or gets
//! a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::agents::Agents;
use crate::cluster::Cluster;
use crate::drive::{Drive, Source, Ticket};
use crate::enroll::{HEARTBEAT_PATIENCE, wants_sync};
use crate::fleet::Fleet;

/// Kinds of requests, each with its own pool.
pub(crate) const KINDS: [&str; 3] = ["heartbeats", "lookups", "advertises"];
pub(crate) const HEARTBEAT: usize = 0;
pub(crate) const LOOKUP: usize = 1;
pub(crate) const ADVERTISE: usize = 2;
/// Connections for lookups of a full fleet; a smaller one has fewer.
///
/// 143 pulls of 14 lookups begin each second, and their connections are open for about ten seconds.
pub(crate) const LOOKUP_CONNECTIONS: usize = 1_430;
/// Concurrent requests of each other kind, for a full fleet.
const AT_ONCE: usize = 900;
const HEARTBEAT_SECONDS: f64 = 30.0;
/// Limit of idle connections: 5 s of heartbeats and advertises at full rate.
const FRESH_MOST: u64 = 11_000;
/// Time for one server to answer a lookup: the agent's timeout, divided among the servers.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(333);
const WRITE_PATIENCE: Duration = Duration::from_millis(3_333);
/// Number of nodes that share a new key.
const SHARERS: u32 = 50;
const SEED: u64 = 0x11fe;

/// Requests a second of each kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) heartbeats: f64,
    pub(crate) lookups: f64,
    pub(crate) advertises: f64,
}

impl Rates {
    /// The rates of docs/budgets.md, in proportion to the fleet.
    pub(crate) fn of(fleet: Fleet) -> Self {
        let share = f64::from(fleet.hosts) / f64::from(Fleet::FULL.hosts);
        let heartbeats = f64::from(fleet.hosts) / HEARTBEAT_SECONDS;
        Self { heartbeats, lookups: 2_000.0 * share, advertises: 200.0 * share }
    }

    fn of_kind(self, kind: usize) -> f64 {
        [self.heartbeats, self.lookups, self.advertises][kind]
    }
}

/// Number of keys that nobody has at the start, as many as [`Life`] needs in that time.
pub(crate) fn new_keys(fleet: Fleet, rates: Rates, servers: usize, length: Duration) -> u32 {
    let agents = f64::from(fleet.hosts / servers as u32).max(1.0);
    // Twice the mean, because arrivals are random.
    let most = rates.advertises / servers as f64 * length.as_secs_f64() * 2.0 + 10.0;
    let rounds = (most / agents).ceil() as u32 + 1;
    rounds * spread(fleet, servers)
}

/// Number of new keys that circulate among the agents of a server before each of them has one.
fn spread(fleet: Fleet, servers: usize) -> u32 {
    (fleet.hosts / servers as u32).div_ceil(SHARERS).max(1)
}

/// Source of the normal requests of a fleet.
pub(crate) struct Life {
    pub(crate) agents: Agents,
    pub(crate) rates: Rates,
    length: Duration,
    /// Due time of the next request of each kind, by server.
    next: Vec<[Duration; 3]>,
    /// Number of requests of each kind, by server.
    count: Vec<[u32; 3]>,
    random: StdRng,
    stop: Arc<AtomicBool>,
    /// Number of heartbeats whose answer asked for a sync.
    pub(crate) resyncs: u64,
}

impl Life {
    /// `agents` of `servers` servers, for the time `length`.
    pub(crate) fn new(agents: Agents, rates: Rates, servers: usize, length: Duration) -> Self {
        Self {
            agents,
            rates,
            length,
            next: vec![[Duration::ZERO; 3]; servers],
            count: vec![[0; 3]; servers],
            random: StdRng::seed_from_u64(SEED),
            stop: Arc::default(),
            resyncs: 0,
        }
    }

    /// Flag that ends the load early when set.
    pub(crate) fn stop_signal(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Configuration of the drive.
    pub(crate) fn drive(&self, cluster: &Cluster) -> Drive {
        // Each connection waits for its next request: with too many of them that would be minutes away.
        let share = self.rates.heartbeats / Rates::of(Fleet::FULL).heartbeats;
        let pool = |most: usize| ((most as f64 * share) as usize).max(1);
        Drive {
            servers: cluster.addresses(),
            pools: vec![pool(AT_ONCE), pool(LOOKUP_CONNECTIONS), pool(AT_ONCE)],
            fresh_most: FRESH_MOST,
            kinds: KINDS.len(),
        }
    }

    /// A random key, popular ones more often: log-uniform in rank, like inventories.
    fn some_key(&mut self) -> u32 {
        let keys = f64::from(self.agents.fleet.distinct_keys);
        ((keys.ln() * self.random.random::<f64>()).exp() as u32).min(self.agents.fleet.distinct_keys) - 1
    }
}

impl Source for Life {
    fn next(&mut self, lane: usize, pool: usize) -> Option<Ticket> {
        let servers = self.next.len();
        let rate = self.rates.of_kind(pool) / servers as f64;
        let gap = -(1.0 - self.random.random::<f64>()).ln() / rate;
        let due = self.next[lane][pool] + Duration::from_secs_f64(gap);
        if due > self.length || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        self.next[lane][pool] = due;
        let number = self.count[lane][pool];
        self.count[lane][pool] += 1;
        let agents = (self.agents.fleet.hosts / servers as u32).max(1);
        let agent = (number % agents * servers as u32 + lane as u32).min(self.agents.fleet.hosts - 1);
        let (note, patience) = match pool {
            HEARTBEAT => (0, HEARTBEAT_PATIENCE),
            LOOKUP => (u64::from(self.some_key()), LOOKUP_PATIENCE),
            _ => {
                let spread = spread(self.agents.fleet, servers);
                let key = self.agents.fleet.distinct_keys + number / agents * spread + number % spread;
                (u64::from(key), WRITE_PATIENCE)
            }
        };
        let (again, fresh) = (pool != LOOKUP, pool != LOOKUP);
        Some(Ticket { due: Some(due), kind: pool, agent, note, again, patience, fresh })
    }

    fn compose(&mut self, ticket: &mut Ticket, out: &mut Vec<u8>) -> bool {
        let (agent, key) = (ticket.agent, ticket.note as u32);
        match ticket.kind {
            HEARTBEAT => self.agents.heartbeat(agent, out),
            LOOKUP => self.agents.lookup(agent, key, "", out),
            // An agent has one writer; a steady fleet has other agents.
            _ if self.agents.is_writing(agent) => return false,
            _ => ticket.note |= self.agents.advertise(agent, &[key], out) << 32,
        }
        true
    }

    fn answered(&mut self, _now: Duration, ticket: &Ticket, status: u16, body: &[u8]) {
        match (ticket.kind, status) {
            (HEARTBEAT, 201) => self.resyncs += u64::from(wants_sync(body)),
            (ADVERTISE, 201) => {
                let (key, seq) = (ticket.note as u32, ticket.note >> 32);
                self.agents.acknowledged(ticket.agent, seq, Some(&[key]));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_fleet_and_no_agent_gets_a_key_twice() {
        let fleet = Fleet { hosts: 60, keys_per_host: 40, distinct_keys: 400, common_keys: 5 };
        let rates = Rates { heartbeats: 20.0, lookups: 50.0, advertises: 30.0 };
        let length = Duration::from_secs(100);
        let extra = new_keys(fleet, rates, 3, length);
        let mut life = Life::new(Agents::new(fleet, extra, 1).unwrap(), rates, 3, length);
        let mut pairs = std::collections::HashSet::new();
        let mut counts = [0; 3];
        for lane in 0..3 {
            for kind in [HEARTBEAT, LOOKUP, ADVERTISE] {
                while let Some(ticket) = life.next(lane, kind) {
                    counts[kind] += 1;
                    let limit = if kind == ADVERTISE { 400 + extra } else { 400 };
                    assert!((ticket.note as u32) < limit && ticket.agent as usize % 3 == lane);
                    assert!(kind != ADVERTISE || pairs.insert((ticket.agent, ticket.note)));
                }
            }
        }
        for (count, expected) in counts.iter().zip([2_000.0, 5_000.0, 3_000.0]) {
            assert!((f64::from(*count) / expected - 1.0).abs() < 0.2, "{counts:?}");
        }
    }
}
