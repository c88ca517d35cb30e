//! Three discovery servers of `piccolo up`, and clients of them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use piccolo::api::client::Client;
use piccolo::api::{FindQuery, StatusResponse, WriteRequest};
use rustix::process::{Signal, kill_process};

use super::process::pid;
use super::{PICCOLO, Process, SOON, free_ports_in_a_row, within};

/// `piccolo up` and its three servers.
pub struct Servers {
    pub up: Process,
    pub base_port: u16,
}

impl Servers {
    /// Starts three servers with their data in `folder`; waits for a leader.
    pub async fn up(folder: &Path) -> Self {
        Self::up_at(folder, free_ports_in_a_row(6)).await
    }

    pub async fn up_at(folder: &Path, base_port: u16) -> Self {
        let mut command = Command::new(PICCOLO);
        command.args(["up", "--base-port", &base_port.to_string(), "--data-dir"]).arg(folder.join("servers"));
        let servers = Self { up: Process::start(folder, "up", command), base_port };
        servers.leader().await;
        servers
    }

    /// Base URLs, sorted by the servers' numbers.
    pub fn urls(&self) -> Vec<String> {
        [0, 2, 4].map(|offset| format!("http://127.0.0.1:{}", self.base_port + offset)).to_vec()
    }

    /// A client of server `number` (1 to 3) only.
    pub fn client(&self, number: usize) -> Client {
        Client::new(vec![self.urls()[number - 1].clone()]).unwrap()
    }

    /// Number of the leader, after a server has answered that it knows one with a quorum.
    pub async fn leader(&self) -> usize {
        within("a leader with a quorum", SOON, || self.leader_now()).await
    }

    async fn leader_now(&self) -> Option<usize> {
        for number in 1..=3 {
            let Ok(status) = self.client(number).status(Duration::from_secs(1)).await else { continue };
            let leader = self.number_of_leader(&status);
            if leader.is_some() && status.quorum {
                return leader;
            }
        }
        None
    }

    fn number_of_leader(&self, status: &StatusResponse) -> Option<usize> {
        let leader = status.leader.as_ref()?;
        let member = status.members.iter().find(|member| member.node == *leader)?;
        self.urls().iter().position(|url| url.ends_with(&member.api_address)).map(|index| index + 1)
    }

    /// The pid of server `number` that `up` printed last.
    pub fn pid(&self, number: usize) -> u32 {
        let log = self.up.log();
        let of_server = log.lines().filter(|line| line.contains(&format!("server-{number}")));
        let mut pids = of_server.filter_map(|line| line.split("started pid=").nth(1));
        let last = pids.next_back().unwrap_or_else(|| panic!("no pid of server-{number} in:\n{log}"));
        last.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    }

    pub fn signal(&self, number: usize, signal: Signal) {
        kill_process(pid(self.pid(number)), signal).unwrap();
    }
}

/// Holders of `key` in the group `default` by the answer to `client`; empty if there are none. Retries while
/// there is no answer: on a busy machine a lookup can exceed its two seconds.
pub async fn find(client: &Client, key: &str) -> Vec<String> {
    within("the server answers", SOON, || find_if_up(client, key)).await
}

/// Like [`find`] for a server that may be down: `None` without an answer.
pub async fn find_if_up(client: &Client, key: &str) -> Option<Vec<String>> {
    let query = FindQuery { key: key.to_owned(), group: "default".to_owned(), ..FindQuery::default() };
    let answer = client.find(&query, Duration::from_secs(5)).await.ok()?;
    Some(answer.map(|found| found.holders).unwrap_or_default())
}

/// A write request in the group `default`.
pub fn keys_of(holder: &str, pair: Option<(u64, u64)>, keys: &[String]) -> WriteRequest {
    WriteRequest {
        holder: holder.to_owned(),
        group: "default".to_owned(),
        keys: keys.to_vec(),
        epoch: pair.map(|(epoch, _)| epoch),
        seq: pair.map(|(_, seq)| seq),
        zone: None,
        ttl_seconds: None,
    }
}
