//! A client like the Go `pi`: no pairs, a lease of half an hour, and a list of keys that only grows. (Its
//! delayed duplicates may be applied after later writes; native clients have pairs for that reason.)

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use piccolo::api::{KeepaliveRequest, path};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;

use super::{GROUP, Servers, some_keys};
use crate::history::{Alive, Expected, unix_ms};
use crate::wire::ask;

const PATIENCE: Duration = Duration::from_secs(1);
/// Lease of a client that requests none.
const LEASE: Duration = Duration::from_secs(31 * 60);

pub(super) struct Go {
    holder: String,
    servers: Servers,
    rng: StdRng,
}

impl Go {
    pub(super) fn new(number: u8, servers: Servers, rng: StdRng) -> Self {
        Self { holder: format!("10.88.0.{}:7781", number + 1), servers, rng }
    }

    pub(super) async fn run(mut self) -> Expected {
        let mut keys = BTreeSet::new();
        while !self.servers.stopped() {
            let new = some_keys(&mut self.rng, 2);
            let body = json!({ "holder": self.holder, "group": GROUP, "keys": new }).to_string();
            self.until_taken(path::ADVERTISE, &body).await;
            keys.extend(new);
            let heartbeat = KeepaliveRequest {
                host: self.holder.clone(),
                group: GROUP.to_owned(),
                ..KeepaliveRequest::default()
            };
            let sent = unix_ms();
            self.until_taken(path::KEEPALIVE, &serde_json::to_string(&heartbeat).unwrap()).await;
            self.servers.history.alive(&self.holder, LEASE, Alive { sent, heard: unix_ms() });
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(20..200))).await;
        }
        Expected { holder: self.holder, keys }
    }

    async fn until_taken(&mut self, path: &str, body: &str) {
        let begun = Instant::now();
        loop {
            let server = self.servers.any(&mut self.rng);
            match ask(server, "POST", path, body, PATIENCE).await {
                Some(said) if said.status == 201 => break,
                Some(said) if said.status < 500 => {
                    self.servers
                        .history
                        .found(format!("{} {path}: {}: {}", self.holder, said.status, said.body));
                    break;
                }
                _ => tokio::time::sleep(Duration::from_millis(self.rng.random_range(5..50))).await,
            }
        }
        if path == piccolo::api::path::ADVERTISE {
            self.servers.history.wrote(begun.elapsed());
        }
    }
}
