//! One or three real servers on loopback: started, stopped, killed, paused, measured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::client::fetch;
use crate::net::Network;
use crate::process::{Process, within};
use crate::usage::process::{Memory, cpu_seconds, written};

/// Longer than any start, stop or catching up takes.
const PATIENCE: Duration = Duration::from_secs(900);

/// Servers, each with its own folder, log and ports.
pub(crate) struct Cluster {
    binary: PathBuf,
    folder: PathBuf,
    members: Vec<Member>,
}

struct Member {
    name: String,
    api: SocketAddr,
    raft: SocketAddr,
    data: PathBuf,
    process: Option<Process>,
    starts: u32,
}

/// Resources that a server has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) cpu_seconds: f64,
    pub(crate) written_mib: f64,
}

/// Status of a server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Status {
    pub(crate) term: u64,
    pub(crate) applied: u64,
    pub(crate) checksum: String,
    pub(crate) pairs: u64,
    pub(crate) hosts_hidden: u64,
    pub(crate) leads: bool,
    pub(crate) quorum: bool,
}

impl Cluster {
    /// Starts `count` servers in `folder` and waits until all are ready and one leads.
    pub(crate) fn start(binary: &Path, folder: &Path, count: usize) -> Result<Self> {
        let binary = binary.canonicalize().with_context(|| format!("there is no {}", binary.display()))?;
        let host = Network::host();
        let ports = host.free_ports(2 * u16::try_from(count).context("too many servers")?)?;
        let address = |offset: usize| SocketAddr::new(host.ip, ports + offset as u16);
        let members = (0..count).map(|number| Member {
            name: format!("server-{}", number + 1),
            api: address(2 * number),
            raft: address(2 * number + 1),
            data: folder.join(format!("server-{}", number + 1)),
            process: None,
            starts: 0,
        });
        let mut cluster = Self { binary, folder: folder.to_owned(), members: members.collect() };
        for number in 0..count {
            cluster.spawn(number)?;
        }
        for number in 0..count {
            cluster.wait_ready(number)?;
        }
        cluster.wait_leader()?;
        Ok(cluster)
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// API addresses of all servers.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.api).collect()
    }

    /// Data folder of one server.
    pub(crate) fn data(&self, number: usize) -> &Path {
        &self.members[number].data
    }

    /// Raft address of one server.
    pub(crate) fn raft(&self, number: usize) -> SocketAddr {
        self.members[number].raft
    }

    /// The binary of the servers.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// Starts a stopped server with the present content of its folder.
    pub(crate) fn spawn(&mut self, number: usize) -> Result<()> {
        let list: Vec<String> = self.members.iter().map(|member| member.raft.to_string()).collect();
        let founded = match list.len() {
            0 | 1 => ["--found-after".to_owned(), "0s".to_owned()],
            _ => ["--cluster".to_owned(), list.join(",")],
        };
        self.spawn_with(number, &founded)
    }

    /// Starts a server with an empty folder, to be added to the cluster of `other`.
    pub(crate) fn spawn_joining(&mut self, number: usize, other: usize) -> Result<()> {
        std::fs::remove_dir_all(&self.members[number].data).context("could not remove a data folder")?;
        let other = self.members[other].raft.to_string();
        self.spawn_with(number, &["--join".to_owned(), other])
    }

    fn spawn_with(&mut self, number: usize, more: &[String]) -> Result<()> {
        let member = &mut self.members[number];
        let mut command = Command::new(&self.binary);
        command.arg("server").arg("--data-dir").arg(&member.data).args(["--log-level", "warn"]);
        command.args(["--listen", &member.api.to_string(), "--raft-listen", &member.raft.to_string()]);
        command.args(more);
        member.starts += 1;
        let name = format!("{}-{}", member.name, member.starts);
        member.process = Some(Process::start(&self.folder, &name, command)?);
        Ok(())
    }

    /// Waits until a server answers lookups.
    pub(crate) fn wait_ready(&mut self, number: usize) -> Result<()> {
        let member = &mut self.members[number];
        let api = member.api;
        let process = member.process.as_mut().context("it does not run")?;
        process.wait_until("/readyz answers 200", || {
            fetch(api, "/readyz").filter(|(status, _)| *status == 200).map(|_| ())
        })
    }

