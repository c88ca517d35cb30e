//! A client with pairs: it advertises, withdraws and syncs, times out too early, asks the next server with
//! the same pair, repeats old requests, and reads its own writes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use piccolo::api::{FindQuery, KeepaliveRequest, KeepaliveResponse, WriteRequest, WriteResponse, path};
use piccolo_raft::model::{Fingerprint, Key};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::{GROUP, Servers, some_keys};
use crate::history::{Alive, Expected, unix_ms};
use crate::wire::{Said, ask, find};

/// Timeouts, some of them too short for any write, some for one during an election.
const PATIENCES: [Duration; 4] =
    [Duration::from_millis(4), Duration::from_millis(60), Duration::from_millis(400), Duration::from_secs(4)];
/// Number of old requests that may be repeated.
const OLD_ONES: usize = 24;
/// Heartbeats in each lease: more than an agent's, because of the faults.
const HEARTBEATS_PER_LEASE: u32 = 8;
/// A holder that syncs more often is refused for a time.
const SYNC_EVERY: Duration = Duration::from_secs(4);
/// Timeout of reads of acknowledged writes: `min_index` waits 2 s.
const READ_PATIENCE: Duration = Duration::from_secs(3);

/// The state that a server has acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Acknowledged {
    keys: BTreeSet<String>,
    seq: u64,
    /// Log index that includes it.
    index: Option<u64>,
    /// True while a write is in flight.
    writing: bool,
}

pub(super) struct Raw {
    holder: String,
    epoch: u64,
    servers: Servers,
    rng: StdRng,
    lease: Duration,
    acknowledged: Arc<Mutex<Acknowledged>>,
    old: VecDeque<(&'static str, String)>,
    synced: Instant,
}

impl Raw {
    pub(super) fn new(number: u8, servers: Servers, rng: StdRng, lease: Duration) -> Self {
        Self {
            holder: format!("10.77.0.{}:7781", number + 1),
            epoch: unix_ms(),
            servers,
            rng,
            lease,
            acknowledged: Arc::default(),
            old: VecDeque::new(),
            synced: Instant::now(),
        }
    }

    /// The client's heartbeats. They continue after its last write, because the checker reads what is
    /// visible.
    pub(super) fn heartbeats(&self) -> Heartbeats {
        Heartbeats {
            holder: self.holder.clone(),
            epoch: self.epoch,
            servers: self.servers.clone(),
            rng: self.rng.clone(),
            lease: self.lease,
            acknowledged: Arc::clone(&self.acknowledged),
        }
    }

    pub(super) async fn run(mut self) -> Expected {
        self.write_on().await;
        let keys = self.acknowledged.lock().unwrap().keys.clone();
        Expected { holder: self.holder, keys }
    }

