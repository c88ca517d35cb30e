//! Real agents as holders, each on its own host, that fail in the middle of a large layer in ways that a
//! script cannot imitate: killed, frozen, unplugged. Also several slow ones at the same time.

use std::time::{Duration, Instant};

use piccolo::api::client::Client;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::blob::{Blob, LARGE};
use crate::cells::PULL_WITHIN;
use crate::harness::process::{children, pid};
use crate::harness::{LayerImage, Network, PICCOLO, Process, Puller, SOON, find_if_up, within};
use crate::scripted::Scripted;

/// Rate of one holder when two share the layer, so slow that there is a middle.
const PACE: &str = "12000000";
const MIDDLE_BYTES: u64 = LARGE / 3;
/// Bytes that the holders may send, as a multiple of the layer.
const SENT_MAX: f64 = 1.25;
/// Rate of one holder when several are compared with it, so low that a busy machine does not slow them down.
const SHAPE: &str = "40mbit";
const FASTER_MIN: f64 = 2.0;

/// Holders on hosts 1, 2, … with one server, and an empty node.
struct Site {
    puller: Puller,
    holders: Vec<Process>,
    _server: Process,
    network: Network,
    client: Client,
    folder: TempDir,
}

impl Site {
    /// Starts the site; each holder has the images of its entry.
    async fn start(has: &[&[&LayerImage]], extra: &[&str]) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let server_host = has.len() as u8 + 1;
        let network = Network::make(server_host);
        let url = format!("http://{}:7789", network.address(server_host));
        let mut server = network.command(server_host, PICCOLO);
        let listen = format!("{}:7789", network.address(server_host));
        server.args(["server", "--insecure", "--found-after", "0s", "--listen", &listen, "--data-dir"]);
        server.arg(folder.path().join("server"));
        let server = Process::start(folder.path(), "server", server);
        let client = Client::new(vec![url.clone()]).unwrap();
        within("the server leads", SOON, || async {
            client.status(Duration::from_secs(1)).await.ok().filter(|status| status.quorum)
        })
        .await;
        // Nobody fetches from it, but others refuse a holder on loopback.
        let flags = ["--advertise", &format!("{}:7781", network.address(254))];
        let puller = Puller::start(&folder.path().join("node"), std::slice::from_ref(&url), &flags).await;
        let mut site = Self { puller, holders: Vec::new(), _server: server, network, client, folder };
        for (index, images) in has.iter().enumerate() {
            let (host, layout) = (index as u8 + 1, site.folder.path().join(format!("layout-{index}")));
            LayerImage::write_layout(&layout, images);
            let mut agent = site.network.command(host, PICCOLO);
            agent.args(["agent", "--servers", &url, "--layout"]).arg(&layout).args(extra);
            agent.env("PICCOLO_STATE_DIR", site.folder.path().join(format!("state-{host}")));
            site.holders.push(Process::start(site.folder.path(), &format!("holder-{host}"), agent));
        }
        for image in has[0] {
            let count =
                has.iter().filter(|images| images.iter().any(|one| std::ptr::eq(*one, *image))).count();
            within("all holders are in the index", SOON, || async {
                let found = find_if_up(&site.client, &image.layer.digest).await?;
                (found.len() == count).then_some(())
            })
            .await;
        }
        site
    }

    /// Pulls the image; returns the duration. The registry sends nothing of the layer.
    async fn pull(&self, image: &LayerImage) -> Duration {
        let registry = Scripted::start("127.0.0.1", image.registry()).await;
        let began = Instant::now();
        let pulled = self.puller.pull(image, &registry, PULL_WITHIN).await;
        let took = began.elapsed();
        let log = || self.puller.agent.process.log();
        assert_eq!(pulled, Ok(()), "{}", log());
        assert_eq!(self.puller.take(&image.layer).await.as_ref(), Some(&image.layer.digest));
        assert_eq!(registry.sent(), 0, "the registry sent some of the layer: {}", log());
        took
    }

    /// Pids of supervisor and worker, in the order in which they can be stopped.
    fn pids(&self, host: u8) -> Vec<u32> {
        let supervisor = self.holders[usize::from(host) - 1].pid();
        [supervisor].into_iter().chain(children(supervisor)).collect()
    }

    fn signal(&self, host: u8, signal: Signal) {
        for process in self.pids(host) {
            // An error means that it has ended with the other process.
            kill_process(pid(process), signal).ok();
        }
    }
}

/// Continues frozen processes when dropped, so that they can end.
struct Frozen(Vec<u32>);

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in &self.0 {
            // An error means that it was killed.
            kill_process(pid(*process), Signal::CONT).ok();
        }
    }
}

/// Two holders, of which the one that has sent more fails in the middle. The result of `fail` is kept until
/// the end.
async fn one_of_two_fails<K>(fail: impl AsyncFnOnce(&Site, u8) -> K) {
    let image = LayerImage::of(Blob::new(LARGE));
    let site = Site::start(&[&[&image], &[&image]], &["--upload-bytes-per-second", PACE]).await;
    let before = [1, 2].map(|host| site.network.sent(host));
    let sent = || [1, 2].map(|host| site.network.sent(host) - before[usize::from(host) - 1]);
    let failure = async {
        let [first, second] = within("the middle of the layer", SOON, || async {
            Some(sent()).filter(|sent| sent.iter().sum::<u64>() >= MIDDLE_BYTES)
        })
        .await;
        assert!(first + second < LARGE / 4 * 3, "late: {first} and {second} bytes are sent already");
        fail(&site, if first >= second { 1 } else { 2 }).await
    };
    let (took, kept) = tokio::join!(site.pull(&image), failure);
    let sent = sent();
    let times = sent.iter().sum::<u64>() as f64 / LARGE as f64;
    println!("pulled in {took:.1?}; the holders sent {sent:?}, {times:.2} times the layer");
    assert!(times <= SENT_MAX, "the holders sent {times:.2} times the layer");
    drop(kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_killed_in_the_middle_of_a_layer_is_replaced() {
    one_of_two_fails(async |site, host| site.signal(host, Signal::KILL)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_frozen_in_the_middle_of_a_layer_is_replaced() {
    one_of_two_fails(async |site, host| {
        let frozen = Frozen(site.pids(host));
        site.signal(host, Signal::STOP);
        frozen
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_unplugged_in_the_middle_of_a_layer_is_replaced() {
    one_of_two_fails(async |site, host| site.network.unplug(host)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_comes_faster_from_several_slow_holders() {
    let (alone, shared) = (LayerImage::of(Blob::new(LARGE)), LayerImage::of(Blob::new(LARGE)));
    let of_one = [&alone, &shared];
    let site = Site::start(&[&of_one, &[&shared], &[&shared], &[&shared]], &[]).await;
    (1..=4).for_each(|host| site.network.shape(host, SHAPE));
    let alone = site.pull(&alone).await;
    let shared = site.pull(&shared).await;
    let faster = alone.as_secs_f64() / shared.as_secs_f64();
    println!("from one holder {alone:.1?}, from four {shared:.1?}: {faster:.1} times faster");
    assert!(faster >= FASTER_MIN, "from four holders only {faster:.1} times faster: {alone:?}, {shared:?}");
}
