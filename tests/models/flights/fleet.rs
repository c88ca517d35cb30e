//! Nodes on one server, and their pulls at the same time.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::registry::Registry;
use super::wire::Wire;
use super::{CHUNK_BYTES, Client, Image, NODES};
use crate::cells::indented;
use crate::containerd::{Attempt, Containerd, Host, PullError, Store};
use crate::ports::free_address;
use crate::product::{Agent, Build, Server};

/// Configuration of an agent without flights, which is like one of a version that knows none.
const WITHOUT_FLIGHTS: &str = "[registry._default]\nflights = \"off\"\n";
/// What an agent logs that has sent its containerd to the registry.
const FETCHES: &str = "containerd fetches a blob from the registry";
const POLL: Duration = Duration::from_millis(10);

/// A server and the agents of [`NODES`] nodes.
pub(super) struct Fleet {
    pub(super) server: Server,
    pub(super) agents: Vec<Agent>,
    /// By which others reach each agent; none where they reach it directly.
    pub(super) wires: Vec<Option<Wire>>,
}

/// What is particular about one agent.
#[derive(Clone, Copy, Debug)]
struct Part {
    build: Build,
    config: &'static str,
    has_wire: bool,
}

impl Default for Part {
    fn default() -> Self {
        Self { build: Build::New, config: "", has_wire: false }
    }
}

async fn start_part(server: &Server, part: Part) -> (Agent, Option<Wire>) {
    let listens = free_address();
    let wire = if part.has_wire { Some(Wire::to(listens).await) } else { None };
    let told = wire.as_ref().map(|wire| wire.address);
    (Agent::start_build(part.build, server, part.config, listens, told).await, wire)
}

/// The daemons of all nodes for one cell, with empty stores.
pub(super) struct Daemons {
    all: Vec<Containerd>,
    client: Client,
}

/// How the pulls of all nodes have ended.
pub(super) struct Pulled {
    /// Of each node: the time that its pull took, and why it failed.
    pub(super) nodes: Vec<(Duration, Result<(), String>)>,
}

impl Fleet {
    pub(super) async fn start() -> Self {
        Self::with_old_agents(&[]).await
    }

    /// A fleet in which the agents with these numbers know no flights.
    pub(super) async fn with_old_agents(old: &[usize]) -> Self {
        Self::of(Build::New, |number| Part {
            config: if old.contains(&number) { WITHOUT_FLIGHTS } else { "" },
            ..Part::default()
        })
        .await
    }

    /// A fleet whose agents are halves of two groups: the even numbers and the odd ones.
    pub(super) async fn of_two_groups() -> Self {
        let config =
            |number: usize| if number.is_multiple_of(2) { "group = \"even\"\n" } else { "group = \"odd\"\n" };
        Self::of(Build::New, |number| Part { config: config(number), ..Part::default() }).await
    }

    /// A fleet in which the server is of this build, and the agents with these numbers of the previous one.
    pub(super) async fn of_builds(server: Build, previous: &[usize]) -> Self {
        let build = |number: usize| if previous.contains(&number) { Build::Previous } else { Build::New };
        Self::of(server, |number| Part { build: build(number), ..Part::default() }).await
    }

    /// A fleet whose agents reach each other over wires.
    pub(super) async fn over_wires() -> Self {
        Self::of(Build::New, |_| Part { has_wire: true, ..Part::default() }).await
    }

    async fn of(server: Build, part: impl Fn(usize) -> Part) -> Self {
        let server = Server::start_build(server).await;
        let starts = (0..NODES).map(|number| start_part(&server, part(number)));
        let (agents, wires) = futures_util::future::join_all(starts).await.into_iter().unzip();
        Self { server, agents, wires }
    }

    /// Daemons of this kind, each beside its agent and with `registry` behind it.
    pub(super) fn daemons(&self, client: Client, registry: &Registry) -> Daemons {
        let chunk_bytes = if client.parallel { CHUNK_BYTES } else { 0 };
        let daemon = |agent: &Agent| {
            let hosts = vec![Host::at(agent.mirror), registry.host()];
            let daemon = Containerd::with_slots(client.version, hosts, chunk_bytes, client.slots);
            daemon.with_store(Store::at(&agent.content_root()))
        };
        Daemons { all: self.agents.iter().map(daemon).collect(), client }
    }

