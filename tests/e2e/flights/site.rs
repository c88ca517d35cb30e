//! Five nodes, three servers, and a registry behind a slow link, which all cells of a test share.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use piccolo::oci::Digest;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::harness::process::{children, pid};
use crate::harness::{Image, Node, Registry, SOON, Servers, SlowLink, find, within};

/// Rate of the link to the registry, bytes a second.
pub(super) const RATE: u64 = 10 << 20;
/// Number of nodes.
pub(super) const NODES: usize = 5;
const CONTENT: &str = "root/io.containerd.content.v1.content";

pub(super) struct Site {
    pub(super) nodes: Vec<Member>,
    pub(super) servers: Servers,
    pub(super) link: SlowLink,
    registry: Registry,
    numbers: AtomicU64,
    /// In memory: a disk that is busy with other work must not fail the test.
    folder: TempDir,
}

/// A node, and the text of its agent's configuration.
pub(super) struct Member {
    pub(super) node: Node,
    config: &'static str,
}

/// An image in the registry.
pub(super) struct Pushed {
    pub(super) image: Image,
    /// Its name behind the link, by digest: nobody asks for a tag.
    pub(super) reference: String,
    /// The bytes of its layers.
    pub(super) size: u64,
}

/// How a pull has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) node: usize,
    /// Time since all pulls began.
    pub(super) after: Duration,
    /// What `ctr` says of a pull that failed.
    pub(super) problem: Option<String>,
}

