//! Checks what must hold after faults. It knows which writes were acknowledged, what the layouts contain, and
//! what the servers answered and logged; it knows nothing about the faults.
//!
//! - I1, I3: every acknowledged key is on every server, and nothing else is.
//! - I2: equal checksums at equal log indices.
//! - No holder was hidden within a lease of its last received heartbeat.
//! - No leader (a term and a node) led twice; no server ended by itself, panicked or logged an error.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use piccolo::api::FindQuery;

use crate::history::{Alive, Expected, History, Life};
use crate::load::{self, GROUP};
use crate::logs::{self, Line};
use crate::node::{HEARTBEAT, Node};
use crate::server::Server;
use crate::site::Site;
use crate::wire;

/// Time for servers to become equal, and for nodes to have sent all that they hold.
const CONVERGED: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(5);
const QUESTIONS_AT_ONCE: usize = 16;
/// Time from the decision for a `Hide` until it is applied and logged.
const HIDE_TAKES_MS: u64 = 2_000;
/// Time from a node's restart to its first heartbeat.
const NODE_STARTS: Duration = Duration::from_secs(15);

/// Panics with all findings.
pub async fn assert_kept(site: &mut Site, history: &History, expected: &[Expected]) {
    println!("{}", history.summary());
    let findings = findings(site, history, expected).await;
    assert!(findings.is_empty(), "{} broken promises:\n{}", findings.len(), findings.join("\n"));
}

/// All violations of the promises. The site must not change any more.
pub async fn findings(site: &mut Site, history: &History, expected: &[Expected]) -> Vec<String> {
    findings_within(site, history, expected, CONVERGED).await
}

/// Like [`findings`], with `patience` for servers to become equal, and for nodes to have sent everything.
pub async fn findings_within(
    site: &mut Site,
    history: &History,
    expected: &[Expected],
    patience: Duration,
) -> Vec<String> {
    let mut findings = history.findings();
    for server in &mut site.servers {
        if !server.still_runs() {
            findings.push(format!("server {} ended by itself", server.number));
        }
    }
    // Clients have their answers: a server that has applied as much as the others must show every
    // acknowledged write at once.
    findings.extend(converged(&site.servers, patience).await);
    for server in &site.servers {
        let of_clients = contents(server.api, expected, &load::keys()).await;
        findings.extend(of_clients.into_iter().map(|finding| format!("server {}: {finding}", server.number)));
    }
    findings.extend(nodes_are_known(site, expected, patience).await);
    findings.extend(converged(&site.servers, patience).await);
    findings.extend(two_leaders(&site.servers, history));
    findings.extend(hidden_alive(&site.servers, &site.nodes, history));
    for server in &site.servers {
        for line in logs::lines(&server.log()) {
            if let Line::Trouble { text } = line {
                findings.push(format!("server {} logged: {text}", server.number));
            }
        }
    }
    findings
}

