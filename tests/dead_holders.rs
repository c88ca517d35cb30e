//! Half of all holders die at once (docs/budgets.md): a pull of 12 blobs that others hold needs the registry
//! in less than 1 % of cases, and soon answers no longer contain dead holders.
//!
//! Living holders are small HTTP servers of the test; dead ones are addresses that refuse connections or drop
//! packets. Everything else is the real binary.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/site.rs"]
mod site;

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use piccolo::api::{FindQuery, KeepaliveRequest};
use piccolo::limits::{CANDIDATES, HEARTBEAT_INTERVAL_DEFAULT, HIDE_WINDOW, HIDES_PER_GROUP_MIN};
use piccolo::oci::Digest;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use site::{Agent, SOON, Server, Setup, Swallowing, get, noise, within};

const LIVING: usize = 20;
const DEAD: usize = 20;
const IMAGES: usize = 15;
const BLOBS: usize = 12;
/// Number of nodes that pull, each with no knowledge of the dead holders.
const NODES: usize = 8;
/// Time after which less than 5 % of the holders in answers are dead.
const DEAD_GONE_WITHIN: Duration = Duration::from_secs(120);

type Blobs = Arc<HashMap<String, Vec<u8>>>;

async fn serve_blob(State(blobs): State<Blobs>, uri: Uri) -> Result<Vec<u8>, StatusCode> {
    let digest = uri.path().rsplit('/').next().unwrap();
    blobs.get(digest).cloned().ok_or(StatusCode::NOT_FOUND)
}

/// Holders of the same images.
struct Fleet {
    images: Vec<Vec<Digest>>,
    living: Vec<SocketAddr>,
    dead: BTreeSet<SocketAddr>,
    _serving: JoinSet<()>,
    _swallowing: Vec<Swallowing>,
}

impl Fleet {
    async fn start(images: usize) -> Self {
        let mut blobs = HashMap::new();
        let images: Vec<Vec<Digest>> = (0..images * BLOBS)
            .map(|n| {
                let bytes = noise(n as u64, 20_000);
                let digest = Digest::of(&bytes);
                blobs.insert(digest.to_string(), bytes);
                digest
            })
            .collect::<Vec<_>>()
            .chunks(BLOBS)
            .map(<[Digest]>::to_vec)
            .collect();
        let blobs = Arc::new(blobs);
        let mut serving = JoinSet::new();
        let mut living = Vec::new();
        for n in 0..LIVING {
            let listener = TcpListener::bind((address(n, 1), 0)).await.unwrap();
            living.push(listener.local_addr().unwrap());
            let router = Router::new().fallback(serve_blob).with_state(Arc::clone(&blobs));
            serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        }
        let swallowing: Vec<_> = (0..DEAD / 2).map(|n| Swallowing::at(address(n, 2))).collect();
        // Only this test uses these addresses.
        let refusing = (0..DEAD - DEAD / 2).map(|n| SocketAddr::from((address(n, 3), 7_781)));
        let dead = swallowing.iter().map(|holder| holder.address).chain(refusing).collect();
        Self { images, living, dead, _serving: serving, _swallowing: swallowing }
    }

    fn all(&self) -> impl Iterator<Item = SocketAddr> {
        self.living.iter().chain(&self.dead).copied()
    }

    /// Advertises all content for all holders.
    async fn advertise(&self, server: &Server) {
        let keys: Vec<String> = self.images.iter().flatten().map(Digest::to_string).collect();
        for holder in self.all() {
            server.advertise(holder, &keys).await;
        }
    }

    /// Holders that an agent gets for `key`.
    async fn holders(&self, server: &Server, key: &Digest) -> Vec<SocketAddr> {
        let query = FindQuery {
            key: key.to_string(),
            group: "default".to_owned(),
            count: Some(CANDIDATES as i64),
            request_host: Some("127.9.9.9:7781".to_owned()),
            ..FindQuery::default()
        };
        let found = server.client.find(&query, SOON).await.unwrap().unwrap();
        found.holders.iter().map(|holder| holder.parse().unwrap()).collect()
    }
}

/// Address of a holder. All of 127.0.0.0/8 is this host. Living and dead holders alternate, so that distance
/// does not distinguish them.
fn address(n: usize, kind: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 7, n as u8, kind)
}