    /// Waits for a node that fetches `digest` from the registry.
    pub(super) async fn fetcher(&self, digest: &str, within: Duration) -> Option<usize> {
        let fetches = |agent: &Agent| agent.log_of(digest).contains(FETCHES);
        self.wait_for(within, || self.agents.iter().position(fetches)).await
    }

    /// Waits for a node that receives `digest`, and from which another one receives it.
    pub(super) async fn in_the_middle(&self, digest: &str, within: Duration) -> Option<usize> {
        let find = || {
            let logs: Vec<String> = self.agents.iter().map(|agent| agent.log_of(digest)).collect();
            (0..NODES).find(|number| {
                let from = format!("source={} ", self.agents[*number].peer);
                !logs[*number].contains(FETCHES) && logs.iter().any(|log| log.contains(&from))
            })
        };
        self.wait_for(within, find).await
    }

    async fn wait_for(&self, within: Duration, find: impl Fn() -> Option<usize>) -> Option<usize> {
        let end = Instant::now() + within;
        loop {
            let found = find();
            if found.is_some() || Instant::now() >= end {
                return found;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What all agents have logged of the layers of `image`.
    pub(super) fn logs(&self, image: &Image) -> String {
        let of = |(number, agent): (usize, &Agent)| {
            let lines: Vec<String> = image.layers.iter().map(|layer| agent.log_of(&layer.digest)).collect();
            format!("node {number} at {}\n{}", agent.peer, indented(&lines.join("\n")))
        };
        self.agents.iter().enumerate().map(of).collect::<Vec<_>>().join("\n")
    }
}

impl Daemons {
    /// Lets each node pull the images that `images_of` names, all at once, within `limit`.
    pub(super) async fn pull(&self, images_of: impl Fn(usize) -> Vec<Image>, limit: Duration) -> Pulled {
        let mut pulls = JoinSet::new();
        for (number, daemon) in self.all.iter().cloned().enumerate() {
            let (images, slots) = (images_of(number), self.client.slots);
            pulls.spawn(async move {
                let begun = Instant::now();
                let ended = timeout(limit, pull_images(&daemon, &images, slots)).await;
                let result = ended.unwrap_or_else(|_| Err(format!("not within {limit:?}")));
                (number, (begun.elapsed(), result))
            });
        }
        let mut nodes = pulls.join_all().await;
        nodes.sort_by_key(|(number, _)| *number);
        Pulled { nodes: nodes.into_iter().map(|(_, ended)| ended).collect() }
    }

    /// From now on the disk of this node makes the byte at this offset of each blob wrong.
    pub(super) fn damage(&self, node: usize, offset: u64) {
        self.all[node].store.damages(offset);
    }

    /// Removes the ingests of these layers, as agents do over gRPC with bad ones: their store here is a layout.
    pub(super) fn abort(&self, image: &Image) {
        for daemon in &self.all {
            image.layers.iter().for_each(|layer| _ = daemon.store.abort(&layer.digest));
        }
    }
}

/// Pulls several images at the same time with one daemon.
async fn pull_images(daemon: &Containerd, images: &[Image], slots: usize) -> Result<(), String> {
    let pulls = images.iter().map(async |image| {
        let layers: Vec<_> = image.layers.iter().map(|blob| (blob.digest.clone(), blob.size())).collect();
        daemon.pull_image(&layers, slots).await.map_err(described)?;
        match layers.iter().filter(|(digest, _)| !daemon.store.holds(digest)).count() {
            0 => Ok(()),
            missing => Err(format!("{missing} layers were not committed")),
        }
    });
    futures_util::future::try_join_all(pulls).await.map(drop)
}

fn described(error: PullError) -> String {
    let one = |attempt: &Attempt| {
        let host = ["mirror", "registry"][attempt.host];
        format!("{host} {} → {}", attempt.range.as_deref().unwrap_or("all"), attempt.outcome)
    };
    let attempts: Vec<String> = error.outcome.attempts.iter().map(one).collect();
    format!("{}; {}", error.reason, attempts.join(", "))
}

impl Pulled {
    /// When the last node had ended.
    pub(super) fn last(&self) -> Duration {
        self.nodes.iter().map(|(took, _)| *took).max().unwrap_or_default()
    }

    /// The nodes whose pulls have failed, with the reasons.
    pub(super) fn failed(&self) -> Vec<String> {
        let failed = self.nodes.iter().enumerate().filter_map(|(number, (took, result))| {
            let reason = result.as_ref().err()?;
            Some(format!("node {number} after {took:.1?}: {reason}"))
        });
        failed.collect()
    }
}
