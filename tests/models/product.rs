//! The real binary: one server, as a cluster of one, and agents of empty nodes.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use piccolo::api::{WriteRequest, path};
use tempfile::TempDir;

use crate::ports::free_address;

/// Time for steps without a promised duration: a process starts, a write is acknowledged.
const SOON: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A process, killed when dropped.
struct Process(Mutex<Child>);

impl Process {
    fn kill(&self) {
        let mut child = self.0.lock().unwrap();
        child.kill().ok();
        child.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server. It listens on loopback only, so that loopback holders are accepted.
pub struct Server {
    api: String,
    client: reqwest::Client,
    process: Process,
    _folder: TempDir,
}

/// An agent, which listens on loopback only, with a layout of its own.
pub struct Agent {
    pub mirror: SocketAddr,
    /// What other nodes are told.
    pub peer: SocketAddr,
    process: Process,
    folder: TempDir,
    /// State folder: one in memory would have far less room for blobs that are verified first.
    _state: TempDir,
}

/// A server and an agent.
pub struct Piccolo {
    server: Server,
    agent: Agent,
}

/// Which build of Piccolo a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// This one.
    New,
    /// The binary that [`PREVIOUS`] names.
    Previous,
}

/// Variable with the path of a binary of the version before this one.
pub const PREVIOUS: &str = "PICCOLO_PREVIOUS";

impl Build {
    fn binary(self) -> PathBuf {
        match self {
            Self::New => env!("CARGO_BIN_EXE_piccolo").into(),
            Self::Previous => std::env::var_os(PREVIOUS).expect("the caller has looked for it").into(),
        }
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::start_build(Build::New).await
    }

    pub async fn start_build(build: Build) -> Self {
        let folder = in_memory();
        let [api, raft] = [(); 2].map(|()| free_address().to_string());
        let arguments =
            ["server", "--listen", &api, "--raft-listen", &raft, "--found-after", "0s", "--data-dir"];
        let process = start(build, folder.path(), "server", &arguments, &folder.path().join("data"));
        let server = Self { api: format!("http://{api}"), client: client(), process, _folder: folder };
        let status = format!("{}{}", server.api, path::STATUS);
        wait_for(&server.client, &status, |text| text.contains("\"quorum\":true")).await;
        server
    }

    /// Adds `digest` of `holder` to the index.
    async fn advertise(&self, holder: SocketAddr, digest: &str) {
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

    pub fn kill(&self) {
        self.process.kill();
    }
}

impl Agent {
    /// An agent of `server`; `config` is the text of its configuration file.
    pub async fn start(server: &Server, config: &str) -> Self {
        Self::start_build(Build::New, server, config, free_address(), None).await
    }

    /// An agent of this build, which listens for peers at `listens`. It tells them `told`, if it is there: something
    /// that passes connections on to it.
    pub async fn start_build(
        build: Build,
        server: &Server,
        config: &str,
        listens: SocketAddr,
        told: Option<SocketAddr>,
    ) -> Self {
        let (folder, state) = (in_memory(), TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        let [mirror, metrics] = [(); 2].map(|()| free_address());
        let peer = told.unwrap_or(listens);
        let layout = folder.path().join("layout");
        std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        std::fs::create_dir_all(layout.join("ingest")).unwrap();
        std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        std::fs::write(layout.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        let file = folder.path().join("piccolo.toml");
        std::fs::write(&file, config).unwrap();
        let listen = [mirror, listens, metrics, peer].map(|address| address.to_string());
        let arguments = [
            ["agent", "--servers", &server.api, "--config", file.to_str().unwrap()].as_slice(),
            &["--mirror-listen", &listen[0], "--peer-listen", &listen[1], "--metrics-listen", &listen[2]],
            &["--advertise", &listen[3], "--state-dir", state.path().to_str().unwrap(), "--layout"],
        ]
        .concat();
        let process = start(build, folder.path(), "agent", &arguments, &layout);
        wait_for(&client(), &format!("http://{metrics}{}", path::READYZ), |_| true).await;
        Self { mirror, peer, process, folder, _state: state }
    }

    /// Folder in which the agent looks for blobs and ingests.
    pub fn content_root(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    /// Log lines about a digest.
    pub fn log_of(&self, digest: &str) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("agent.log")).unwrap();
        log.lines().filter(|line| line.contains(digest)).collect::<Vec<_>>().join("\n")
    }

    pub fn kill(&self) {
        self.process.kill();
    }
}

impl Piccolo {
    pub async fn start() -> Self {
        let server = Server::start().await;
        let agent = Agent::start(&server, "").await;
        Self { server, agent }
    }

    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Adds `digest` of `holder` to the index.
    pub async fn advertise(&self, holder: SocketAddr, digest: &str) {
        self.server.advertise(holder, digest).await;
    }
}

fn client() -> reqwest::Client {
    // An error means that another test of this process was first.
    _ = rustls::crypto::ring::default_provider().install_default();
    // No pool: the server may close a pooled connection while it is being reused.
    reqwest::Client::builder().pool_max_idle_per_host(0).no_proxy().timeout(SOON).build().unwrap()
}

/// A folder in memory if possible: a disk that is busy with other work must not fail the test.
fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn start(build: Build, folder: &Path, name: &str, arguments: &[&str], last: &Path) -> Process {
    let log = File::create(folder.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(build.binary());
    // Also if this process is killed, which runs no destructors.
    command.args(arguments).arg(last).args(["--exit-with-parent", &std::process::id().to_string()]);
    command.env_clear().env("TMPDIR", folder);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process(Mutex::new(command.spawn().unwrap()))
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