/// Checks I2.
async fn converged(servers: &[Server], patience: Duration) -> Option<String> {
    let end = Instant::now() + patience;
    loop {
        let mut seen = Vec::new();
        for server in servers {
            if let Some(status) = wire::status(server.api).await.filter(|status| status.quorum) {
                seen.push((status.applied_index, status.checksum));
            }
        }
        if seen.len() == servers.len() && seen.iter().all(|(index, _)| *index == seen[0].0) {
            let equal = seen.iter().all(|(_, checksum)| *checksum == seen[0].1);
            return (!equal).then(|| format!("checksums differ at one log index: {seen:?}"));
        }
        if Instant::now() > end {
            return Some(format!("not equal within {patience:?}: {seen:?}"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Checks I1 and I3: compares one server's answers for these holders with what is expected, by key and in
/// numbers.
async fn contents(server: SocketAddr, expected: &[Expected], keys: &[String]) -> Vec<String> {
    let Some(hosts) = wire::hosts(server).await else { return vec!["does not tell its hosts".into()] };
    let hosts: BTreeMap<String, _> =
        hosts.hosts.into_iter().map(|host| (host.holder.clone(), host)).collect();
    let mut findings = Vec::new();
    for Expected { holder, keys } in expected {
        let count = hosts.get(holder).map_or(0, |host| host.keys);
        if count != keys.len() as u64 {
            findings.push(format!("{holder} has {count} keys, not {}", keys.len()));
        }
        if hosts.get(holder).is_some_and(|host| host.hidden_unix_ms.is_some()) {
            findings.push(format!("{holder} is hidden"));
        }
    }
    let questions = futures_util::stream::iter(keys).map(async |key| (key, holders(server, key).await));
    let answers: Vec<_> = questions.buffer_unordered(QUESTIONS_AT_ONCE).collect().await;
    for (key, found) in answers {
        let Some(found) = found else {
            findings.push(format!("no answer for {key}"));
            continue;
        };
        for Expected { holder, keys } in expected {
            match (keys.contains(key), found.contains(holder)) {
                (true, false) => findings.push(format!("{holder} holds {key}, which is not found")),
                (false, true) => findings.push(format!("{holder} does not hold {key}, which is found")),
                _ => {}
            }
        }
    }
    findings
}

async fn holders(server: SocketAddr, key: &str) -> Option<BTreeSet<String>> {
    let query = FindQuery { key: key.to_owned(), group: GROUP.to_owned(), ..FindQuery::default() };
    let found = wire::find(server, &query, PATIENCE).await?;
    Some(found.unwrap_or_default().into_iter().collect())
}

/// Checks that the nodes' keys are known, after some time for their last changes, and that no other holder
/// is.
async fn nodes_are_known(site: &Site, clients: &[Expected], patience: Duration) -> Vec<String> {
    let expected: Vec<Expected> = site.nodes.iter().map(Node::expected).collect();
    let keys: BTreeSet<String> = expected.iter().flat_map(|node| node.keys.clone()).collect();
    let keys: Vec<String> = keys.into_iter().collect();
    let known: BTreeSet<&String> = expected.iter().chain(clients).map(|one| &one.holder).collect();
    let mut findings = Vec::new();
    for server in &site.servers {
        let end = Instant::now() + patience;
        let mut late = contents(server.api, &expected, &keys).await;
        while !late.is_empty() && Instant::now() < end {
            tokio::time::sleep(POLL).await;
            late = contents(server.api, &expected, &keys).await;
        }
        let hosts = wire::hosts(server.api).await.map(|answer| answer.hosts).unwrap_or_default();
        let strangers = hosts.into_iter().filter(|host| !known.contains(&host.holder));
        late.extend(strangers.map(|host| format!("nobody is {}", host.holder)));
        findings.extend(late.into_iter().map(|finding| format!("server {}: {finding}", server.number)));
    }
    findings
}

/// A leader is identified by its term and node id: openraft orders leaders by both, and a term may have a
/// second leader with a higher id. A leader must not be on two servers (by their answers), nor in two lives
/// of one server (by its log): it could give different entries the same log id.
fn two_leaders(servers: &[Server], history: &History) -> Vec<String> {
    let mut answered: BTreeMap<(u64, String), BTreeSet<SocketAddr>> = BTreeMap::new();
    for (term, server, node) in history.leaders() {
        answered.entry((term, node)).or_default().insert(server);
    }
    let twice = answered.into_iter().filter(|(_, servers)| servers.len() > 1);
    let mut findings: Vec<String> = twice
        .map(|((term, node), servers)| format!("term {term} of node {node} was led by {servers:?}"))
        .collect();
    for server in servers {
        let led = logs::lines(&server.log()).into_iter().filter_map(|line| match line {
            Line::Leads { term, at_ms } => Some((term, at_ms)),
            _ => None,
        });
        let again = led_in_two_lives(&server.started, led);
        findings.extend(
            again.into_iter().map(|term| format!("server {} led term {term} in two lives", server.number)),
        );
    }
    findings
}

/// Terms that one server led after more than one of its starts, not counting those before its first start.
fn led_in_two_lives(started: &[u64], led: impl Iterator<Item = (u64, u64)>) -> Vec<u64> {
    let mut lives: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
    for (term, at_ms) in led {
        let life = started.partition_point(|start| *start <= at_ms);
        if life > 0 {
            lives.entry(term).or_default().insert(life);
        }
    }
    lives.into_iter().filter(|(_, lives)| lives.len() > 1).map(|(term, _)| term).collect()
}

/// All holders that were hidden, by the servers' answers and logs, although a server had received a heartbeat
/// less than a lease before.
fn hidden_alive(servers: &[Server], nodes: &[Node], history: &History) -> Vec<String> {
    let mut hidden = history.all_hidden();
    for server in servers {
        for line in logs::lines(&server.log()) {
            if let Line::LeaseEnded { holder, at_ms } = line {
                hidden.insert((holder, at_ms));
            }
        }
    }
    let lives = history.lives();
    let alive = hidden.into_iter().filter(|(holder, at_ms)| {
        match (lives.get(holder), nodes.iter().find(|node| node.holder() == *holder)) {
            (Some(life), _) => was_alive(life, *at_ms),
            (None, Some(node)) => was_up(node, *at_ms),
            (None, None) => true,
        }
    });
    alive.map(|(holder, at_ms)| format!("{holder} was hidden at {at_ms}, and was alive")).collect()
}

fn was_alive(life: &Life, at_ms: u64) -> bool {
    let since = at_ms.saturating_sub(life.lease.as_millis() as u64);
    life.heartbeats.iter().any(|Alive { sent, heard }| *sent >= since && heard + HIDE_TAKES_MS <= at_ms)
}

/// True if the node was running: it sends heartbeats by itself unless it was killed shortly before.
fn was_up(node: &Node, at_ms: u64) -> bool {
    let down = (3 * HEARTBEAT + NODE_STARTS).as_millis() as u64;
    !node.killed.iter().any(|killed| (*killed..killed + down).contains(&at_ms))
}

#[test]
fn a_server_leads_a_term_in_one_life_only() {
    let led = |lines: &[(u64, u64)]| led_in_two_lives(&[1_000, 2_000], lines.iter().copied());
    assert_eq!(led(&[(1, 1_100), (1, 1_900), (2, 2_100)]), Vec::<u64>::new());
    assert_eq!(led(&[(1, 1_100), (1, 2_100)]), [1]);
    assert_eq!(led(&[(1, 900), (1, 2_100)]), Vec::<u64>::new(), "of another cluster");
}

#[test]
fn a_heartbeat_within_a_lease_means_alive() {
    let lease = Duration::from_secs(10);
    let life = |sent: u64, heard: u64| Life { lease, heartbeats: vec![Alive { sent, heard }] };
    assert!(was_alive(&life(5_000, 5_100), 14_000));
    assert!(!was_alive(&life(3_900, 4_000), 14_000), "its lease had ended");
    assert!(!was_alive(&life(13_000, 13_500), 14_000), "it came while the hide was on its way");
    assert!(!was_alive(&Life { lease, heartbeats: Vec::new() }, 14_000));
}
