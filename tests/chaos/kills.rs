//! kill -9 of servers and agents, one after the other and all at once.
//!
//! A killed process keeps what it wrote, because the page cache is the kernel's. What a power cut loses in
//! addition is tested on simulated disks (`raft/src/log`, `raft/src/index`).

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use crate::checker::assert_kept;
use crate::load::{Load, Mix};
use crate::node::Changes;
use crate::server::Server;
use crate::site::{Site, rng, soak_time};
use crate::support::{SOON, within};
use crate::witness::Witness;

/// Time between two kills of a server.
const EVERY: Duration = Duration::from_secs(1);
/// Share of the kills that hit a node instead.
const NODES_TOO: f64 = 0.25;
const NODES: usize = 3;
/// Number of nodes that are never killed: hiding one of them is always a violation.
const UNHARMED: usize = 1;

/// Length in `make test`.
const BRIEFLY: Duration = Duration::from_secs(15);
const POWER_CUTS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_a_random_server_each_second_loses_and_invents_nothing() {
    kill_for(BRIEFLY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_kill_9_of_a_random_server_each_second_for_minutes() {
    kill_for(soak_time()).await;
}

async fn kill_for(time: Duration) {
    let (seed, mut rng) = rng();
    let mut site = Site::of_three().await;
    site.add_nodes(NODES, &[]).await;
    let mut load = Load::on(site.apis(), seed, Mix::SOME);
    let changes = Changes::on(&site.nodes, seed);
    let witness = Witness::of(&site.apis(), &load.history());
    let begun = Instant::now();
    let mut kills = 0;
    while begun.elapsed() < time {
        let round = Instant::now();
        if rng.random_bool(NODES_TOO) {
            kill_a_node(&mut site, &mut rng).await;
        } else {
            kill_a_server(&mut site, &mut rng).await;
        }
        kills += 1;
        tokio::time::sleep(EVERY.saturating_sub(round.elapsed())).await;
    }
    site.all_ready().await;
    assert!(site.nodes[..UNHARMED].iter().all(|node| node.killed.is_empty()));
    println!("{kills} kills, {} changes of layouts", changes.end().await);
    let (history, expected) = load.end().await;
    witness.end().await;
    history.assert_lived();
    assert!(history.writes() as u64 > time.as_secs(), "hardly anything was written: {}", history.summary());
    assert_kept(&mut site, &history, &expected).await;
}

async fn kill_a_server(site: &mut Site, rng: &mut StdRng) {
    let victim = rng.random_range(0..site.servers.len());
    site.servers[victim].kill();
    // Sometimes long enough for an election, sometimes too short.
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..700))).await;
    site.servers[victim].start();
}

async fn kill_a_node(site: &mut Site, rng: &mut StdRng) {
    let victim = rng.random_range(UNHARMED..site.nodes.len());
    site.nodes[victim].kill().await;
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..700))).await;
    site.nodes[victim].start();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_killed_at_once_in_mid_load_come_back_with_all_that_was_acknowledged() {
    cut_the_power(POWER_CUTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_all_servers_killed_at_once_again_and_again() {
    cut_the_power((soak_time().as_secs() / 4).max(1) as usize).await;
}

async fn cut_the_power(times: usize) {
    let (seed, mut rng) = rng();
    let mut site = Site::of_three().await;
    let mut load = Load::on(site.apis(), seed, Mix::SOME);
    let witness = Witness::of(&site.apis(), &load.history());
    let history = load.history();
    for _ in 0..times {
        let before = history.writes();
        within("writes before the cut", SOON, async || (history.writes() > before).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(1_000..2_500))).await;
        site.servers.iter_mut().for_each(Server::kill);
        // No heartbeat gets through meanwhile; if a server hides a holder for that, the checker finds it.
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
        site.servers.iter_mut().for_each(Server::start);
        site.all_ready().await;
        site.leader().await;
    }
    let (history, expected) = load.end().await;
    witness.end().await;
    history.assert_lived();
    assert_kept(&mut site, &history, &expected).await;
}
