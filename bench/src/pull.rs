//! Real pulls: how soon content that node 1 pulled is findable, how long node 2 takes beside the same pull
//! from the registry, and the memory of servers and agents.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::Settings;
use crate::client::fetch;
use crate::daemons::{Containerd, Mode, Registry};
use crate::layout::{Blob, Layout};
use crate::net::Network;
use crate::piccolo::{Agent, Piccolo, is_findable};
use crate::process::{DAEMON_TIMEOUT, Process, run, within};
use crate::report::Report;
use crate::stats::{Spread, size_text};
use crate::usage::resident_mib_of_tree;

const SEED: u64 = 17;
const MEASURED: [Mode; 2] = [Mode::Pull, Mode::Fetch];

/// A containerd, its agent, and our mirror before the registry.
struct Node {
    containerd: Containerd,
    agent: Agent,
}

/// Three servers, a registry, two nodes with agents and one without.
struct Site {
    servers: Vec<SocketAddr>,
    up: Process,
    registry: Registry,
    nodes: [Node; 2],
    plain: Containerd,
}

/// Durations in one round, seconds.
struct Times {
    mode: Mode,
    /// Pull of node 1 while nobody has the image: from the registry, after the mirror was asked.
    first: f64,
    /// From the end of that pull until every digest is findable on every server.
    findable: f64,
    /// Pull of node 2, from node 1.
    neighbour: f64,
    /// Pull of a node without Piccolo, from the registry.
    plain: f64,
}

/// Runs the scenario and writes its section; needs root.
pub(crate) fn pull(settings: &Settings, report: &Report, folder: &Path) -> Result<()> {
    eprintln!("Pulls with real containerds");
    let Some(binary) = settings.piccolo() else { bail!("there are no pulls without Piccolo") };
    let piccolo = Piccolo::new(&binary, folder)?;
    let site = Site::start(&piccolo, folder)?;
    let idle = site.memory()?;
    let mut times = Vec::new();
    for round in 0..settings.rounds {
        for mode in MEASURED {
            let times_of_round = site.round(folder, settings, round, mode)?;
            eprintln!("  round {round} {mode:?}: {}", times_of_round.line());
            times.push(times_of_round);
        }
    }
    let after = site.memory()?;
    let layers: Vec<String> = settings.layers.iter().map(|bytes| size_text(*bytes)).collect();
    let mut body = format!(
        "Three servers by `piccolo up`, docker-registry, three containerds on one machine; images of {} layers ({}), a \
         new one each round, everything from the page cache of one disk. Seconds, median (lowest–highest) of {} \
         rounds. `ctr images pull` unpacks (native snapshotter), `ctr content fetch` only fetches. Node 2 had every \
         blob and manifest from node 1 (checked at the registry).\n\n\
         | | node 1, from the registry through the mirror | then findable on all servers | node 2, from node 1 | \
         node 3, from the registry without Piccolo | node 2 ÷ node 3 |\n|---|---|---|---|---|---|\n",
        layers.len(),
        layers.join(", "),
        settings.rounds
    );
    for mode in MEASURED {
        body.push_str(&row(mode, times.iter().filter(|times| times.mode == mode)));
    }
    body.push_str(
        "\nResident memory, MiB:\n\n| | ready, nothing pulled | after the rounds |\n|---|---|---|\n",
    );
    for ((name, idle), (_, after)) in idle.iter().zip(&after) {
        body.push_str(&format!("| {name} | {idle:.1} | {after:.1} |\n"));
    }
    report.section("pull", "Pulls with real containerds", &body)
}

fn row<'a>(mode: Mode, times: impl Iterator<Item = &'a Times> + Clone) -> String {
    let spread = |value: fn(&Times) -> f64| Spread::of(times.clone().map(value));
    let name = match mode {
        Mode::Pull => "`ctr images pull`",
        Mode::Fetch => "`ctr content fetch`",
    };
    format!(
        "| {name} | {:.2} | {:.3} | {:.2} | {:.2} | {:.2} |\n",
        spread(|times| times.first),
        spread(|times| times.findable),
        spread(|times| times.neighbour),
        spread(|times| times.plain),
        spread(|times| times.neighbour / times.plain)
    )
}

impl Times {
    fn line(&self) -> String {
        format!(
            "first {:.2} s, findable after {:.3} s, from the neighbour {:.2} s, from the registry {:.2} s",
            self.first, self.findable, self.neighbour, self.plain
        )
    }
}

