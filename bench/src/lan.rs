//! Hosts on one bridge, each a network namespace behind a link with a rate of its own. The bridge has a namespace too:
//! nothing of it is in the machine's own network.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::net::{Network, is_abandoned, name_of};
use crate::process::run;

/// What a link may send at once above its rate. A packet of 64 KiB passes whole: fewer packets, less CPU.
const BURST: &str = "256kb";
/// How long a packet may wait for a link before it is dropped.
const QUEUE: &str = "100ms";

/// Rates of a host's link, Mbit/s; `None`: as fast as the machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    /// From the host to the bridge.
    pub(crate) sends: Option<f64>,
    /// From the bridge to the host.
    pub(crate) receives: Option<f64>,
}

/// Bridge, hosts and links, removed when dropped.
pub(crate) struct Lan {
    hub: String,
    hosts: Vec<Network>,
}

impl Lan {
    /// Makes a host for each of `rates`; needs root. Removes what runs that were killed have left.
    pub(crate) fn make(rates: &[Rates]) -> Result<Self> {
        remove_abandoned()?;
        let numbers = 1..=u8::try_from(rates.len()).context("too many hosts")?;
        let hosts = numbers.map(|number| {
            Network::namespace(name_of(&number.to_string()), Ipv4Addr::new(10, 214, 0, number))
        });
        let lan = Self { hub: name_of("hub"), hosts: hosts.collect() };
        let hub = &lan.hub;
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add bridge type bridge"))?;
        ip(&format!("-n {hub} link set bridge up"))?;
        for (number, (host, rates)) in lan.hosts.iter().zip(rates).enumerate() {
            let (space, port) = (host.name(), port(number));
            ip(&format!("netns add {space}"))?;
            ip(&format!("-n {hub} link add {port} type veth peer name eth0 netns {space}"))?;
            ip(&format!("-n {hub} link set {port} master bridge up"))?;
            ip(&format!("-n {space} address add {}/24 dev eth0", host.ip))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
            shape(space, "eth0", rates.sends)?;
            shape(hub, &port, rates.receives)?;
        }
        Ok(lan)
    }

    /// One host, from 0.
    pub(crate) fn host(&self, number: usize) -> &Network {
        &self.hosts[number]
    }

    /// Bytes that a host has sent to others, headers included.
    pub(crate) fn sent(&self, number: usize) -> Result<u64> {
        let words = ["-n", &self.hub, "-s", "-j", "link", "show", "dev", &port(number)];
        let links: Value = serde_json::from_str(&run(Command::new("ip").args(words))?)
            .context("could not understand what ip says of a link")?;
        links[0]["stats64"]["rx"]["bytes"].as_u64().context("a link has no counter of bytes")
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for space in self.hosts.iter().map(Network::name).chain([self.hub.as_str()]) {
            remove(space);
        }
    }
}

/// Name of the bridge's end of a host's link.
fn port(number: usize) -> String {
    format!("port{}", number + 1)
}

fn ip(words: &str) -> Result<()> {
    run(Command::new("ip").args(words.split_whitespace())).map(|_| ())
}

/// Limits the rate at which `device` of a namespace sends.
fn shape(space: &str, device: &str, mbit: Option<f64>) -> Result<()> {
    let Some(mbit) = mbit else { return Ok(()) };
    let rate = format!("{}bit", (mbit * 1e6).round());
    let device = ["-n", space, "qdisc", "add", "dev", device, "root"];
    let limits = ["tbf", "rate", &rate, "burst", BURST, "latency", QUEUE];
    run(Command::new("tc").args(device).args(limits)).map(|_| ())
}

/// Kills what still runs in a namespace, and removes it with its links.
fn remove(space: &str) {
    let pids = run(Command::new("ip").args(["netns", "pids", space])).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
        kill_process(pid, Signal::KILL).ok();
    }
    Command::new("ip").args(["netns", "delete", space]).output().ok();
}

/// Removes the namespaces of benches that do not run any more.
fn remove_abandoned() -> Result<()> {
    let spaces = run(Command::new("ip").args(["netns", "list"]))?;
    let names = spaces.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| is_abandoned(name)).for_each(remove);
    Ok(())
}