/// Pulls three blobs at a time, like containerd; returns the number of blobs from the registry, and the
/// duration.
async fn pull(mirror: SocketAddr, image: Vec<Digest>) -> (usize, Duration) {
    let start = Instant::now();
    let mut downloads = JoinSet::new();
    for first in 0..3 {
        let blobs: Vec<Digest> = image.iter().skip(first).step_by(3).cloned().collect();
        downloads.spawn(async move {
            let mut missed = 0;
            for digest in blobs {
                let answer = get(mirror, &format!("/v2/library/app/blobs/{digest}")).await.unwrap();
                match answer.status {
                    200 => assert_eq!(Digest::of(&answer.body), digest),
                    404 => missed += 1,
                    other => panic!("{other}: {}", answer.text()),
                }
            }
            missed
        });
    }
    let missed = downloads.join_all().await.into_iter().sum();
    (missed, start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_all_holders_dead_hardly_any_pull_needs_the_registry() {
    let server = Server::start().await;
    let fleet = Fleet::start(IMAGES).await;
    fleet.advertise(&server).await;
    let dead = |holders: &[SocketAddr]| holders.iter().filter(|holder| fleet.dead.contains(holder)).count();
    let holders = fleet.holders(&server, &fleet.images[0][0]).await;
    assert_eq!(holders.len(), CANDIDATES);
    assert!(dead(&holders) >= CANDIDATES / 5, "no dead holders among: {holders:?}");

    let (mut needed, mut took) = (0, Vec::new());
    for _ in 0..NODES {
        let agent = Agent::start(Setup { servers: vec![server.url.clone()], ..Setup::default() }).await;
        for image in &fleet.images {
            let (missed, time) = pull(agent.mirror, image.clone()).await;
            needed += usize::from(missed > 0);
            took.push(time);
        }
    }
    took.sort();
    let pulls = took.len();
    println!(
        "{needed} of {pulls} pulls needed the registry; median {:?}, slowest {:?}",
        took[pulls / 2],
        took[pulls - 1]
    );
    assert!(needed * 100 < pulls, "{needed} of {pulls} pulls needed the registry");
}

/// The budget is four heartbeats, the lease of an agent three; all times here are shortened by the same
/// factor, except the guard against a mass expiry: a second for each ten hosts of a small group.
#[tokio::test(flavor = "multi_thread")]
async fn after_four_heartbeats_no_answer_has_dead_holders() {
    const HEARTBEAT: Duration = Duration::from_secs(2);
    const LEASE_SECONDS: u32 = 6;
    let guarded = HIDE_WINDOW * (DEAD / HIDES_PER_GROUP_MIN - 1) as u32;
    let dead_gone =
        HEARTBEAT * (DEAD_GONE_WITHIN.as_secs() / HEARTBEAT_INTERVAL_DEFAULT.as_secs()) as u32 + guarded;
    let server = Server::start().await;
    let fleet = Fleet::start(1).await;
    fleet.advertise(&server).await;
    let heartbeat = async |holder: SocketAddr| {
        let request = KeepaliveRequest {
            host: holder.to_string(),
            group: "default".to_owned(),
            ttl_seconds: Some(LEASE_SECONDS),
            ..KeepaliveRequest::default()
        };
        server.client.keepalive(&request, SOON).await.unwrap();
    };
    for holder in fleet.all() {
        heartbeat(holder).await;
    }
    let died = Instant::now();
    let mut hidden_after = None;
    while died.elapsed() < dead_gone + HEARTBEAT {
        for holder in &fleet.living {
            heartbeat(*holder).await;
        }
        for key in &fleet.images[0] {
            let asked = died.elapsed();
            let holders = fleet.holders(&server, key).await;
            let dead = holders.iter().filter(|holder| fleet.dead.contains(holder)).count();
            let share_is_small = dead * 20 < holders.len();
            assert!(share_is_small || asked < dead_gone, "{dead} of {} are dead", holders.len());
            if !share_is_small {
                hidden_after = None;
            } else if hidden_after.is_none() {
                hidden_after = Some(died.elapsed());
            }
        }
        tokio::time::sleep(HEARTBEAT / 4).await;
    }
    println!("no dead among the answers after {:?} of {dead_gone:?}", hidden_after.unwrap());
}

/// Nodes that pull report dead holders, so that it does not take until their leases end: that of a Go `pi` is
/// half an hour.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_that_pull_move_the_dead_behind_the_living_for_all_others() {
    let server = Server::start().await;
    let fleet = Fleet::start(IMAGES).await;
    fleet.advertise(&server).await;
    let mut agents = Vec::new();
    for _ in 0..3 {
        agents.push(Agent::start(Setup { servers: vec![server.url.clone()], ..Setup::default() }).await);
    }
    let mut images = fleet.images.iter().cycle();
    within("living holders first", DEAD_GONE_WITHIN, async || {
        let image = images.next().unwrap();
        for agent in &agents {
            pull(agent.mirror, image.clone()).await;
        }
        let mut dead = 0;
        for key in image {
            let holders = fleet.holders(&server, key).await;
            dead += holders.iter().filter(|holder| fleet.dead.contains(holder)).count();
        }
        (dead * 20 < BLOBS * CANDIDATES).then_some(())
    })
    .await;
}
