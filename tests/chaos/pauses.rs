//! Frozen processes: a leader for longer than a lease, a follower while the others write much.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use piccolo::api::path;
use piccolo::limits::LEASE_SECONDS_MIN;
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::checker::assert_kept;
use crate::history::{Expected, unix_ms};
use crate::load::{GROUP, Load, Mix};
use crate::site::{Site, rng, soak_time};
use crate::support::{SOON, within};
use crate::wire::{ask, status};
use crate::witness::Witness;

/// Time for an election, and for clients to find the new leader, while the old one is frozen.
const WRITES_AGAIN: Duration = Duration::from_secs(15);
/// The shortest lease, with time for a heartbeat on a busy machine.
const LEASE: Duration = Duration::from_secs(LEASE_SECONDS_MIN as u64 + 2);

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_stopped_for_longer_than_a_lease_hides_nobody_and_writes_go_on() {
    stop_leaders(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_leaders_stopped_for_longer_than_a_lease_hide_nobody() {
    stop_leaders((soak_time().as_secs() / 20).max(1) as usize).await;
}

async fn stop_leaders(times: usize) {
    let (seed, _) = rng();
    let mut site = Site::of_three().await;
    site.add_nodes(1, &[]).await;
    let mut load = Load::on(site.apis(), seed, Mix { lease: LEASE, ..Mix::SOME });
    let history = load.history();
    let witness = Witness::of(&site.apis(), &history);
    for _ in 0..times {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let leader = site.leader().await;
        site.servers[leader].signal(Signal::STOP);
        let stopped = Instant::now();
        let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
        site.leader_among(&others).await;
        let before = history.writes();
        within("writes go on", WRITES_AGAIN, async || (history.writes() > before).then_some(())).await;
        println!("writes went on {:?} after the leader was stopped", stopped.elapsed());
        tokio::time::sleep((LEASE * 2).saturating_sub(stopped.elapsed())).await;
        site.servers[leader].signal(Signal::CONT);
        // A server that believes that leases have ended meanwhile hides their holders now.
        tokio::time::sleep(LEASE).await;
    }
    let (history, expected) = load.end().await;
    witness.end().await;
    assert_kept(&mut site, &history, &expected).await;
}

/// Number of holders with whole inventories that the others write repeatedly while one server is frozen.
const BULK_HOSTS: usize = 40;
const BULK_KEYS: usize = 400;
const BULK_PATIENCE: Duration = Duration::from_secs(20);
/// Growth of the leader's memory. What is kept for the follower is in the log, on disk.
const LEADER_GROWS_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// Longest write while a follower is frozen and clients write as fast as they can.
const SLOWEST_WRITE: Duration = Duration::from_secs(15);
const CATCHES_UP: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stands_still_costs_the_leader_neither_memory_nor_time_and_catches_up() {
    freeze_a_follower(Duration::from_secs(7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_a_follower_that_stands_still_for_a_minute_or_more_catches_up() {
    freeze_a_follower(soak_time().max(Duration::from_secs(60))).await;
}

async fn freeze_a_follower(time: Duration) {
    let (seed, _) = rng();
    let mut site = Site::of_three().await;
    let leader = site.leader().await;
    let frozen = (leader + 1) % 3;
    // The frozen server's clients would only wait for it.
    let apis: Vec<SocketAddr> = (0..3).filter(|at| *at != frozen).map(|at| site.servers[at].api).collect();
    let mut load = Load::on(apis.clone(), seed, Mix::SOME);
    let bulk = Bulk::on(apis);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, from) = (site.servers[leader].anonymous_bytes(), unix_ms());
    let (median_before, slowest_before) = load.history().latency_between(0, from);
    let written = bulk.written();
    site.servers[frozen].signal(Signal::STOP);
    let end = Instant::now() + time;
    let mut most = before;
    while Instant::now() < end {
        most = most.max(site.servers[leader].anonymous_bytes());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (median, slowest) = load.history().latency_between(from, unix_ms());
    let lag = wire_lag(&site, leader, frozen).await;
    let written = bulk.written() - written;
    site.servers[frozen].signal(Signal::CONT);
    let begun = Instant::now();
    // The load continues: the server must catch up with a moving target.
    let target = status(site.servers[leader].api).await.expect("the leader answers").applied_index;
    within("it catches up", CATCHES_UP.max(time), async || {
        status(site.servers[frozen].api).await.filter(|status| status.applied_index >= target)
    })
    .await;
    let mut summary = String::new();
    write!(
        summary,
        "frozen for {time:?}: {written} inventories and {lag} entries behind; leader's memory {} MiB, at most {} MiB; \
         writes took {median_before:?} / {slowest_before:?} before, {median:?} / {slowest:?} meanwhile; caught up in {:?}",
        before >> 20,
        most >> 20,
        begun.elapsed()
    )
    .unwrap();
    println!("{summary}");
    let (history, mut expected) = load.end().await;
    expected.extend(bulk.end().await);
    assert!(written > 10 && lag > 10, "hardly anything was written: {summary}");
    assert!(most - before <= LEADER_GROWS_BYTES_MAX, "{summary}");
    assert!(slowest <= SLOWEST_WRITE, "{summary}");
    assert_kept(&mut site, &history, &expected).await;
}

/// Number of entries that a follower lacks, by the leader's answer.
async fn wire_lag(site: &Site, leader: usize, follower: usize) -> u64 {
    let raft = site.servers[follower].raft.to_string();
    within("the leader's word on the follower", SOON, async || {
        let status = status(site.servers[leader].api).await?;
        status.members.into_iter().find(|member| member.raft_address == raft)?.lag
    })
    .await
}

/// Clients that write whole inventories as fast as they are acknowledged.
struct Bulk {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    tasks: JoinSet<Vec<Expected>>,
}

impl Bulk {
    const CLIENTS: usize = 4;

    fn on(servers: Vec<SocketAddr>) -> Self {
        let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        for client in 0..Self::CLIENTS {
            tasks.spawn(write_bulk(client, servers.clone(), Arc::clone(&stop), Arc::clone(&written)));
        }
        Self { stop, written, tasks }
    }

    fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }

    async fn end(mut self) -> Vec<Expected> {
        self.stop.store(true, Ordering::Relaxed);
        let mut expected = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            expected.extend(ended.unwrap());
        }
        expected
    }
}

async fn write_bulk(
    client: usize,
    servers: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
) -> Vec<Expected> {
    let mut expected: Vec<Expected> = (0..BULK_HOSTS)
        .map(|host| Expected {
            holder: format!("10.99.{client}.{}:7781", host + 1),
            keys: Default::default(),
        })
        .collect();
    for round in 0_usize.. {
        let (host, seq) = (round % BULK_HOSTS, round / BULK_HOSTS + 1);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Different keys each time: all previous ones are removed.
        let keys: Vec<String> = (0..BULK_KEYS)
            .map(|key| format!("sha256:{:064x}", ((1 + seq % 2) << 32) | (key * 7 + host % 7)))
            .collect();
        let body = serde_json::json!({
            "holder": expected[host].holder, "group": GROUP, "keys": keys, "epoch": 1, "seq": seq,
        })
        .to_string();
        for attempt in 0_usize.. {
            let server = servers[(client + attempt) % servers.len()];
            let said = ask(server, "POST", path::SYNC, &body, BULK_PATIENCE).await;
            if said.is_some_and(|said| said.status == 201) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        expected[host].keys = keys.into_iter().collect();
        written.fetch_add(1, Ordering::Relaxed);
    }
    expected
}
