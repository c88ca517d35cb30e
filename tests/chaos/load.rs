//! Clients that write and send heartbeats during the faults. Each is one holder with one writer, which
//! repeats a write until a server has acknowledged it: at any server, with the same pair, after a timeout
//! that is often too short. So the expected content of the index is known exactly.

mod go;
mod raw;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use crate::history::{Expected, History};
use go::Go;
use raw::Raw;

/// Number of keys that all clients write; each has several holders.
const KEYS: u32 = 60;
/// Group of all holders.
pub const GROUP: &str = "default";

/// Number and kind of clients.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Number of clients with pairs.
    pub raw: u8,
    /// Number of clients without pairs, like the Go `pi`.
    pub go: u8,
    /// Lease of clients with pairs.
    pub lease: Duration,
}

impl Mix {
    /// A mix for faults that last seconds.
    pub const SOME: Self = Self { raw: 6, go: 2, lease: Duration::from_secs(10) };
}

/// State that all clients share.
#[derive(Clone)]
struct Servers {
    apis: Arc<Vec<SocketAddr>>,
    history: Arc<History>,
    stop: Arc<AtomicBool>,
}

impl Servers {
    fn any(&self, rng: &mut StdRng) -> SocketAddr {
        self.apis[rng.random_range(0..self.apis.len())]
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A set of running clients.
pub struct Load {
    servers: Servers,
    clients: JoinSet<Expected>,
    /// Heartbeats end when this is dropped.
    _heartbeats: JoinSet<()>,
}

impl Load {
    /// Starts clients of these servers; `seed` decides what they do.
    pub fn on(apis: Vec<SocketAddr>, seed: u64, mix: Mix) -> Self {
        let servers = Servers { apis: Arc::new(apis), history: Arc::default(), stop: Arc::default() };
        let (mut clients, mut heartbeats) = (JoinSet::new(), JoinSet::new());
        for number in 0..mix.raw {
            let rng = StdRng::seed_from_u64(seed ^ (u64::from(number) << 8));
            let client = Raw::new(number, servers.clone(), rng, mix.lease);
            heartbeats.spawn(client.heartbeats().send_heartbeats());
            clients.spawn(client.run());
        }
        for number in 0..mix.go {
            let rng = StdRng::seed_from_u64(seed ^ (u64::from(number) << 16) ^ 1);
            clients.spawn(Go::new(number, servers.clone(), rng).run());
        }
        Self { servers, clients, _heartbeats: heartbeats }
    }

    pub fn history(&self) -> Arc<History> {
        Arc::clone(&self.servers.history)
    }

    /// After the faults: every client completes its last write. Heartbeats continue until this is dropped.
    pub async fn end(&mut self) -> (Arc<History>, Vec<Expected>) {
        self.servers.stop.store(true, Ordering::Relaxed);
        let mut expected = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            expected.push(ended.unwrap());
        }
        (self.history(), expected)
    }
}

/// All keys that clients write: digests and tags.
pub fn keys() -> Vec<String> {
    let key = |n: u32| {
        if n.is_multiple_of(3) { format!("registry.example/app:v{n}") } else { format!("sha256:{n:064x}") }
    };
    (0..KEYS).map(key).collect()
}

fn some_keys(rng: &mut StdRng, most: usize) -> Vec<String> {
    let keys = keys();
    let count = rng.random_range(1..=most);
    let mut some: Vec<String> = (0..count).map(|_| keys[rng.random_range(0..keys.len())].clone()).collect();
    some.sort();
    some.dedup();
    some
}
