//! A `piccolo server` process, with functions that cause faults.

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
/// Time to start, on a busy machine.
const STARTED: Duration = Duration::from_secs(30);
/// Time to stop; draining takes at most 30 s.
const STOPPED: Duration = Duration::from_secs(45);

/// Starts `piccolo` on this host, or on a host of a network that the test made.
pub type Launcher = Box<dyn Fn() -> Command + Send + Sync>;

/// A launcher for this host. The process ends with the test, however that ends.
pub fn here() -> Launcher {
    Box::new(|| Command::new(PICCOLO))
}

pub struct Server {
    /// Number of the server, from 1.
    pub number: usize,
    pub api: SocketAddr,
    pub raft: SocketAddr,
    /// Path of the data folder.
    pub data: PathBuf,
    /// True if it runs the next version, beginning with its next start.
    pub next: bool,
    /// Times of its starts in its present cluster, Unix milliseconds.
    pub started: Vec<u64>,
    root: PathBuf,
    arguments: Vec<String>,
    launcher: Launcher,
    process: Option<Process>,
}

impl Server {
    /// A server that does not run yet. `arguments` are those other than its folder and addresses.
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

    /// Command line of its next start.
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

    /// Removes its data. Afterwards it is in another cluster, whose terms begin anew.
    pub fn wipe(&mut self) {
        assert!(self.process.is_none(), "server {} runs", self.number);
        std::fs::remove_dir_all(&self.data).unwrap();
        self.started.clear();
    }

    pub fn signal(&self, signal: Signal) {
        self.running().signal(signal);
    }

    /// Sends SIGTERM and waits for an orderly end.
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

    /// True if it has not ended by itself.
    pub fn still_runs(&mut self) -> bool {
        self.process.as_mut().is_none_or(Process::is_running)
    }

    /// Log of all its starts: JSON lines.
    pub fn log(&self) -> String {
        let log = self.root.join(format!("server-{}.log", self.number));
        String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned()
    }

    /// Anonymous memory, bytes: without the pages of the binary.
    pub fn anonymous_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }
}