impl Site {
    fn start(piccolo: &Piccolo, folder: &Path) -> Result<Self> {
        let host = Network::host();
        let base = host.free_ports(6)?;
        let mut command = Command::new(piccolo.binary());
        command.args(["up", "--base-port", &base.to_string(), "--data-dir"]).arg(folder.join("servers"));
        let mut up = Process::start(folder, "up", command)?;
        let servers: Vec<SocketAddr> =
            [0, 2, 4].map(|offset| SocketAddr::new(host.ip, base + offset)).to_vec();
        for server in &servers {
            let ready = || fetch(*server, "/readyz").filter(|(status, _)| *status == 200);
            up.wait_until("a server is ready", ready)?;
        }
        let registry = Registry::start(&host, folder)?;
        let urls: Vec<String> = servers.iter().map(|server| format!("http://{server}")).collect();
        let node = |name: &str| {
            let containerd = Containerd::start(&host, &folder.join(name))?;
            let agent =
                piccolo.agent(&host, &urls.join(","), &["--containerd-sock", &containerd.socket()])?;
            run(Command::new(piccolo.binary())
                .args(["mirror", "install", "--registry", &format!("http://{}", registry.address)])
                .args(["--mirror", &format!("http://{}", agent.mirror), "--certs-dir"])
                .arg(containerd.certs()))?;
            Ok::<_, anyhow::Error>(Node { containerd, agent })
        };
        let nodes = [node("node-1")?, node("node-2")?];
        let plain = Containerd::start(&host, &folder.join("node-3"))?;
        plain.without_mirror(registry.address)?;
        Ok(Self { servers, up, registry, nodes, plain })
    }

    fn round(&self, folder: &Path, settings: &Settings, round: u32, mode: Mode) -> Result<Times> {
        let seed = SEED + u64::from(round) * 2 + u64::from(mode == Mode::Fetch);
        let image = folder.join("image");
        let layout = Layout::make(&image, seed, &settings.layers)?;
        let reference = self.registry.push(&layout, &format!("bench/app:{seed}"))?;
        std::fs::remove_dir_all(&image).context("could not remove an image")?;
        let blobs = [layout.layers, layout.rest].concat();
        let first = self.nodes[0].containerd.fetch(&reference, mode)?;
        let findable = self.wait_findable(&blobs)?;
        let from_neighbour = || {
            let sent = self.registry.sent(&blobs);
            let took = self.nodes[1].containerd.fetch(&reference, mode)?;
            let more = self.registry.sent(&blobs) - sent;
            ensure!(
                more == 0,
                "node 2 had {more} blobs from the registry:\n{}",
                self.nodes[1].agent.process.log()
            );
            Ok(took)
        };
        let (neighbour, plain) = if round.is_multiple_of(2) {
            let neighbour = from_neighbour()?;
            (neighbour, self.plain.fetch(&reference, mode)?)
        } else {
            let plain = self.plain.fetch(&reference, mode)?;
            (from_neighbour()?, plain)
        };
        for containerd in [&self.nodes[0].containerd, &self.nodes[1].containerd, &self.plain] {
            containerd.remove(&reference)?;
        }
        let seconds = |time: Duration| time.as_secs_f64();
        let (first, findable) = (seconds(first), seconds(findable));
        Ok(Times { mode, first, findable, neighbour: seconds(neighbour), plain: seconds(plain) })
    }

    fn wait_findable(&self, blobs: &[Blob]) -> Result<Duration> {
        let started = Instant::now();
        for server in &self.servers {
            for blob in blobs {
                within("a blob is findable", DAEMON_TIMEOUT, || Ok(is_findable(*server, blob).then_some(())))
                    .with_context(|| format!("{} on {server}", blob.digest()))?;
            }
        }
        Ok(started.elapsed())
    }

    /// Memory by process: all servers together with `up`, and each agent.
    fn memory(&self) -> Result<Vec<(String, f64)>> {
        let servers = resident_mib_of_tree(self.up.pid())?;
        let mut rows: Vec<(String, f64)> = Vec::new();
        for (number, mib) in servers.iter().enumerate() {
            let name = if number == 0 { "`piccolo up`".to_owned() } else { format!("server {number}") };
            rows.push((name, *mib));
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let mib = resident_mib_of_tree(node.agent.process.pid())?.iter().sum();
            rows.push((format!("agent {}", number + 1), mib));
        }
        Ok(rows)
    }
}
