//! A node: a containerd and its agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use super::process::run;
use super::{PICCOLO, Process, SOON, free_port, status_of, within};

const DISABLED: &str = "'io.containerd.grpc.v1.cri', 'io.containerd.snapshotter.v1.btrfs', \
     'io.containerd.snapshotter.v1.zfs', 'io.containerd.snapshotter.v1.aufs', \
     'io.containerd.snapshotter.v1.devmapper', 'io.containerd.internal.v1.opt'";

/// A containerd with its own root, state and socket.
pub struct Containerd {
    pub folder: PathBuf,
    process: Option<Process>,
}

impl Containerd {
    /// Writes the configuration of a containerd that does not run yet.
    pub fn prepare(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let root = folder.display();
        let config = format!(
            "version = 2\nroot = '{root}/root'\nstate = '{root}/state'\n\
             disabled_plugins = [{DISABLED}]\n[grpc]\n  address = '{root}/containerd.sock'\n"
        );
        fs::write(folder.join("containerd.toml"), config).unwrap();
        Self { folder: folder.to_owned(), process: None }
    }

    pub async fn start(&mut self) {
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.folder.join("containerd.toml"));
        self.process = Some(Process::start(&self.folder, "containerd", command));
        within("containerd answers", SOON, || async {
            let answer = self.ctr(&["version"]).output().unwrap();
            answer.status.success().then_some(())
        })
        .await;
    }

    pub fn kill(&mut self) {
        self.process.take().expect("containerd runs").kill();
    }

    pub fn socket(&self) -> String {
        self.folder.join("containerd.sock").display().to_string()
    }

    /// Command for `ctr` in the namespace k8s.io.
    pub fn ctr(&self, arguments: &[&str]) -> Command {
        self.ctr_in("k8s.io", arguments)
    }

    /// Command for `ctr` in another namespace.
    pub fn ctr_in(&self, namespace: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.args(["-a", &self.socket(), "-n", namespace]).args(arguments);
        command
    }
}

/// A running agent.
pub struct Agent {
    pub process: Process,
    pub mirror: u16,
    pub peer: u16,
    pub metrics: u16,
    _state: TempDir,
}

impl Agent {
    /// Starts an agent on free loopback ports with `extra` arguments; does not wait.
    pub fn start(folder: &Path, servers: &[String], extra: &[&str]) -> Self {
        Self::start_by(Command::new(PICCOLO), folder, servers, extra)
    }

    /// Starts an agent with a command that ends in the binary, such as `setpriv … piccolo`; does not wait.
    pub fn start_by(mut command: Command, folder: &Path, servers: &[String], extra: &[&str]) -> Self {
        let (mirror, peer, metrics) = (free_port(), free_port(), free_port());
        command.args(["agent", "--servers", &servers.join(","), "--heartbeat-interval", "2s"]);
        for (flag, port) in
            [("--mirror-listen", mirror), ("--peer-listen", peer), ("--metrics-listen", metrics)]
        {
            command.args([flag, &format!("127.0.0.1:{port}")]);
        }
        // On a disk: in memory an agent has far less room for blobs that it verifies first.
        let state = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        command.args(extra).env("TMPDIR", folder).env("PICCOLO_STATE_DIR", state.path());
        Self { process: Process::start(folder, "agent", command), mirror, peer, metrics, _state: state }
    }

    pub async fn ready(&self) {
        let url = format!("http://127.0.0.1:{}/readyz", self.metrics);
        within("the agent is ready", SOON, || async { status_of(&url).await.filter(|s| *s == 200) }).await;
    }

    /// `ip:port` of the node in the index.
    pub fn holder(&self) -> String {
        format!("127.0.0.1:{}", self.peer)
    }

    pub fn mirror_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.mirror)
    }
}

/// A containerd, its agent, and the `certs.d` that makes containerd ask the mirror first.
pub struct Node {
    pub containerd: Containerd,
    pub agent: Agent,
}

impl Node {
    /// Starts both, with our mirror before `registry` (`http://host:port`), and waits until they are ready.
    pub async fn start(folder: &Path, servers: &[String], registry: &str) -> Self {
        Self::start_with(folder, servers, registry, "").await
    }

    /// Like [`Self::start`], with the text of a `--config` file for the agent.
    pub async fn start_with(folder: &Path, servers: &[String], registry: &str, config: &str) -> Self {
        let mut containerd = Containerd::prepare(folder);
        containerd.start().await;
        let file = folder.join("agent.toml");
        fs::write(&file, config).unwrap();
        let file = file.display().to_string();
        let agent =
            Agent::start(folder, servers, &["--containerd-sock", &containerd.socket(), "--config", &file]);
        agent.ready().await;
        let mirror = agent.mirror_url();
        run(Command::new(PICCOLO)
            .args(["mirror", "install", "--registry", registry, "--mirror", &mirror, "--certs-dir"])
            .arg(folder.join("certs.d")));
        Self { containerd, agent }
    }

    /// Pulls through the mirror; panics if that fails.
    pub async fn pull(&self, reference: &str) {
        self.succeeds(reference, self.try_pull(reference).await);
    }

    /// Pulls through the mirror like containerd for a kubelet: three layers at a time.
    pub async fn pull_by_threes(&self, reference: &str) {
        let output = self.pull_with(&["--max-concurrent-downloads", "3"], reference).await;
        self.succeeds(reference, output);
    }

    fn succeeds(&self, reference: &str, output: Output) {
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "could not pull {reference}: {error}\n{}", self.agent.process.log());
    }

    /// Pulls through the mirror; returns the output.
    pub async fn try_pull(&self, reference: &str) -> Output {
        self.try_pull_as(None, reference).await
    }

    /// Pulls through the mirror with optional `user:password`; returns the output.
    pub async fn try_pull_as(&self, user: Option<&str>, reference: &str) -> Output {
        let user: Vec<&str> = user.iter().flat_map(|user| ["--user", *user]).collect();
        self.pull_with(&user, reference).await
    }

    async fn pull_with(&self, flags: &[&str], reference: &str) -> Output {
        let certs = self.containerd.folder.join("certs.d").display().to_string();
        let mut arguments = vec!["images", "pull", "--snapshotter", "native", "--hosts-dir", &certs];
        arguments.extend(flags);
        arguments.push(reference);
        let pull = tokio::process::Command::from(self.containerd.ctr(&arguments)).output();
        tokio::time::timeout(Duration::from_secs(120), pull).await.expect("a pull ends").unwrap()
    }
}
