//! Real containerds and a real registry.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::client::fetch;
use crate::layout::{Blob, Layout};
use crate::net::Network;
use crate::process::{Process, run};

const DISABLED: &str = "'io.containerd.grpc.v1.cri', 'io.containerd.snapshotter.v1.btrfs', \
     'io.containerd.snapshotter.v1.zfs', 'io.containerd.snapshotter.v1.aufs', \
     'io.containerd.snapshotter.v1.devmapper', 'io.containerd.internal.v1.opt'";
/// Layers that a kubelet's containerd downloads at once by default.
const DOWNLOADS_AT_ONCE: &str = "3";
/// A snapshotter that containerd has not: a pull ends before it unpacks.
const NO_SNAPSHOTTER: &str = "none";
/// What containerd says of it.
const NOT_UNPACKED: &str = "snapshotter not loaded";

/// A running docker-registry of Debian.
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    network: Network,
    process: Process,
}

impl Registry {
    /// Starts a registry in `network` with its blobs in `folder`.
    pub(crate) fn start(network: &Network, folder: &Path) -> Result<Self> {
        let address = SocketAddr::new(network.ip, network.free_port()?);
        let text = format!(
            "version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            folder.join("registry").display()
        );
        let config = folder.join("registry.yml");
        fs::write(&config, text).context("could not write registry.yml")?;
        let mut command = network.command("docker-registry");
        command.arg("serve").arg(config);
        let mut process = Process::start(folder, "registry", command)?;
        process.wait_until("the registry answers", || {
            let answer = network.run(|| Ok(fetch(address, "/v2/"))).ok().flatten();
            answer.filter(|(status, _)| *status == 200)
        })?;
        Ok(Self { address, network: network.clone(), process })
    }

    /// Pushes `layout`; returns the whole reference.
    pub(crate) fn push(&self, layout: &Layout, name: &str) -> Result<String> {
        let reference = format!("{}/{name}", self.address);
        let source = format!("oci:{}:latest", layout.folder.display());
        let target = format!("docker://{reference}");
        run(self.network.command("skopeo").args([
            "copy",
            "--quiet",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &source,
            &target,
        ]))?;
        Ok(reference)
    }

    /// Number of times that the registry has sent one of `blobs`.
    pub(crate) fn sent(&self, blobs: &[Blob]) -> usize {
        let is_one = |line: &&str| {
            let Ok(event) = serde_json::from_str::<Value>(line) else { return false };
            let uri = event["http.request.uri"].as_str().unwrap_or_default();
            event["msg"] == "response completed"
                && event["http.request.method"] == "GET"
                && blobs.iter().any(|blob| uri.contains(&blob.hex))
        };
        self.process.log().lines().filter(is_one).count()
    }
}

/// How an image is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `ctr images pull`: layers are unpacked too.
    Pull,
    /// `ctr content fetch`: bytes only.
    Fetch,
}

/// A containerd with its own root, state and socket.
pub(crate) struct Containerd {
    folder: PathBuf,
    network: Network,
    _process: Process,
}

impl Containerd {
    /// Starts a containerd in `network` with all of its files in `folder`.
    pub(crate) fn start(network: &Network, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder.join("certs.d")).context("could not make a folder for containerd")?;
        let root = folder.display();
        let text = format!(
            "version = 2\nroot = '{root}/root'\nstate = '{root}/state'\ndisabled_plugins = [{DISABLED}]\n\
             [grpc]\n  address = '{root}/containerd.sock'\n"
        );
        let config = folder.join("containerd.toml");
        fs::write(&config, text).context("could not write containerd.toml")?;
        let mut command = network.command("containerd");
        command.arg("--config").arg(config);
        let mut process = Process::start(folder, "containerd", command)?;
        let socket = folder.join("containerd.sock");
        process.wait_until("containerd answers", || {
            let mut version = Command::new("ctr");
            version.arg("-a").arg(&socket).arg("version");
            version.output().ok().filter(|output| output.status.success())
        })?;
        Ok(Self { folder: folder.to_owned(), network: network.clone(), _process: process })
    }

    pub(crate) fn socket(&self) -> String {
        self.folder.join("containerd.sock").display().to_string()
    }

    /// Folder of its `hosts.toml` files.
    pub(crate) fn certs(&self) -> PathBuf {
        self.folder.join("certs.d")
    }

    /// Makes it ask `registry` directly, without a mirror.
    pub(crate) fn without_mirror(&self, registry: SocketAddr) -> Result<()> {
        write_hosts_without_mirror(&self.certs(), registry)
    }

    fn ctr(&self) -> Command {
        self.ctr_by(self.network.command("ctr"))
    }

    fn ctr_by(&self, mut command: Command) -> Command {
        command.args(["-a", &self.socket(), "-n", "k8s.io"]);
        command
    }

    /// Fetches `reference`; returns the duration.
    pub(crate) fn fetch(&self, reference: &str, mode: Mode) -> Result<Duration> {
        let mut command = self.ctr();
        match mode {
            Mode::Pull => command.args(["images", "pull", "--snapshotter", "native"]),
            Mode::Fetch => command.args(["content", "fetch"]),
        };
        command.arg("--hosts-dir").arg(self.certs()).arg(reference);
        let started = Instant::now();
        run(&mut command)?;
        Ok(started.elapsed())
    }

    /// Downloads `reference` as for a kubelet: at most three layers at a time, by the `hosts.toml` files in `certs`.
    /// Nothing is unpacked. (`ctr content fetch` does not unpack either, but takes all layers at once.) Fails after
    /// `limit`.
    pub(crate) fn download(&self, reference: &str, certs: &Path, limit: Duration) -> Result<()> {
        let mut command = self.network.command("timeout");
        command.args([&limit.as_secs().to_string(), "ctr"]);
        let mut command = self.ctr_by(command);
        command.args(["images", "pull", "--snapshotter", NO_SNAPSHOTTER]);
        command
            .args(["--max-concurrent-downloads", DOWNLOADS_AT_ONCE, "--hosts-dir"])
            .arg(certs)
            .arg(reference);
        let output = command.output().with_context(|| format!("could not start {command:?}"))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(error.contains(NOT_UNPACKED), "could not download {reference}: {}, {error}", output.status);
        Ok(())
    }

    /// True if the content store has `blob`: containerd has checked its digest.
    pub(crate) fn has(&self, blob: &Blob) -> bool {
        let blobs = self.folder.join("root/io.containerd.content.v1.content/blobs/sha256");
        fs::metadata(blobs.join(&blob.hex)).is_ok_and(|file| file.len() == blob.bytes)
    }

    /// Removes an image, and waits until garbage collection has removed its bytes.
    pub(crate) fn remove(&self, reference: &str) -> Result<()> {
        run(self.ctr().args(["images", "rm", "--sync", reference]))?;
        Ok(())
    }
}

/// Writes into `certs` that containerd asks `registry` directly, without a mirror.
pub(crate) fn write_hosts_without_mirror(certs: &Path, registry: SocketAddr) -> Result<()> {
    let folder = certs.join(registry.to_string());
    fs::create_dir_all(&folder).context("could not make a folder in certs.d")?;
    // containerd 1.6 refuses a file without a table of hosts.
    let text = format!(
        "server = \"http://{registry}\"\n[host.\"http://{registry}\"]\n\
         capabilities = [\"pull\", \"resolve\"]\n"
    );
    fs::write(folder.join("hosts.toml"), text).context("could not write hosts.toml")
}
