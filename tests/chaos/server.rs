//! One `piccolo server`, with the means to hurt it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use piccolo_raft::format::next::VARIABLE;
use rustix::process::Signal;

use crate::history::unix_ms;
use crate::process::Process;
use crate::support::within;
use crate::wire;

/// The binary under test.
pub const PICCOLO: &str = env!("CARGO_BIN_EXE_piccolo");
/// Until it answers, on a machine that does other things as well.
const STARTED: Duration = Duration::from_secs(30);
/// A stop drains for 30 s at most.
const STOPPED: Duration = Duration::from_secs(45);

/// What runs `piccolo`: on this host, or on a host of a network that the test made.
pub type Launcher = Box<dyn Fn() -> Command + Send + Sync>;

/// On this host. It ends with the test, however that ends.
pub fn here() -> Launcher {
    Box::new(|| Command::new(PICCOLO))
}

pub struct Server {
    /// From 1.
    pub number: usize,
    pub api: SocketAddr,
    pub raft: SocketAddr,
    /// Its data.
    pub data: PathBuf,
    /// It is of the next version, from its next start on.
    pub next: bool,
    /// When its lives began in the cluster that it is in, Unix milliseconds.
    pub started: Vec<u64>,
    root: PathBuf,
    arguments: Vec<String>,
    launcher: Launcher,
    process: Option<Process>,
}

impl Server {
    /// Nothing runs yet. `arguments` are those beside its folder and its own addresses.
    pub fn new(
        root: &Path,
        number: usize,
        (api, raft): (SocketAddr, SocketAddr),
        arguments: Vec<String>,
        launcher: Launcher,
    ) -> Self {
        let data = root.join(format!("server-{number}"));
        Self {
            number,
            api,
            raft,
            data,
            next: false,
            started: Vec::new(),
            root: root.to_owned(),
            arguments,
            launcher,
            process: None,
        }
    }

    pub fn start(&mut self) {
        assert!(self.process.is_none(), "server {} runs already", self.number);
        self.started.push(unix_ms());
        self.process = Some(Process::start(&self.root, &format!("server-{}", self.number), self.command()));
    }

    /// How it is started.
    pub fn command(&self) -> Command {
        let mut command = (self.launcher)();
        command.args(["server", "--listen", &self.api.to_string(), "--raft-listen", &self.raft.to_string()]);
        command.arg("--data-dir").arg(&self.data).args(["--log-format", "json"]).args(&self.arguments);
        command.args(["--exit-with-parent", &std::process::id().to_string()]);
        if self.next {
            command.env(VARIABLE, "1");
        }
        command
    }

    pub async fn ready(&self) {
        within(&format!("server {} is ready", self.number), STARTED, async || {
            let ready = wire::ask(self.api, "GET", "/readyz", "", Duration::from_secs(2)).await;
            ready.filter(|said| said.status == 200)
        })
        .await;
    }

    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Everything that it knew is gone. What it is in next is another cluster, which counts its terms anew.
    pub fn wipe(&mut self) {
        assert!(self.process.is_none(), "server {} runs", self.number);
        std::fs::remove_dir_all(&self.data).unwrap();
        self.started.clear();
    }

    pub fn signal(&self, signal: Signal) {
        self.running().signal(signal);
    }

    /// SIGTERM, and the orderly end.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal(Signal::TERM);
        within(&format!("the end of server {}", self.number), STOPPED, async || {
            (!process.is_running()).then_some(())
        })
        .await;
        let status = process.wait(STOPPED);
        assert!(status.success(), "server {} ended with {status}:\n{}", self.number, process.log());
    }

    /// It must not have ended by itself.
    pub fn still_runs(&mut self) -> bool {
        self.process.as_mut().is_none_or(Process::is_running)
    }

    /// All it has said, over all its starts: JSON lines.
    pub fn log(&self) -> String {
        let log = self.root.join(format!("server-{}.log", self.number));
        String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned()
    }

    /// Memory of its own, bytes: without the pages of its binary.
    pub fn anonymous_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }
}
