//! The discovery servers and agents of one side.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::side::Flights;
use super::site::{Site, on_each};
use crate::layout::Blob;
use crate::net::Network;
use crate::piccolo::{Agent, Server, wait_findable};
use crate::process::{Process, run};

/// Started for one side and ended with it: no side inherits what another has learnt.
pub(super) struct Running {
    agents: Vec<Agent>,
    servers: Vec<Server>,
}

impl Running {
    /// Starts all, with the agent's mirror before the registry on every node.
    pub(super) fn start(site: &Site, flights: Flights) -> Result<Self> {
        let hosts: Vec<&Network> = site.plan.server_hosts().map(|number| site.lan.host(number)).collect();
        let servers = site.piccolo.servers(&hosts)?;
        let urls: Vec<String> = servers.iter().map(|server| format!("http://{}", server.api)).collect();
        let urls = urls.join(",");
        let numbers: Vec<usize> = (0..site.plan.nodes).collect();
        let agents = on_each(&numbers, |number| start_agent(site, *number, &urls, flights))?;
        Ok(Self { agents, servers })
    }

    /// The first server, and the host on which it is.
    pub(super) fn first_server<'a>(&self, site: &'a Site) -> (&'a Network, SocketAddr) {
        (site.lan.host(site.plan.server_hosts().start), self.servers[0].api)
    }

    /// Waits until every server knows a holder of each blob.
    pub(super) fn wait_findable(&self, site: &Site, blobs: &[Blob]) -> Result<()> {
        let hosts = site.plan.server_hosts().map(|number| site.lan.host(number));
        hosts.zip(&self.servers).try_for_each(|(host, server)| wait_findable(host, server.api, blobs))
    }

    /// The logs of all, for an error.
    pub(super) fn logs(&self) -> String {
        self.processes().map(Process::log).collect()
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        let agents = self.agents.iter().map(|agent| &agent.process);
        agents.chain(self.servers.iter().map(|server| &server.process))
    }
}

impl Drop for Running {
    /// All end at the same time, and not one after the other.
    fn drop(&mut self) {
        for process in self.processes() {
            process.signal(Signal::TERM).ok();
        }
    }
}

fn start_agent(site: &Site, number: usize, servers: &str, flights: Flights) -> Result<Agent> {
    let (containerd, registry) = (&site.nodes[number], site.registry.address);
    let config = containerd.certs().with_extension("agent.toml");
    let flights = match flights {
        Flights::Off => "off",
        Flights::On => "on",
    };
    let text =
        format!("[registry.\"{registry}\"]\norigin = \"http://{registry}\"\nflights = \"{flights}\"\n");
    fs::write(&config, text).context("could not write the agent's configuration")?;
    let config = config.display().to_string();
    let store = ["--containerd-sock", &containerd.socket(), "--config", &config];
    let agent = site.piccolo.agent(site.lan.host(number), servers, &store)?;
    run(Command::new(site.piccolo.binary())
        .args(["mirror", "install", "--registry", &format!("http://{registry}")])
        .args(["--mirror", &format!("http://{}", agent.mirror), "--certs-dir"])
        .arg(containerd.certs()))?;
    Ok(agent)
}
