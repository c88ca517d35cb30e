//! The sides: a real server with the fleet, constant answers, and the Go Piccolo's query on MariaDB.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use piccolo::api::{StatusResponse, path};

use super::questions::Question;
use crate::client::fetch;
use crate::fleet::{Fleet, GROUP};
use crate::http_load::{exchange, post_all};
use crate::mariadb::MariaDb;
use crate::names::KeyNames;
use crate::net::Network;
use crate::piccolo::Piccolo;
use crate::process::Process;
use crate::usage::{cpu_seconds_of_tree, resident_mib_of_tree};

/// Connections that register the fleet: group commit needs several at once.
const FILLERS: usize = 64;
/// Lease that does not end while the bench runs, seconds.
const LEASE_SECONDS: u32 = 86_400;
/// Number of answers whose sizes are averaged.
const ANSWERS: usize = 512;

/// A process that answers findkey.
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    /// Processes whose CPU time belongs to this side; the first one answers.
    pids: Vec<u32>,
    _process: Process,
}

impl Side {
    /// CPU seconds of the process that answers, and of the processes behind it.
    pub(super) fn cpu_seconds(&self) -> Result<(f64, f64)> {
        let mut each = Vec::with_capacity(self.pids.len());
        for pid in &self.pids {
            each.push(cpu_seconds_of_tree(*pid)?);
        }
        Ok((each[0], each[1..].iter().sum()))
    }
}

/// Result of the registration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filled {
    pub(super) pairs: u64,
    pub(super) seconds: f64,
}

/// A cluster of one server with which the whole fleet has registered.
pub(super) fn piccolo(piccolo: &Piccolo, fleet: Fleet, names: &KeyNames) -> Result<(Side, Filled)> {
    let server = piccolo.server(&Network::host())?;
    let started = Instant::now();
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_millis();
    let mut hosts = 0..fleet.hosts;
    let sync = |body: &mut Vec<u8>| {
        let Some(host) = hosts.next() else { return false };
        write_sync(body, fleet, names, host, epoch);
        true
    };
    post_all(server.api, FILLERS, path::SYNC, sync).context("could not register the fleet")?;
    let filled = Filled { pairs: fleet.pairs(), seconds: started.elapsed().as_secs_f64() };
    let status = status(server.api)?;
    let expected = (u64::from(fleet.hosts), fleet.pairs(), 0);
    let seen = (status.hosts, status.pairs, status.hosts_hidden);
    ensure!(seen == expected, "the server has {seen:?} hosts, pairs and hidden hosts, not {expected:?}");
    eprintln!("  Piccolo has its pairs after {:.0?}", started.elapsed());
    let pids = vec![server.process.pid()];
    Ok((Side { name: "Piccolo", address: server.api, pids, _process: server.process }, filled))
}

fn write_sync(body: &mut Vec<u8>, fleet: Fleet, names: &KeyNames, host: u32, epoch: u128) {
    let holder = fleet.address(host);
    let zone = fleet.zone(host);
    let head = format!(
        "{{\"holder\":\"{holder}\",\"group\":\"{GROUP}\",\"epoch\":{epoch},\"seq\":1,\
         \"zone\":\"{zone}\",\"ttl_seconds\":{LEASE_SECONDS},\"keys\":["
    );
    body.extend_from_slice(head.as_bytes());
    for (place, key) in fleet.inventory(host).into_iter().enumerate() {
        body.extend_from_slice(if place == 0 { b"\"" } else { b",\"" });
        body.extend_from_slice(names.get(key).as_bytes());
        body.push(b'"');
    }
    body.extend_from_slice(b"]}");
}

fn status(api: SocketAddr) -> Result<StatusResponse> {
    let (code, body) = fetch(api, path::STATUS).context("the server tells no status")?;
    ensure!(code == 200, "status: {code}");
    serde_json::from_slice(&body).context("could not understand the status")
}

/// The Go Piccolo's findkey with `database`.
pub(super) fn mariadb(database: &MariaDb, folder: &Path) -> Result<Side> {
    let socket = database.socket().display().to_string();
    let mut side = ours("MariaDB", "serve-mariadb", folder, &["--socket", &socket])?;
    side.pids.push(database.pid());
    Ok(side)
}

/// Servers with constant answers; their processes stay, idle, until the end.
pub(super) struct Constants {
    folder: PathBuf,
    made: usize,
}

impl Constants {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), made: 0 }
    }

    /// A server that answers with `body`.
    pub(super) fn side(&mut self, body: &[u8]) -> Result<Side> {
        self.made += 1;
        let file = self.folder.join(format!("body-{}", self.made));
        fs::write(&file, body).context("could not write a body")?;
        ours("constant", "serve-constant", &self.folder, &["--body", &file.display().to_string()])
    }
}

/// Starts a process of the bench itself.
fn ours(name: &'static str, subcommand: &str, folder: &Path, arguments: &[&str]) -> Result<Side> {
    let host = Network::host();
    let address = SocketAddr::new(host.ip, host.free_port()?);
    let mut command = Command::new(std::env::current_exe().context("could not find the bench itself")?);
    command.args([subcommand, "--listen", &address.to_string()]).args(arguments);
    let mut process = Process::start(folder, &format!("{subcommand}-{}", address.port()), command)?;
    let nothing = format!("{}?key=none&group=none", path::FINDKEY);
    process.wait_until("findkey is answered", || fetch(address, &nothing))?;
    Ok(Side { name, address, pids: vec![process.pid()], _process: process })
}

/// An answer of Piccolo of average length.
pub(super) fn typical_answer(piccolo: &Side, question: &Question) -> Result<Vec<u8>> {
    let mut requests = question.requests.iter().take(ANSWERS);
    let mut answers = Vec::new();
    let next = |into: &mut Vec<u8>| requests.next().map(|request| into.extend_from_slice(request)).is_some();
    exchange(piccolo.address, 1, next, |answer| {
        ensure!(answer.status == 200, "{:?}: {}", question.class, answer.status);
        answers.push(answer.body.to_vec());
        Ok(())
    })?;
    let mean = answers.iter().map(Vec::len).sum::<usize>() / answers.len().max(1);
    answers.into_iter().min_by_key(|answer| answer.len().abs_diff(mean)).context("no answer at all")
}

/// Resident memory by name, MiB.
pub(super) fn resident_mib(
    piccolo: &Side,
    mariadb: Option<&Side>,
    database: Option<&MariaDb>,
) -> Result<Vec<(&'static str, f64)>> {
    let of = |pid: u32| Ok::<_, anyhow::Error>(resident_mib_of_tree(pid)?.into_iter().sum::<f64>());
    let mut list = vec![("Piccolo", of(piccolo.pids[0])?)];
    if let Some(side) = mariadb {
        list.push(("findkey on MariaDB", of(side.pids[0])?));
    }
    if let Some(database) = database {
        list.push(("mariadbd", of(database.pid())?));
    }
    Ok(list)
}
