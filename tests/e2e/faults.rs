//! The fault matrix, pulled by a real containerd through the real mirror, from a registry that counts.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use piccolo::api::client::Client;
use piccolo::oci::Digest;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::blob::{Blob, LARGE, SMALL};
use crate::cells::{AtOnce, Cell, Fault, PULL_WITHIN, all_pass, indented};
use crate::fault::{Kind, Place};
use crate::harness::{Agent, Containerd, SOON, Servers, keys_of};
use crate::scripted::{Asked, Part, Script, Scripted, head, honest, status};

const AT_ONCE: AtOnce = AtOnce { cells: 16, large: 4 };

/// Cells that differ most: every fault, every place.
const SAMPLE: [(Place, Kind, bool, u64); 24] = [
    (Place::BeforeHeaders, Kind::Nobody, true, SMALL),
    (Place::BeforeHeaders, Kind::Freeze, true, LARGE),
    (Place::BeforeHeaders, Kind::NotFound, false, SMALL),
    (Place::BeforeHeaders, Kind::Slow, false, LARGE),
    (Place::BeforeHeaders, Kind::Corrupt, true, LARGE),
    (Place::AfterHeaders, Kind::Freeze, true, SMALL),
    (Place::AfterHeaders, Kind::Reset, false, LARGE),
    (Place::AfterHeaders, Kind::InternalError, true, LARGE),
    (Place::AfterHeaders, Kind::Long, true, LARGE),
    (Place::OnePercent, Kind::CleanClose, false, LARGE),
    (Place::OnePercent, Kind::Slow, true, LARGE),
    (Place::OnePercent, Kind::Corrupt, false, SMALL),
    (Place::Half, Kind::CleanClose, true, SMALL),
    (Place::Half, Kind::Freeze, false, LARGE),
    (Place::Half, Kind::Short, true, LARGE),
    (Place::Half, Kind::Unavailable, true, LARGE),
    (Place::Half, Kind::Corrupt, true, LARGE),
    (Place::Half, Kind::Corrupt, false, LARGE),
    (Place::NinetyNine, Kind::Reset, true, LARGE),
    (Place::NinetyNine, Kind::Nobody, false, SMALL),
    (Place::LastByte, Kind::Corrupt, false, LARGE),
    (Place::LastByte, Kind::Freeze, true, LARGE),
    (Place::LastByte, Kind::Long, false, SMALL),
    (Place::LastByte, Kind::Short, false, LARGE),
];

/// One containerd with its agent, and three servers. All cells use them, each with its own image.
struct Site {
    servers: Client,
    agent: Agent,
    containerd: Containerd,
    certs: PathBuf,
    _up: Servers,
    /// Without a disk below it: one that others keep busy is no fault of a peer.
    _folder: TempDir,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let up = Servers::up(folder.path()).await;
        let mut containerd = Containerd::prepare(&folder.path().join("node"));
        // Garbage collection clears away what a failed pull has left, and then nobody sees that it was bad.
        let config = containerd.folder.join("containerd.toml");
        let never = "[plugins.'io.containerd.gc.v1.scheduler']\n  mutation_threshold = 1000000000\n";
        fs::write(&config, fs::read_to_string(&config).unwrap() + never).unwrap();
        containerd.start().await;
        let socket = ["--containerd-sock", &containerd.socket()];
        let agent = Agent::start(&containerd.folder, &up.urls(), &socket);
        agent.ready().await;
        let certs = containerd.folder.join("certs.d");
        Self { servers: up.client(1), agent, containerd, certs, _up: up, _folder: folder }
    }

    async fn advertise(&self, holder: std::net::SocketAddr, blob: &Blob) {
        let request = keys_of(&holder.to_string(), None, std::slice::from_ref(&blob.digest));
        assert!(self.servers.advertise(&request, SOON).await.unwrap().success);
    }

    /// Our mirror in front of `registry`.
    fn configure(&self, registry: &Scripted) {
        let folder = self.certs.join(registry.address.to_string());
        fs::create_dir_all(&folder).unwrap();
        let (registry, mirror) = (registry.address, self.agent.mirror_url());
        let text = format!(
            "server = 'http://{registry}'\n[host.'{mirror}']\n  capabilities = ['pull', 'resolve']\n"
        );
        fs::write(folder.join("hosts.toml"), text).unwrap();
    }

    async fn pull(&self, reference: &str) -> Result<(), String> {
        let certs = self.certs.display().to_string();
        let mut ctr = self.containerd.ctr(&["content", "fetch", "--hosts-dir", &certs, reference]);
        ctr.stdin(Stdio::null());
        let mut ctr = tokio::process::Command::from(ctr);
        match timeout(PULL_WITHIN, ctr.kill_on_drop(true).output()).await {
            Err(_) => Err(format!("not within {PULL_WITHIN:?}")),
            Ok(output) => {
                let output = output.unwrap();
                let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                if output.status.success() { Ok(()) } else { Err(problem) }
            }
        }
    }

    /// What containerd holds under this digest; the file goes, because memory is not for free.
    async fn held(&self, digest: &Digest) -> Option<Digest> {
        let blobs = self.containerd.folder.join("root/io.containerd.content.v1.content/blobs/sha256");
        let file = blobs.join(digest.hex());
        let hash = move || {
            let bytes = fs::read(&file).ok()?;
            fs::remove_file(&file).unwrap();
            Some(Digest::of(&bytes))
        };
        tokio::task::spawn_blocking(hash).await.unwrap()
    }

    fn log_of(&self, digest: &str) -> String {
        let log = self.agent.process.log();
        log.lines().filter(|line| line.contains(digest)).collect::<Vec<_>>().join("\n")
    }
}

