//! Pulls of a real containerd while the agent's worker is frozen (I4).

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::harness::process::{children, pid};
use crate::harness::{Agent, Containerd, Image, Node, Registry, SOON, Servers, find, within};

const MIB: usize = 1 << 20;
/// Twice the promise, for a busy machine: `limits.rs` asserts that the supervisor's times add up to less than
/// the promise.
const FROZEN_COST_MAX: Duration = Duration::from_secs(10);

fn freeze(agent: &Agent) -> Instant {
    let [worker] = children(agent.process.pid())[..] else { panic!("one worker") };
    kill_process(pid(worker), Signal::STOP).unwrap();
    Instant::now()
}

/// Duration of a pull without Piccolo.
async fn straight(folder: &Path, reference: &str) -> Duration {
    let mut containerd = Containerd::prepare(folder);
    containerd.start().await;
    let began = Instant::now();
    let pull = ["images", "pull", "--snapshotter", "native", "--plain-http", reference];
    let output = tokio::process::Command::from(containerd.ctr(&pull)).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_before_the_pull_costs_some_seconds_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start(folder.path()).await;
    let image = Image::make(&folder.path().join("image"), 40, &[8 * MIB, MIB, MIB, 1000, 1000]);
    let name = registry.push(&image, "app:v1");
    let node = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    let straight = straight(&folder.path().join("straight"), &name).await;

    let frozen = freeze(&node.agent);
    node.pull(&name).await;
    let took = frozen.elapsed();
    assert!(took <= straight + FROZEN_COST_MAX, "{took:?}, straight {straight:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_in_mid_blob_costs_some_seconds_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start(folder.path()).await;
    // Over 16 MiB: passed on while it arrives.
    let image = Image::make(&folder.path().join("image"), 41, &[64 * MIB]);
    let name = registry.push(&image, "app:v1");
    // A slow peer, so that there is a middle.
    let layout = image.folder.display().to_string();
    let peer = ["--layout", &layout, "--upload-bytes-per-second", "8000000"];
    let peer = Agent::start(&folder.path().join("image"), &servers.urls(), &peer);
    peer.ready().await;
    within("the layer is findable", SOON, || async {
        find(&servers.client(1), image.layers[0].as_str()).await.contains(&peer.holder()).then_some(())
    })
    .await;
    let node = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    let straight = straight(&folder.path().join("straight"), &name).await;

    let ingests = node.containerd.folder.join("root/io.containerd.content.v1.content/ingest");
    let middle = within_middle(&ingests, 4 * MIB as u64);
    let (output, frozen) = tokio::join!(node.try_pull(&name), async {
        middle.await;
        freeze(&node.agent)
    });
    let took = frozen.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(took <= straight + FROZEN_COST_MAX, "{took:?} after the freeze, straight {straight:?}");
    let log = node.agent.process.log();
    assert!(log.contains("has not answered"), "it was not the supervisor that ended this:\n{log}");
}

/// Waits until an ingest has `bytes` bytes.
async fn within_middle(ingests: &Path, bytes: u64) {
    within("the layer is arriving", SOON, || async {
        let files = fs::read_dir(ingests).ok()?.flatten().map(|entry| entry.path().join("data"));
        files.filter_map(|file| fs::metadata(file).ok()).any(|data| data.len() >= bytes).then_some(())
    })
    .await;
}
