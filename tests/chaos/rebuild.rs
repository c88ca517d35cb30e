//! Rebuild of the index: all servers lose their disks and start empty as a new cluster at the same addresses,
//! with running nodes. (The budget for a whole fleet is measured by `piccolo-bench rebuild`.)

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use piccolo::limits::RESOLVE_TIMEOUT_DEFAULT;
use piccolo::oci::Digest;
use tokio::task::JoinSet;

use crate::checker::assert_kept;
use crate::history::History;
use crate::node::{HEARTBEAT, Node};
use crate::server::Server;
use crate::site::Site;
use crate::support::{Answer, Layout, SOON, get, noise, within};
use crate::wire::status;

const NODES: usize = 3;
const BLOBS: usize = 12;
const BLOB_BYTES: usize = 40_000;
/// Size of a blob that is sent so slowly that it is in flight all the time.
const LARGE_BYTES: usize = 20 << 20;
const UPLOAD_BYTES_PER_SECOND: &str = "2097152";
const WITHOUT_SERVERS: Duration = Duration::from_secs(5);
/// Time for a heartbeat, the detection of the loss, and a sync, on a busy machine.
const BACK_WITHIN: Duration = Duration::from_secs(HEARTBEAT.as_secs() * 3 + 20);
/// I4: bytes or a clean 404 within the resolve timeout, on a busy machine.
const ANSWERED_WITHIN: Duration = RESOLVE_TIMEOUT_DEFAULT.saturating_mul(3);

#[tokio::test(flavor = "multi_thread")]
async fn wiped_servers_have_all_pairs_back_by_resync_and_no_pull_breaks_meanwhile() {
    let mut site = Site::of_three().await;
    site.add_nodes(NODES, &["--upload-bytes-per-second", UPLOAD_BYTES_PER_SECOND]).await;
    let blobs: Vec<Vec<Digest>> = (0..NODES).map(|node| fill(&site.nodes[node].layout, node)).collect();
    let large = noise(99, LARGE_BYTES);
    let large_digest = site.nodes[0].layout.put(&large);
    let pairs = (NODES * BLOBS + 1) as u64;
    all_pairs(&site, pairs, SOON).await;
    let cluster = status(site.servers[0].api).await.unwrap().cluster;

    let wanted: Vec<Digest> = blobs[0].iter().chain(&blobs[1]).cloned().collect();
    let pulls = Pulls::through(&site.nodes[2], wanted);
    let in_flight = begin_large(&site.nodes[1], &large_digest);
    within("pulls by digest come from neighbours", SOON, async || (pulls.served() > 3).then_some(())).await;

    site.servers.iter_mut().for_each(Server::kill);
    site.servers.iter_mut().for_each(Server::wipe);
    tokio::time::sleep(WITHOUT_SERVERS).await;
    site.servers.iter_mut().for_each(Server::start);
    let started = Instant::now();
    site.all_ready().await;
    all_pairs(&site, pairs, BACK_WITHIN).await;
    println!("{pairs} pairs back {:?} after the servers' start", started.elapsed());
    let now = status(site.servers[0].api).await.unwrap().cluster;
    assert_ne!(now, cluster, "it is a new cluster");

    let served = pulls.served();
    within("pulls come from neighbours again", BACK_WITHIN, async || {
        (pulls.served() > served + 3).then_some(())
    })
    .await;
    let summary = pulls.end().await;
    println!("{summary}");
    let large_answer = in_flight.await.expect("it ends");
    assert!(large_answer.status == 200 && large_answer.body == large, "a pull that was under way is whole");
    assert_kept(&mut site, &History::default(), &[]).await;
    for node in &site.nodes {
        assert!(node.log().contains("resync") || node.log().contains("scanning anew"), "{}", node.log());
    }
}

fn fill(layout: &Layout, node: usize) -> Vec<Digest> {
    (0..BLOBS).map(|blob| layout.put(&noise((node * 1_000 + blob) as u64, BLOB_BYTES))).collect()
}

/// Waits until every server shows `pairs` pairs.
async fn all_pairs(site: &Site, pairs: u64, deadline: Duration) {
    for server in &site.servers {
        within(&format!("{pairs} pairs on server {}", server.number), deadline, async || {
            status(server.api).await.filter(|status| status.pairs == pairs)
        })
        .await;
    }
}

fn begin_large(node: &Node, digest: &Digest) -> impl Future<Output = std::io::Result<Answer>> + use<> {
    let target = format!("/v2/team/app/blobs/{digest}?ns=registry.invalid");
    let mirror = node.mirror;
    let mut pull = JoinSet::new();
    pull.spawn(async move { get(mirror, &target).await });
    async move { pull.join_next().await.expect("one was begun").expect("it does not panic") }
}

/// Pulls by digest through the mirror of one node, one after the other. The answer must be the whole blob, or
/// a 404 in time, after which containerd asks the registry. Anything else is a broken pull.
struct Pulls {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    task: JoinSet<String>,
}

impl Pulls {
    fn through(node: &Node, wanted: Vec<Digest>) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut task = JoinSet::new();
        task.spawn(pull_on(node.mirror, wanted, Arc::clone(&stop), Arc::clone(&served)));
        Self { stop, served, task }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    async fn end(mut self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join_next().await.expect("it runs").expect("no pull broke")
    }
}

async fn pull_on(
    mirror: SocketAddr,
    wanted: Vec<Digest>,
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
) -> String {
    let (mut to_registry, mut slowest) = (0, Duration::ZERO);
    for digest in wanted.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        let target = format!("/v2/team/app/blobs/{digest}?ns=registry.invalid");
        let answer = tokio::time::timeout(ANSWERED_WITHIN, get(mirror, &target)).await;
        let answer = answer.expect("an answer in time").expect("a whole answer");
        slowest = slowest.max(begun.elapsed());
        match answer.status {
            200 => {
                assert_eq!(Digest::of(&answer.body), *digest, "the right bytes");
                served.fetch_add(1, Ordering::Relaxed);
            }
            404 => to_registry += 1,
            status => panic!("{status} for {digest}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let from_peers = served.load(Ordering::Relaxed);
    format!(
        "{from_peers} pulls from neighbours, {to_registry} left to the registry, the slowest answer after {slowest:?}"
    )
}
