//! All three servers are restarted in turn, like in an upgrade, under steady load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use piccolo::api::{FindQuery, path};
use serde_json::json;
use tokio::task::JoinSet;

use crate::checker::assert_kept;
use crate::history::{Expected, History};
use crate::load::GROUP;
use crate::site::{Site, rng, soak_time};
use crate::support::Wire;
use crate::wire::ask;
use crate::witness::Witness;

/// Number of clients of each kind that keep their connection, and of those that connect for each request.
const CLIENTS: usize = 6;
/// Pause between two requests of a client.
const PAUSE: Duration = Duration::from_millis(10);
/// Share of an agent's resolve timeout for one server.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(2);
/// Timeout of a write; an agent's is 10 s.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn two_rolling_restarts_fail_nobody_who_retries_once_on_another_server() {
    restart_in_turn(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_rolling_restarts_fail_nobody_who_retries_once_on_another_server() {
    restart_in_turn((soak_time().as_secs() / 10).max(1) as usize).await;
}

async fn restart_in_turn(times: usize) {
    rng();
    let mut site = Site::of_three().await;
    let history = Arc::new(History::default());
    let witness = Witness::of(&site.apis(), &history);
    let clients = Clients::on(site.apis(), &history);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for round in 1..=times {
        for at in 0..site.servers.len() {
            let begun = Instant::now();
            let led = site.leader().await == at;
            site.servers[at].stop().await;
            let stopped = begun.elapsed();
            site.servers[at].start();
            site.servers[at].ready().await;
            println!(
                "round {round}, server {} (led: {led}): stopped in {stopped:?}, back after {:?}",
                at + 1,
                begun.elapsed()
            );
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (counts, expected) = clients.end().await;
    witness.end().await;
    println!("{counts:?}");
    let failures = history.findings();
    assert!(failures.is_empty(), "{} failed requests:\n{}", failures.len(), failures.join("\n"));
    assert!(counts.retries > 0, "nobody noticed that a server was away: {counts:?}");
    assert!(counts.lookups > 100 * times && counts.writes > 20 * times, "hardly any load: {counts:?}");
    assert_kept(&mut site, &history, &expected).await;
}

/// Number of requests of all clients.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    lookups: usize,
    writes: usize,
    retries: usize,
}

#[derive(Default)]
struct Counters {
    lookups: AtomicUsize,
    writes: AtomicUsize,
    retries: AtomicUsize,
}

pub struct Clients {
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    tasks: JoinSet<Option<Expected>>,
}

/// A client, with its first server, and its connection if it keeps one.
struct Client {
    number: usize,
    servers: Vec<SocketAddr>,
    at: usize,
    keeps: bool,
    kept: Option<Wire>,
    history: Arc<History>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
}

impl Clients {
    pub fn on(servers: Vec<SocketAddr>, history: &Arc<History>) -> Self {
        let (stop, counters) = (Arc::<AtomicBool>::default(), Arc::<Counters>::default());
        let mut tasks = JoinSet::new();
        for number in 0..2 * CLIENTS {
            let client = || Client {
                number,
                servers: servers.clone(),
                at: number,
                keeps: number % 2 == 0,
                kept: None,
                history: Arc::clone(history),
                counters: Arc::clone(&counters),
                stop: Arc::clone(&stop),
            };
            tasks.spawn(client().look_up());
            tasks.spawn(client().write());
        }
        Self { stop, counters, tasks }
    }

    pub async fn end(mut self) -> (Counts, Vec<Expected>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut expected = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            expected.extend(ended.unwrap());
        }
        let read = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let Counters { lookups, writes, retries } = &*self.counters;
        (Counts { lookups: read(lookups), writes: read(writes), retries: read(retries) }, expected)
    }
}

fn key(number: usize) -> String {
    format!("registry.example/app:v{}", number % 60)
}

impl Client {
    async fn look_up(mut self) -> Option<Expected> {
        let mut number = self.number;
        while !self.stop.load(Ordering::Relaxed) {
            number += 1;
            let query = FindQuery { key: key(number), group: GROUP.to_owned(), ..FindQuery::default() };
            let target = format!("{}?key={}&group={}", path::FINDKEY, query.key, query.group);
            // 404 is an answer: the key may have no holder yet.
            self.with_one_retry("lookup", "GET", &target, "", LOOKUP_PATIENCE, &[200, 404]).await;
            self.counters.lookups.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
        None
    }

    /// Writes one key after the other for a holder of its own.
    async fn write(mut self) -> Option<Expected> {
        let holder = format!("10.66.0.{}:7781", self.number + 1);
        let mut expected = Expected { holder: holder.clone(), keys: Default::default() };
        for seq in 1.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let keys = [key(seq)];
            let body =
                json!({ "holder": holder, "group": GROUP, "keys": keys, "epoch": 1, "seq": seq }).to_string();
            let begun = Instant::now();
            self.with_one_retry("write", "POST", path::ADVERTISE, &body, WRITE_PATIENCE, &[201]).await;
            self.history.wrote(begun.elapsed());
            expected.keys.extend(keys);
            self.counters.writes.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
        Some(expected)
    }

    /// Sends a request to the client's server; without a good answer exactly once to the next one, which it
    /// then stays with.
    async fn with_one_retry(
        &mut self,
        what: &str,
        method: &str,
        target: &str,
        body: &str,
        patience: Duration,
        good: &[u16],
    ) {
        let mut tried = Vec::new();
        for attempt in 0..2 {
            let server = self.servers[self.at % self.servers.len()];
            let begun = Instant::now();
            let status = self.ask(server, method, target, body, patience).await;
            if status.is_ok_and(|status| good.contains(&status)) {
                // Clients without a kept connection rotate, so that each server has load right after its
                // start.
                self.at += usize::from(!self.keeps);
                return;
            }
            tried.push(format!("{server}: {status:?} after {:?}", begun.elapsed()));
            self.at += 1;
            self.kept = None;
            if attempt == 0 {
                self.counters.retries.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.history.found(format!(
            "client {} (keeps its connection: {}): {what} failed: {}",
            self.number,
            self.keeps,
            tried.join(", then ")
        ));
    }

    /// Status of the answer, or the failure.
    async fn ask(
        &mut self,
        server: SocketAddr,
        method: &str,
        target: &str,
        body: &str,
        patience: Duration,
    ) -> Result<u16, &'static str> {
        if !self.keeps {
            return ask(server, method, target, body, patience)
                .await
                .map(|said| said.status)
                .ok_or("no answer");
        }
        let exchange = async {
            let mut wire = match self.kept.take() {
                Some(wire) => wire,
                None => Wire::connect(server).await.map_err(|_| "no connection")?,
            };
            let head = format!(
                "{method} {target} HTTP/1.1\r\nhost: {server}\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            wire.send(head.as_bytes()).await.map_err(|_| "could not send")?;
            let answer = wire.answer(false).await.map_err(|_| "no whole answer")?;
            if answer.header("connection") != Some("close") {
                self.kept = Some(wire);
            }
            Ok(answer.status)
        };
        tokio::time::timeout(patience, exchange).await.unwrap_or(Err("no answer in time"))
    }
}
