//! The real binary: one server, as a cluster of one, and one agent of an empty node.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use piccolo::api::{WriteRequest, path};
use tempfile::TempDir;

use crate::ports::free_address;

/// Time for steps without a promised duration: a process starts, a write is acknowledged.
const SOON: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A process, killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Server and agent. Both listen on loopback only, so that loopback holders are accepted.
pub struct Piccolo {
    pub mirror: SocketAddr,
    api: String,
    client: reqwest::Client,
    _processes: [Process; 2],
    folder: TempDir,
    /// State folder of the agent: one in memory would have far less room for blobs that are verified first.
    _state: TempDir,
}

impl Piccolo {
    pub async fn start() -> Self {
        let (folder, state) = (in_memory(), TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        let [api, raft, mirror, peer, metrics] = [(); 5].map(|()| free_address());
        let server = [
            "server",
            "--listen",
            &api.to_string(),
            "--raft-listen",
            &raft.to_string(),
            "--found-after",
            "0s",
            "--data-dir",
        ];
        let server = start(folder.path(), "server", &server, &folder.path().join("data"));
        let layout = folder.path().join("layout");
        std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        std::fs::write(layout.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        let api = format!("http://{api}");
        // An error means that another test of this process was first.
        _ = rustls::crypto::ring::default_provider().install_default();
        // No pool: the server may close a pooled connection while it is being reused.
        let client =
            reqwest::Client::builder().pool_max_idle_per_host(0).no_proxy().timeout(SOON).build().unwrap();
        wait_for(&client, &format!("{api}{}", path::STATUS), |text| text.contains("\"quorum\":true")).await;
        let (mirror_text, peer, metrics) = (mirror.to_string(), peer.to_string(), metrics.to_string());
        let agent = [
            ["agent", "--servers", &api].as_slice(),
            &["--mirror-listen", &mirror_text, "--peer-listen", &peer, "--metrics-listen", &metrics],
            &["--advertise", &peer, "--state-dir", state.path().to_str().unwrap(), "--layout"],
        ]
        .concat();
        let agent = start(folder.path(), "agent", &agent, &layout);
        wait_for(&client, &format!("http://{metrics}{}", path::READYZ), |_| true).await;
        Self { mirror, api, client, _processes: [server, agent], folder, _state: state }
    }

    /// Adds `digest` of `holder` to the index.
    pub async fn advertise(&self, holder: SocketAddr, digest: &str) {
        let write = WriteRequest {
            holder: holder.to_string(),
            group: "default".to_owned(),
            keys: vec![digest.to_owned()],
            epoch: None,
            seq: None,
            zone: None,
            ttl_seconds: None,
        };
        let answer = self.client.post(format!("{}{}", self.api, path::ADVERTISE)).json(&write).send().await;
        let status = answer.unwrap().status();
        assert_eq!(status, 201, "advertise of {holder}");
    }

    /// Folder in which the agent looks for blobs and ingests.
    pub fn content_root(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    /// Log lines of the agent about a digest.
    pub fn log_of(&self, digest: &str) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("agent.log")).unwrap();
        log.lines().filter(|line| line.contains(digest)).collect::<Vec<_>>().join("\n")
    }
}

/// A folder in memory if possible: a disk that is busy with other work must not fail the test.
fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn start(folder: &Path, name: &str, arguments: &[&str], last: &Path) -> Process {
    let log = File::create(folder.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_piccolo"));
    // Also if this process is killed, which runs no destructors.
    command.args(arguments).arg(last).args(["--exit-with-parent", &std::process::id().to_string()]);
    command.env_clear().env("TMPDIR", folder);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process(command.spawn().unwrap())
}

async fn wait_for(client: &reqwest::Client, url: &str, is_right: impl Fn(&str) -> bool) {
    let end = Instant::now() + SOON;
    loop {
        if let Ok(answer) = client.get(url).send().await
            && answer.status() == 200
            && is_right(&answer.text().await.unwrap_or_default())
        {
            return;
        }
        assert!(Instant::now() < end, "not right within {SOON:?}: {url}");
        tokio::time::sleep(POLL).await;
    }
}
