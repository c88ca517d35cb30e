//! A node: a real agent over an image layout that changes while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::task::JoinSet;

use crate::history::{Expected, unix_ms};
use crate::process::{Process, children};
use crate::server::Launcher;
use crate::support::{Layout, SOON, free_address, get, within};

/// Time between heartbeats; the lease is three times as long.
pub const HEARTBEAT: Duration = Duration::from_secs(3);
/// Largest number of blobs of a busy node.
const BLOBS_MAX: usize = 40;

pub struct Node {
    pub name: String,
    pub layout: Arc<Layout>,
    pub mirror: SocketAddr,
    pub peer: SocketAddr,
    pub metrics: SocketAddr,
    /// Times at which it was killed, Unix milliseconds.
    pub killed: Vec<u64>,
    root: PathBuf,
    arguments: Vec<String>,
    launcher: Launcher,
    process: Option<Process>,
}

impl Node {
    /// A node on this host that does not run yet.
    pub fn new(root: &Path, name: &str, servers: &[SocketAddr], more: &[&str], launcher: Launcher) -> Self {
        let [mirror, peer, metrics] = [(); 3].map(|()| free_address());
        let layout = Arc::new(Layout::empty());
        let urls: Vec<String> = servers.iter().map(|server| format!("http://{server}")).collect();
        let mut arguments = vec!["agent".to_owned(), "--servers".to_owned(), urls.join(",")];
        for (flag, value) in [
            ("--mirror-listen", mirror.to_string()),
            ("--peer-listen", peer.to_string()),
            ("--metrics-listen", metrics.to_string()),
            ("--advertise", peer.to_string()),
            ("--layout", layout.path().display().to_string()),
            ("--heartbeat-interval", format!("{}s", HEARTBEAT.as_secs())),
            ("--exit-with-parent", std::process::id().to_string()),
            ("--state-dir", root.join(format!("{name}-state")).display().to_string()),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
        Self {
            name: name.to_owned(),
            layout,
            mirror,
            peer,
            metrics,
            killed: Vec::new(),
            root: root.to_owned(),
            arguments,
            launcher,
            process: None,
        }
    }

    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let mut command = (self.launcher)();
        command.args(&self.arguments).env("TMPDIR", &self.root);
        self.process = Some(Process::start(&self.root, &self.name, command));
    }

    /// Kills supervisor and worker at once. Its ports are free afterwards.
    pub async fn kill(&mut self) {
        let process = self.process.take().expect("it runs");
        let workers = children(process.pid());
        self.killed.push(unix_ms());
        process.kill();
        within("its worker ends with it", SOON, async || {
            let alive = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok();
            (!workers.iter().any(alive)).then_some(())
        })
        .await;
    }

    /// Pids of supervisor and worker.
    pub fn pids(&self) -> Vec<u32> {
        let process = self.process.as_ref().expect("it runs");
        [vec![process.pid()], children(process.pid())].concat()
    }

    /// Waits until all that it holds is in the index.
    pub async fn synced(&self) {
        within(&format!("{} is synced", self.name), SOON, async || {
            get(self.metrics, "/readyz").await.ok().filter(|answer| answer.status == 200)
        })
        .await;
    }

    pub fn holder(&self) -> String {
        self.peer.to_string()
    }

    /// Expected content of the index for this node: all blobs in its layout now.
    pub fn expected(&self) -> Expected {
        let held = held(&self.layout);
        let tags = tags(&self.layout);
        let named = tags.into_iter().filter(|(_, digest)| held.contains(digest)).map(|(tag, _)| tag);
        Expected { holder: self.holder(), keys: held.iter().cloned().chain(named).collect() }
    }

    pub fn log(&self) -> String {
        let log = self.root.join(format!("{}.log", self.name));
        String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned()
    }
}

/// Digests of the blobs in a layout.
fn held(layout: &Layout) -> BTreeSet<String> {
    let files = fs::read_dir(layout.path().join("blobs/sha256")).unwrap();
    files.map(|file| format!("sha256:{}", file.unwrap().file_name().to_str().unwrap())).collect()
}

fn tags(layout: &Layout) -> BTreeMap<String, String> {
    let index = fs::read_to_string(layout.path().join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let entries = index["manifests"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let name = "org.opencontainers.image.ref.name";
    entries.map(|entry| (text(&entry["annotations"][name]), text(&entry["digest"]))).collect()
}

fn set_tags(layout: &Layout, tags: &BTreeMap<String, String>) {
    let entries: Vec<_> = tags
        .iter()
        .map(|(name, digest)| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1,
                "annotations": { "org.opencontainers.image.ref.name": name },
            })
        })
        .collect();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": entries }).to_string();
    // Atomically, as every tool writes it.
    let fresh = layout.path().join("index.json.new");
    fs::write(&fresh, index).unwrap();
    fs::rename(fresh, layout.path().join("index.json")).unwrap();
}

/// Images that appear and disappear on nodes until this ends.
pub struct Changes {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<usize>,
}

impl Changes {
    pub fn on<'a>(nodes: impl IntoIterator<Item = &'a Node>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (number, node) in nodes.into_iter().enumerate() {
            let (layout, stop) = (Arc::clone(&node.layout), Arc::clone(&stop));
            let rng = StdRng::seed_from_u64(seed ^ ((number as u64) << 32));
            tasks.spawn(change(layout, rng, stop));
        }
        Self { stop, tasks }
    }

    /// Stops the changes; returns their number.
    pub async fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut changes = 0;
        while let Some(ended) = self.tasks.join_next().await {
            changes += ended.unwrap();
        }
        changes
    }
}

async fn change(layout: Arc<Layout>, mut rng: StdRng, stop: Arc<AtomicBool>) -> usize {
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) {
        changes += 1;
        let held: Vec<String> = held(&layout).into_iter().collect();
        let one = (!held.is_empty()).then(|| held[rng.random_range(0..held.len().max(1))].clone());
        match one {
            Some(digest) if held.len() >= BLOBS_MAX || rng.random_bool(0.3) => {
                let hex = digest.strip_prefix("sha256:").unwrap();
                fs::remove_file(layout.path().join("blobs/sha256").join(hex)).unwrap();
            }
            Some(digest) if rng.random_bool(0.3) => {
                let mut tags = tags(&layout);
                let name = format!("registry.example/team/app:v{}", rng.random_range(0..8));
                if tags.remove(&name).is_none() {
                    tags.insert(name, digest);
                }
                set_tags(&layout, &tags);
            }
            _ => {
                let mut bytes = vec![0; rng.random_range(1..20_000)];
                rng.fill_bytes(&mut bytes);
                layout.put(&bytes);
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..250))).await;
    }
    changes
}