    async fn write_on(&mut self) {
        while !self.servers.stopped() {
            let (path, keys, after) = self.plan();
            let seq = {
                let mut acknowledged = self.acknowledged.lock().unwrap();
                acknowledged.writing = true;
                acknowledged.seq + 1
            };
            let body = self.body(&keys, seq);
            let index = self.until_taken(path, &body, seq).await;
            *self.acknowledged.lock().unwrap() = Acknowledged { keys: after, seq, index, writing: false };
            if self.rng.random_bool(0.3) {
                self.read_own(&keys, index).await;
            }
            if self.rng.random_bool(0.15) {
                self.deliver_an_old_one().await;
            }
            self.old.push_back((path, body));
            if self.old.len() > OLD_ONES {
                self.old.pop_front();
            }
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..60))).await;
        }
    }

    /// Chooses the next write; returns the holder's keys after it.
    fn plan(&mut self) -> (&'static str, Vec<String>, BTreeSet<String>) {
        let mut keys = self.acknowledged.lock().unwrap().keys.clone();
        if self.synced.elapsed() > SYNC_EVERY && self.rng.random_bool(0.2) {
            self.synced = Instant::now();
            let whole: BTreeSet<String> = some_keys(&mut self.rng, 30).into_iter().collect();
            return (path::SYNC, whole.iter().cloned().collect(), whole);
        }
        if keys.len() > 5 && self.rng.random_bool(0.45) {
            let held: Vec<String> = keys.iter().cloned().collect();
            let count = self.rng.random_range(1..=3);
            let gone: Vec<String> = held.choose_multiple(&mut self.rng, count).cloned().collect();
            keys.retain(|key| !gone.contains(key));
            return (path::WITHDRAW, gone, keys);
        }
        let new = some_keys(&mut self.rng, 4);
        keys.extend(new.iter().cloned());
        (path::ADVERTISE, new, keys)
    }

    fn body(&self, keys: &[String], seq: u64) -> String {
        let request = WriteRequest {
            holder: self.holder.clone(),
            group: GROUP.to_owned(),
            keys: keys.to_vec(),
            epoch: Some(self.epoch),
            seq: Some(seq),
            zone: None,
            ttl_seconds: Some(self.lease.as_secs() as u32),
        };
        serde_json::to_string(&request).unwrap()
    }

    /// Repeats a write until a server has acknowledged it; returns the log index that includes it.
    async fn until_taken(&mut self, path: &str, body: &str, seq: u64) -> Option<u64> {
        let begun = Instant::now();
        loop {
            let server = self.servers.any(&mut self.rng);
            let patience = *PATIENCES.choose(&mut self.rng).unwrap();
            let Some(said) = ask(server, "POST", path, body, patience).await else {
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(1..20))).await;
                continue;
            };
            match said.status {
                201 => {
                    let stored = said.read::<WriteResponse>();
                    let echoed = stored.map(|stored| (stored.epoch, stored.seq));
                    if echoed != Some((Some(self.epoch), Some(seq))) {
                        self.found(format!("{path} {seq} was echoed as {}", said.body));
                    }
                    self.servers.history.wrote(begun.elapsed());
                    return said.applied_index;
                }
                500.. => {
                    tokio::time::sleep(Duration::from_millis(self.rng.random_range(5..80))).await;
                }
                // Nobody else writes for this holder, and this is the highest pair that it has sent.
                _ => {
                    self.found(format!("{path} {seq}: {}: {}", said.status, said.body));
                    return None;
                }
            }
        }
    }

    /// Reads the last write at any server, with the log index of its acknowledgement: no later write is in
    /// flight.
    async fn read_own(&mut self, written: &[String], index: Option<u64>) {
        let Some(key) = written.choose(&mut self.rng).cloned() else { return };
        let holds = self.acknowledged.lock().unwrap().keys.contains(&key);
        let query =
            FindQuery { key: key.clone(), group: GROUP.to_owned(), min_index: index, ..FindQuery::default() };
        let server = self.servers.any(&mut self.rng);
        let Some(found) = find(server, &query, READ_PATIENCE).await else { return };
        self.servers.history.read_own_write();
        let found = found.is_some_and(|holders| holders.contains(&self.holder));
        if found != holds {
            let seq = self.acknowledged.lock().unwrap().seq;
            self.found(format!(
                "{server} at index {index:?} (seq {seq}): {key} is held: {holds}, found: {found}"
            ));
        }
    }

    /// Sends an old request again, as if it had been delayed. Later writes are acknowledged, so it must
    /// change nothing. (A leader that does not know about its successor yet may confirm its own last write,
    /// which is true; the log index shows this case.)
    async fn deliver_an_old_one(&mut self) {
        let Some(at) = self.old.len().checked_sub(1).map(|last| self.rng.random_range(0..=last)) else {
            return;
        };
        let (path, body) = self.old[at].clone();
        let server = self.servers.any(&mut self.rng);
        let said = ask(server, "POST", path, &body, *PATIENCES.choose(&mut self.rng).unwrap()).await;
        // If no server has answered, nobody knows whether the request arrived.
        if said.as_ref().is_some_and(|said| said.status < 500) {
            self.servers.history.late_duplicate();
        }
        let index = self.acknowledged.lock().unwrap().index;
        let wrong = |said: &Said| said.status != 409 && said.status < 500 && said.applied_index >= index;
        if let Some(said) = said.filter(wrong) {
            self.found(format!("an old {path} was answered {}: {body}", said.status));
        }
    }

    fn found(&self, what: String) {
        self.servers.history.found(format!("{}: {what}", self.holder));
    }
}

/// Heartbeats of a client.
pub(super) struct Heartbeats {
    holder: String,
    epoch: u64,
    servers: Servers,
    rng: StdRng,
    lease: Duration,
    acknowledged: Arc<Mutex<Acknowledged>>,
}

impl Heartbeats {
    /// Sends heartbeats until it is dropped.
    pub(super) async fn send_heartbeats(mut self) {
        let interval = self.lease / HEARTBEATS_PER_LEASE;
        loop {
            let before = self.acknowledged.lock().unwrap().clone();
            let keys: Vec<Key> = before.keys.iter().map(|key| key.parse().unwrap()).collect();
            let request = KeepaliveRequest {
                host: self.holder.clone(),
                group: GROUP.to_owned(),
                ttl_seconds: Some(self.lease.as_secs() as u32),
                fingerprint: Some(keys.iter().collect::<Fingerprint>().to_string()),
                count: Some(keys.len() as u64),
                epoch: Some(self.epoch),
                seq: Some(before.seq),
                ..KeepaliveRequest::default()
            };
            let body = serde_json::to_string(&request).unwrap();
            let sent = unix_ms();
            let said = ask(self.servers.any(&mut self.rng), "POST", path::KEEPALIVE, &body, interval).await;
            let Some(heartbeat) = said.filter(|said| said.status == 201) else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.servers.history.alive(&self.holder, self.lease, Alive { sent, heard: unix_ms() });
            let resync = heartbeat.read::<KeepaliveResponse>().is_none_or(|answer| answer.resync);
            // A sync in flight is not one step. A leader that was cut off also knows, for up to
            // `QUORUM_HEARD_MAX`, neither that it no longer leads, nor what its successor acknowledged.
            let quiet = !before.writing && *self.acknowledged.lock().unwrap() == before;
            let knows = heartbeat.applied_index >= before.index;
            if resync && quiet && knows && before.seq > 0 {
                let what = format!(
                    "{} holds {} keys at seq {}, and is asked to sync",
                    self.holder,
                    keys.len(),
                    before.seq
                );
                self.servers.history.found(what);
            }
            tokio::time::sleep(interval).await;
        }
    }
}
