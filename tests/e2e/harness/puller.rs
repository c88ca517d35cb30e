//! A containerd with an agent that pulls single-layer images, and a registry of such an image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use piccolo::oci::Digest;
use serde_json::json;
use tokio::time::timeout;

use super::{Agent, Containerd};
use crate::blob::Blob;
use crate::scripted::{Asked, Part, Script, Scripted, head, honest, status};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A containerd and its agent, for pulls of single-layer images.
pub struct Puller {
    pub agent: Agent,
    containerd: Containerd,
    certs: PathBuf,
}

impl Puller {
    /// Starts both, the agent with `extra` arguments, and waits until they are ready.
    pub async fn start(folder: &Path, servers: &[String], extra: &[&str]) -> Self {
        let mut containerd = Containerd::prepare(folder);
        // Garbage collection would remove what a failed pull leaves, so that bad bytes could not be found.
        let config = containerd.folder.join("containerd.toml");
        let never = "[plugins.'io.containerd.gc.v1.scheduler']\n  mutation_threshold = 1000000000\n";
        fs::write(&config, fs::read_to_string(&config).unwrap() + never).unwrap();
        containerd.start().await;
        let socket = containerd.socket();
        let arguments = [&["--containerd-sock", &socket], extra].concat();
        let agent = Agent::start(folder, servers, &arguments);
        agent.ready().await;
        Self { agent, containerd, certs: folder.join("certs.d") }
    }

    /// Pulls `image` from `registry`, with our mirror first; nothing is unpacked.
    pub async fn pull(
        &self,
        image: &LayerImage,
        registry: &Scripted,
        within: Duration,
    ) -> Result<(), String> {
        self.configure(registry);
        let reference = format!("{}/library/cell@{}", registry.address, image.manifest.0);
        let certs = self.certs.display().to_string();
        let mut ctr = self.containerd.ctr(&["content", "fetch", "--hosts-dir", &certs, &reference]);
        ctr.stdin(Stdio::null());
        let mut ctr = tokio::process::Command::from(ctr);
        let Ok(output) = timeout(within, ctr.kill_on_drop(true).output()).await else {
            return Err(format!("not within {within:?}"));
        };
        let output = output.unwrap();
        let problem = String::from_utf8_lossy(&output.stderr);
        // The line that follows its log lines.
        let problem =
            problem.lines().filter(|line| !line.starts_with("time=")).collect::<Vec<_>>().join("\n");
        if output.status.success() { Ok(()) } else { Err(problem) }
    }

    fn configure(&self, registry: &Scripted) {
        let folder = self.certs.join(registry.address.to_string());
        fs::create_dir_all(&folder).unwrap();
        let (registry, mirror) = (registry.address, self.agent.mirror_url());
        let text = format!(
            "server = 'http://{registry}'\n[host.'{mirror}']\n  capabilities = ['pull', 'resolve']\n"
        );
        fs::write(folder.join("hosts.toml"), text).unwrap();
    }

    /// Digest of the bytes that containerd has as this layer. Removes the file, to free memory.
    pub async fn take(&self, layer: &Blob) -> Option<String> {
        let digest: Digest = layer.digest.parse().unwrap();
        let blobs = self.containerd.folder.join("root/io.containerd.content.v1.content/blobs/sha256");
        let file = blobs.join(digest.hex());
        let hash = move || {
            let bytes = fs::read(&file).ok()?;
            fs::remove_file(&file).unwrap();
            Some(Digest::of(&bytes).to_string())
        };
        tokio::task::spawn_blocking(hash).await.unwrap()
    }

    /// Time at which the agent first detected that it had passed on wrong bytes of `layer`.
    pub fn detected(&self, layer: &Blob) -> Option<SystemTime> {
        let log = self.log_of(&layer.digest);
        let line = log.lines().find(|line| line.contains("aborted ingests of bad bytes"))?;
        let time: prost_types::Timestamp = line.split_whitespace().next()?.parse().expect("a time");
        Some(SystemTime::try_from(time).expect("a time after 1970"))
    }

    /// Log lines of the agent about a digest.
    pub fn log_of(&self, digest: &str) -> String {
        let log = self.agent.process.log();
        log.lines().filter(|line| line.contains(digest)).collect::<Vec<_>>().join("\n")
    }
}

/// An image with one layer.
pub struct LayerImage {
    pub layer: Blob,
    manifest: (Digest, String),
    config: (Digest, String),
}

impl LayerImage {
    pub fn of(layer: Blob) -> Self {
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]}})
        .to_string();
        let config = (Digest::of(config.as_bytes()), config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.0.to_string(), "size": config.1.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest,
                "size": layer.size()}],
        })
        .to_string();
        Self { layer, manifest: (Digest::of(manifest.as_bytes()), manifest), config }
    }

    /// A registry that serves the whole image correctly. Only bytes of the layer count as sent, because the
    /// other blobs are part of their heads.
    pub fn registry(&self) -> Script {
        let layer = self.layer.clone();
        let small = [&self.manifest, &self.config].map(|(digest, text)| (digest.to_string(), text.clone()));
        Arc::new(move |asked: &Asked| {
            if asked.target.contains(&layer.digest) {
                return honest(&layer, asked);
            }
            let Some((digest, text)) = small.iter().find(|(digest, _)| asked.target.contains(digest)) else {
                return status(404);
            };
            let is_manifest = asked.target.contains("/manifests/");
            let kind = if is_manifest { MANIFEST } else { "application/octet-stream" };
            let headers = [("Content-Type", kind), ("Docker-Content-Digest", digest)];
            let head = head(200, text.len() as u64, &headers);
            vec![Part::Head(if asked.method == "HEAD" { head } else { head + text })]
        })
    }

    /// Writes a layout of `images`.
    pub fn write_layout(folder: &Path, images: &[&Self]) {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let mut entries = Vec::new();
        for image in images {
            for (digest, text) in [&image.manifest, &image.config] {
                fs::write(blobs.join(digest.hex()), text).unwrap();
            }
            let layer: Digest = image.layer.digest.parse().unwrap();
            let bytes = image.layer.slice(0, image.layer.size()).concat();
            fs::write(blobs.join(layer.hex()), bytes).unwrap();
            let (digest, text) = &image.manifest;
            entries.push(json!({"mediaType": MANIFEST, "digest": digest.to_string(), "size": text.len()}));
        }
        let index = json!({"schemaVersion": 2, "manifests": entries});
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}
