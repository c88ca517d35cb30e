//! Server processes whose folders and command lines the test controls.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::Duration;

use piccolo::api::client::Client;
use piccolo::api::{FindQuery, StatusResponse, WriteRequest};

use crate::site::{SOON, free_address, within};

pub(crate) const BRIEFLY: Duration = Duration::from_secs(2);

/// A server, running or not.
pub(crate) struct Server {
    pub(crate) folder: PathBuf,
    /// Host of both ports.
    pub(crate) host: &'static str,
    pub(crate) api: u16,
    pub(crate) raft: u16,
    /// `--cluster …` or `--join …`; empty: a cluster of one.
    pub(crate) how: Vec<String>,
    starts: usize,
    child: Option<Child>,
}

impl Server {
    pub(crate) fn new(root: &Path, how: &[&str]) -> Self {
        let [api, raft] = [(); 2].map(|()| free_address().port());
        let how = how.iter().map(|word| (*word).to_owned()).collect();
        Self {
            folder: root.join(format!("server-{raft}")),
            host: "127.0.0.1",
            api,
            raft,
            how,
            starts: 0,
            child: None,
        }
    }

    /// Arguments of every start.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = ["server", "--listen", &self.api_address()].map(str::to_owned).to_vec();
        arguments.extend(["--raft-listen".to_owned(), self.raft_address(), "--data-dir".to_owned()]);
        arguments.push(self.folder.display().to_string());
        if self.how.is_empty() {
            arguments.extend(["--found-after".to_owned(), "0s".to_owned()]);
        }
        arguments.extend(self.how.iter().cloned());
        arguments
    }

    pub(crate) fn start(&mut self) {
        self.starts += 1;
        let log = File::create(self.log_path()).unwrap();
        let mut command = binary();
        command.args(self.arguments()).args(["--exit-with-parent", &std::process::id().to_string()]);
        self.child = Some(command.stderr(log).spawn().unwrap());
    }

    /// Waits until it ends by itself; returns its status and output.
    pub(crate) async fn refuses(&mut self) -> (ExitStatus, String) {
        self.start();
        let child = self.child.as_mut().unwrap();
        let status = within("its end", SOON, async || child.try_wait().unwrap()).await;
        self.child = None;
        (status, self.log())
    }

    /// Pid of the running process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = within("its end", SOON, async || child.try_wait().unwrap()).await;
        assert!(status.success(), "{}", self.log());
    }

    fn log_path(&self) -> PathBuf {
        self.folder.with_extension(format!("{}.log", self.starts))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap()
    }

    pub(crate) fn raft_address(&self) -> String {
        format!("{}:{}", self.host, self.raft)
    }

    pub(crate) fn api_address(&self) -> String {
        format!("{}:{}", self.host, self.api)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.api_address())
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(vec![self.url()]).unwrap()
    }

    pub(crate) async fn status(&self) -> Option<StatusResponse> {
        self.client().status(BRIEFLY).await.ok()
    }

    /// Waits until it knows a leader with a quorum, and has everything that is committed.
    pub(crate) async fn ready(&self) -> StatusResponse {
        let is_ready = |status: &StatusResponse| status.quorum && status.current;
        within("a leader, and all that it has committed", SOON, async || self.status().await.filter(is_ready))
            .await
    }

    /// Waits until it answers, in whichever cluster: its raft port is open by then.
    pub(crate) async fn answers(&self) {
        within("an answer", SOON, async || self.status().await).await;
    }

    /// Repeats an advertise until it is acknowledged.
    pub(crate) async fn advertise(&self, holder: &str, keys: Vec<String>) {
        let request = WriteRequest {
            holder: holder.to_owned(),
            group: "default".to_owned(),
            keys,
            epoch: None,
            seq: None,
            zone: None,
            ttl_seconds: None,
        };
        let client = self.client();
        within("a write", SOON, async || {
            client.advertise(&request, BRIEFLY).await.ok().filter(|answer| answer.success)
        })
        .await;
    }

    /// Holders of `key`; `None` if it does not answer.
    pub(crate) async fn holders(&self, key: &str) -> Option<Vec<String>> {
        let query = FindQuery { key: key.to_owned(), group: "default".to_owned(), ..FindQuery::default() };
        let found = self.client().find(&query, BRIEFLY).await.ok()?;
        Some(found.map(|found| found.holders).unwrap_or_default())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() && self.starts > 0 {
            eprintln!("--- {}\n{}", self.log_path().display(), self.log());
        }
    }
}

/// Starts three servers that found a cluster.
pub(crate) async fn three(root: &Path) -> Vec<Server> {
    founded((0..3).map(|_| Server::new(root, &[])).collect()).await
}

/// Starts these servers, which found a cluster.
pub(crate) async fn founded(mut servers: Vec<Server>) -> Vec<Server> {
    let list: Vec<String> = servers.iter().map(Server::raft_address).collect();
    for server in &mut servers {
        server.how.extend(["--cluster".to_owned(), list.join(",")]);
        server.start();
    }
    for server in &servers {
        server.ready().await;
    }
    servers
}

/// Checks I2: equal checksums at the same log index.
pub(crate) async fn agree(servers: &[Server]) {
    within("equal checksums at one log index", SOON, async || {
        let mut seen = Vec::new();
        for server in servers {
            let status = server.status().await?;
            seen.push((status.applied_index, status.checksum));
        }
        let same_index = seen.iter().all(|(index, _)| *index == seen[0].0);
        assert!(!same_index || seen.iter().all(|(_, sum)| *sum == seen[0].1), "states differ: {seen:?}");
        same_index.then_some(())
    })
    .await;
}

pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_piccolo"));
    let inherited = std::env::vars().filter(|(name, _)| !name.starts_with("PICCOLO_"));
    command.env_clear().envs(inherited);
    command
}

/// Runs a command to its end.
pub(crate) async fn run<I: IntoIterator>(arguments: I) -> Output
where
    I::Item: AsRef<std::ffi::OsStr>,
{
    let mut command = tokio::process::Command::from(binary());
    command.args(arguments).kill_on_drop(true);
    tokio::time::timeout(SOON, command.output()).await.unwrap().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Output of a command that must have succeeded.
#[track_caller]
pub(crate) fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// Errors of a command that must have failed.
#[track_caller]
pub(crate) fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stderr)
}
