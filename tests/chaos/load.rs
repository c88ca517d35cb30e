//! Clients that write while there is trouble, and beat. Each is one holder with one writer, which goes on
//! with a write until a server has taken it: at any server, with the same pair, after a patience that is
//! often too short. So what the index must hold in the end is known exactly.

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

/// Keys that all clients write of: each has several holders.
const KEYS: u32 = 60;
/// Of all holders.
pub const GROUP: &str = "default";

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Clients with pairs.
    pub raw: u8,
    /// Clients without, as the Go `pi`.
    pub go: u8,
    /// Lease of those with pairs.
    pub lease: Duration,
}

impl Mix {
    /// For trouble of seconds.
    pub const SOME: Self = Self { raw: 6, go: 2, lease: Duration::from_secs(10) };
}

/// All that clients share.
#[derive(Clone)]
struct Servers {
    apis: Arc<Vec<SocketAddr>>,
    history: Arc<History>,
    stop: Arc<AtomicBool>,
}

impl Servers {
    fn any(&self, dice: &mut StdRng) -> SocketAddr {
        self.apis[dice.random_range(0..self.apis.len())]
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Running clients.
pub struct Load {
    servers: Servers,
    clients: JoinSet<Expected>,
    /// They end when it is dropped.
    _beats: JoinSet<()>,
}

impl Load {
    /// Clients of these servers; `seed` decides what they do.
    pub fn on(apis: Vec<SocketAddr>, seed: u64, mix: Mix) -> Self {
        let servers = Servers { apis: Arc::new(apis), history: Arc::default(), stop: Arc::default() };
        let (mut clients, mut beats) = (JoinSet::new(), JoinSet::new());
        for number in 0..mix.raw {
            let dice = StdRng::seed_from_u64(seed ^ (u64::from(number) << 8));
            let client = Raw::new(number, servers.clone(), dice, mix.lease);
            beats.spawn(client.beats().beat_on());
            clients.spawn(client.run());
        }
        for number in 0..mix.go {
            let dice = StdRng::seed_from_u64(seed ^ (u64::from(number) << 16) ^ 1);
            clients.spawn(Go::new(number, servers.clone(), dice).run());
        }
        Self { servers, clients, _beats: beats }
    }

    pub fn history(&self) -> Arc<History> {
        Arc::clone(&self.servers.history)
    }

    /// After the trouble: every client brings its last write to an end. They beat as long as this lives.
    pub async fn end(&mut self) -> (Arc<History>, Vec<Expected>) {
        self.servers.stop.store(true, Ordering::Relaxed);
        let mut expected = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            expected.push(ended.unwrap());
        }
        (self.history(), expected)
    }
}

/// All keys that clients write of: digests and tags.
pub fn keys() -> Vec<String> {
    let key = |n: u32| {
        if n.is_multiple_of(3) { format!("registry.example/app:v{n}") } else { format!("sha256:{n:064x}") }
    };
    (0..KEYS).map(key).collect()
}

fn some_keys(dice: &mut StdRng, most: usize) -> Vec<String> {
    let keys = keys();
    let count = dice.random_range(1..=most);
    let mut some: Vec<String> = (0..count).map(|_| keys[dice.random_range(0..keys.len())].clone()).collect();
    some.sort();
    some.dedup();
    some
}