impl Site {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let servers = Servers::up(folder.path()).await;
        let registry = Registry::start(folder.path()).await;
        let link = SlowLink::start(&registry.url(), RATE).await;
        let mut site =
            Self { nodes: Vec::new(), servers, link, registry, numbers: AtomicU64::new(0), folder };
        site.nodes = join_all((0..NODES).map(|_| site.start_node(""))).await;
        site
    }

    async fn start_node(&self, config: &'static str) -> Member {
        let folder = self.folder.path().join(format!("node-{}", self.number()));
        let node = Node::start_with(&folder, &self.servers.urls(), &self.link.url(), config).await;
        Member { node, config }
    }

    /// Puts a new node in the place of one, unless that has this configuration.
    pub(super) async fn configure(&mut self, node: usize, config: &'static str) {
        if self.nodes[node].config != config {
            self.nodes[node] = self.start_node(config).await;
        }
    }

    /// Puts a new node in the place of one.
    pub(super) async fn replace(&mut self, node: usize) {
        self.nodes[node] = self.start_node("").await;
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// An image that no other call returns, with these layers; pushed past the link.
    pub(super) fn push(&self, layers: &[Vec<u8>]) -> Pushed {
        let name = format!("cell-{}", self.number());
        let image = Image::of_layers(&self.folder.path().join(&name), layers);
        self.registry.push(&image, &format!("{name}:v1"));
        let reference = format!("{}/{name}@{}", self.link.name(), image.manifest);
        Pushed { image, reference, size: layers.iter().map(|layer| layer.len() as u64).sum() }
    }

    /// A number that no other call returns, as the seed of layers.
    pub(super) fn seed(&self) -> u64 {
        self.number()
    }

    /// `ctr` that begins to pull to a node, in this namespace.
    pub(super) fn pull(&self, node: usize, namespace: &str, reference: &str) -> Child {
        self.ctr(node, namespace, &["content", "fetch"], reference)
    }

    /// `ctr` that begins to pull to a node, one layer after the other, in the order of the image.
    pub(super) fn pull_in_order(&self, node: usize, reference: &str) -> Child {
        let pull = ["images", "pull", "--snapshotter", "native", "--max-concurrent-downloads", "1"];
        self.ctr(node, "k8s.io", &pull, reference)
    }

    fn ctr(&self, node: usize, namespace: &str, pull: &[&str], reference: &str) -> Child {
        let containerd = &self.nodes[node].node.containerd;
        let certs = containerd.folder.join("certs.d").display().to_string();
        let mut ctr = containerd.ctr_in(namespace, pull);
        ctr.args(["--hosts-dir", &certs, reference])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Command::from(ctr).kill_on_drop(true).spawn().unwrap()
    }

    /// Log lines of a node's agent that contain both texts.
    pub(super) fn log_lines(&self, node: usize, what: &str, about: &str) -> Vec<String> {
        let log = self.nodes[node].node.agent.process.log();
        log.lines().filter(|line| line.contains(what) && line.contains(about)).map(str::to_owned).collect()
    }

    /// The node that was last told to fetch a blob from the registry.
    pub(super) fn fetcher(&self, blob: &Digest) -> Option<usize> {
        let told = |node: &usize| self.log_lines(*node, "containerd fetches a blob", blob.as_str()).pop();
        (0..NODES).filter(|node| told(node).is_some()).max_by_key(told)
    }

    /// The node from which one has received a blob last.
    pub(super) fn source(&self, node: usize, blob: &Digest) -> Option<usize> {
        let line = self.log_lines(node, "receives a blob while it arrives", blob.as_str()).pop()?;
        let source = line.split(" source=").nth(1)?.split(' ').next()?.to_owned();
        self.nodes.iter().position(|member| member.node.agent.holder() == source)
    }

    /// Kills an agent, its supervisor first.
    pub(super) fn kill_agent(&self, node: usize) {
        let agent = &self.nodes[node].node.agent.process;
        let workers = children(agent.pid());
        agent.signal(Signal::KILL);
        // A worker may end with its supervisor.
        workers.into_iter().for_each(|worker| kill_process(pid(worker), Signal::KILL).unwrap_or_default());
    }

    /// Sends a signal to an agent's worker, which the supervisor has started.
    pub(super) fn signal_worker(&self, node: usize, signal: Signal) {
        for worker in children(self.nodes[node].node.agent.process.pid()) {
            kill_process(pid(worker), signal).unwrap();
        }
    }

    /// Waits until a node can be found as the holder of all layers.
    pub(super) async fn holds(&self, node: usize, image: &Image) {
        let (client, holder) = (self.servers.client(1), self.nodes[node].node.agent.holder());
        for layer in &image.layers {
            within("the node is found", SOON, || async {
                find(&client, layer.as_str()).await.contains(&holder).then_some(())
            })
            .await;
        }
    }

    /// What is wrong with the content of a node that has pulled an image.
    pub(super) fn content_problem(&self, node: usize, image: &Image) -> Option<String> {
        let missing = |blob: &&Digest| !self.blobs(node).join(blob.hex()).exists();
        let missing = image.digests().iter().find(missing).map(|blob| format!("node {node} misses {blob}"));
        missing.or_else(|| self.soundness_problem(node, image))
    }

    /// What is wrong with the bytes that a node has of an image: whole blobs, and ingests.
    pub(super) fn soundness_problem(&self, node: usize, image: &Image) -> Option<String> {
        for blob in image.digests() {
            if let Ok(bytes) = fs::read(self.blobs(node).join(blob.hex()))
                && Digest::of(&bytes) != blob
            {
                return Some(format!("node {node} holds wrong bytes as {blob}"));
            }
            let right = fs::read(image.folder.join("blobs/sha256").join(blob.hex())).unwrap();
            let wrong = self.ingests(node, &blob).into_iter().find(|ingest| !right.starts_with(ingest));
            if let Some(ingest) = wrong {
                return Some(format!("node {node} has an ingest of {} wrong bytes of {blob}", ingest.len()));
            }
        }
        None
    }

    /// Makes a byte wrong of a blob that a node holds.
    pub(super) fn damage(&self, node: usize, blob: &Digest, offset: u64) {
        let file = File::options().read(true).write(true).open(self.blobs(node).join(blob.hex())).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[!byte[0]], offset).unwrap();
    }

    fn blobs(&self, node: usize) -> PathBuf {
        self.nodes[node].node.containerd.folder.join(CONTENT).join("blobs/sha256")
    }

    /// The bytes of all ingests of a blob.
    fn ingests(&self, node: usize, blob: &Digest) -> Vec<Vec<u8>> {
        let folder = self.nodes[node].node.containerd.folder.join(CONTENT).join("ingest");
        let is_of_blob = |ingest: &Path| {
            fs::read_to_string(ingest.join("ref")).is_ok_and(|name| name.ends_with(blob.as_str()))
        };
        let ingests = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        ingests.filter(|ingest| is_of_blob(ingest)).flat_map(|ingest| fs::read(ingest.join("data"))).collect()
    }

    /// Removes an image from all nodes and frees its memory.
    pub(super) async fn forget(&self, pushed: Pushed) {
        let removals = self.nodes.iter().map(|member| {
            let removal = member.node.containerd.ctr(&["images", "rm", &pushed.reference]);
            Command::from(removal).output()
        });
        join_all(removals).await;
        fs::remove_dir_all(&pushed.image.folder).unwrap();
    }

    /// How the agents have seen a blob, a line each.
    pub(super) fn story(&self, blob: &Digest) -> String {
        let mut lines: Vec<String> = (0..NODES)
            .flat_map(|node| {
                self.log_lines(node, "", blob.as_str()).into_iter().map(move |line| (node, line))
            })
            .map(|(node, line)| {
                format!("        {line} (node {node}, {})", self.nodes[node].node.agent.holder())
            })
            .collect();
        lines.sort();
        lines.join("\n")
    }
}

/// Waits for the ends of pulls, for `limit` at most.
pub(super) async fn ends(pulls: Vec<(usize, Child)>, begun: Instant, limit: Duration) -> Vec<Ended> {
    let mut running = JoinSet::new();
    for (node, pull) in pulls {
        running.spawn(async move {
            let left = limit.saturating_sub(begun.elapsed());
            let problem = match tokio::time::timeout(left, pull.wait_with_output()).await {
                Err(_) => Some(format!("it did not end within {limit:?}")),
                Ok(output) => problem_of(&output.unwrap()),
            };
            Ended { node, after: begun.elapsed(), problem }
        });
    }
    let mut ended = running.join_all().await;
    ended.sort_by_key(|ended| ended.node);
    ended
}

fn problem_of(output: &std::process::Output) -> Option<String> {
    let complaints = String::from_utf8_lossy(&output.stderr);
    let last = complaints.lines().rfind(|line| !line.starts_with("time=")).unwrap_or("no reason given");
    (!output.status.success()).then(|| last.to_owned())
}