    /// Ends a server with a signal; returns how long that took.
    pub(crate) fn end(&mut self, number: usize, signal: Signal) -> Result<Duration> {
        let process = self.members[number].process.take().context("it does not run")?;
        let start = Instant::now();
        process.signal(signal)?;
        process.wait_end(PATIENCE)?;
        Ok(start.elapsed())
    }

    /// Pid of a running server.
    pub(crate) fn pid(&self, number: usize) -> Result<u32> {
        Ok(self.members[number].process.as_ref().context("it does not run")?.pid())
    }

    pub(crate) fn used(&self, number: usize) -> Result<Used> {
        let pid = self.pid(number)?;
        Ok(Used { cpu_seconds: cpu_seconds(pid)?, written_mib: written(pid)? })
    }

    /// [`Cluster::used`] of all servers.
    pub(crate) fn used_by_all(&self) -> Result<Vec<Used>> {
        (0..self.len()).map(|number| self.used(number)).collect()
    }

    pub(crate) fn memory(&self, number: usize) -> Result<Memory> {
        Memory::of(self.pid(number)?)
    }

    pub(crate) fn status(&self, number: usize) -> Option<Status> {
        let (code, body) = fetch(self.members[number].api, "/api/v1/status")?;
        let value: Value = serde_json::from_slice(&body).ok().filter(|_| code == 200)?;
        Some(Status {
            term: value["term"].as_u64()?,
            applied: value["applied_index"].as_u64()?,
            checksum: value["checksum"].as_str()?.to_owned(),
            pairs: value["pairs"].as_u64()?,
            hosts_hidden: value["hosts_hidden"].as_u64()?,
            leads: value["leader"].is_string() && value["leader"] == value["node"],
            quorum: value["quorum"].as_bool()?,
        })
    }

    /// Waits for a leader; returns its number.
    pub(crate) fn wait_leader(&self) -> Result<usize> {
        within("a server leads", PATIENCE, || {
            let leads =
                |number: &usize| self.status(*number).is_some_and(|status| status.leads && status.quorum);
            Ok((0..self.len()).find(leads))
        })
    }

    /// Waits until all servers have applied what the leader has applied now.
    pub(crate) fn wait_applied(&self) -> Result<()> {
        let leader = self.wait_leader()?;
        let status = self.status(leader).context("the leader has no status")?;
        within("all servers have applied it", PATIENCE, || {
            let has =
                |number| self.status(number).is_some_and(|other: Status| other.applied >= status.applied);
            Ok((0..self.len()).all(has).then_some(()))
        })
    }

    /// Waits until all running servers show the same state; returns it.
    pub(crate) fn wait_equal(&self) -> Result<Status> {
        let running: Vec<usize> =
            (0..self.len()).filter(|number| self.members[*number].process.is_some()).collect();
        within("the same state on all servers", PATIENCE, || {
            let Some(statuses) =
                running.iter().map(|number| self.status(*number)).collect::<Option<Vec<_>>>()
            else {
                return Ok(None);
            };
            let Some(first) = statuses.first() else { bail!("no server runs") };
            let same = |status: &&Status| status.applied == first.applied;
            if !statuses.iter().all(|status| same(&status)) {
                return Ok(None);
            }
            if statuses.iter().any(|status| status.checksum != first.checksum) {
                bail!("states differ at one log index: {statuses:?}");
            }
            Ok(Some(first.clone()))
        })
    }
}

/// Disk space of the files in a folder, MiB.
pub(crate) fn disk_mib(folder: &Path) -> Result<Vec<(String, f64)>> {
    use std::os::unix::fs::MetadataExt;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).context("could not list a data folder")? {
        let entry = entry.context("could not list a data folder")?;
        let blocks = entry.metadata().context("could not look at a file")?.blocks();
        files.push((entry.file_name().to_string_lossy().into_owned(), blocks as f64 * 512.0 / 1048576.0));
    }
    files.sort_by(|one, other| other.1.total_cmp(&one.1));
    Ok(files)
}