/// A registry of an image with one layer.
struct Image {
    manifest: (Digest, String),
    config: (Digest, String),
}

impl Image {
    fn of(layer: &Blob) -> Self {
        let text = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]}});
        let text = text.to_string();
        let config = (Digest::of(text.as_bytes()), text);
        let text = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.0.to_string(), "size": config.1.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest,
                "size": layer.size()}],
        });
        let text = text.to_string();
        Self { manifest: (Digest::of(text.as_bytes()), text), config }
    }

    /// Serves all of it well. What is counted as sent is the layer alone: the others go with their heads.
    fn registry(&self, layer: &Blob) -> Script {
        let layer = layer.clone();
        let small = [&self.manifest, &self.config].map(|(digest, text)| (digest.to_string(), text.clone()));
        Arc::new(move |asked: &Asked| {
            if asked.target.contains(&layer.digest) {
                return honest(&layer, asked);
            }
            let Some((digest, text)) = small.iter().find(|(digest, _)| asked.target.contains(digest)) else {
                return status(404);
            };
            let kind = if asked.target.contains("/manifests/") {
                "application/vnd.oci.image.manifest.v1+json"
            } else {
                "application/octet-stream"
            };
            let headers = [("Content-Type", kind), ("Docker-Content-Digest", digest)];
            let head = head(200, text.len() as u64, &headers);
            vec![Part::Head(if asked.method == "HEAD" { head } else { head + text })]
        })
    }
}

/// One cell.
#[derive(Clone, Copy)]
struct Real(Fault);

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Cell for Real {
    type Site = Site;

    fn fault(self) -> Fault {
        self.0
    }

    async fn run(self, site: &Site) -> Result<(), String> {
        let blob = Blob::new(self.0.size);
        let image = Image::of(&blob);
        let peers = self.0.peers(&blob, image.registry(&blob)).await;
        site.configure(&peers.registry);
        site.advertise(peers.bad_address, &blob).await;
        if self.0.other {
            site.advertise(peers.other.address, &blob).await;
        }
        let reference = format!("{}/library/cell@{}", peers.registry.address, image.manifest.0);
        let pulled = self.pull(site, &reference, peers.bad.as_ref()).await;
        let digest: Digest = blob.digest.parse().unwrap();
        let (held, sent) = (site.held(&digest).await, peers.registry.sent());
        let problem = match pulled {
            Err(problem) => problem,
            Ok(()) if held.as_ref() != Some(&digest) => format!("containerd holds {held:?}"),
            Ok(()) if self.0.other && sent > 0 => format!("the registry sent {sent} bytes"),
            Ok(()) => return Ok(()),
        };
        Err(format!("{problem}\n{}", indented(&site.log_of(&blob.digest))))
    }
}

impl Real {
    async fn pull(self, site: &Site, reference: &str, bad: Option<&Scripted>) -> Result<(), String> {
        let Err(problem) = site.pull(reference).await else { return Ok(()) };
        self.0.excuses(&problem, Instant::now(), bad)?;
        let second = site.pull(reference).await;
        second.map_err(|second| format!("second pull: {second}; first: {problem}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_of_containerd_survives_the_faults_of_a_peer_that_differ_most() {
    assert!(Kind::ALL.iter().all(|kind| SAMPLE.iter().any(|cell| cell.1 == *kind)), "a fault is left out");
    assert!(Place::ALL.iter().all(|place| SAMPLE.iter().any(|cell| cell.0 == *place)), "a place is left out");
    let cells = SAMPLE.map(|(place, kind, other, size)| Real(Fault { place, kind, other, size }));
    all_pass(Arc::new(Site::start().await), cells, AT_ONCE).await;
}

/// All 264 cells: left out of `make test`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_a_pull_of_containerd_survives_every_fault_of_a_peer() {
    let cells = Place::ALL.into_iter().flat_map(Fault::all_at).map(Real);
    all_pass(Arc::new(Site::start().await), cells, AT_ONCE).await;
}
