//! Network of a process: the host's, or a network namespace behind a veth.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::ports::free_ports_in_a_row;
use crate::process::run;

const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 2);

/// Names of namespaces and mounts begin with it and the pid of their bench.
const NAME_PREFIX: &str = "piccolo-bench-";

/// Name of a part of this bench that the machine lists: a namespace, a mount.
pub(crate) fn name_of(part: &str) -> String {
    format!("{NAME_PREFIX}{}-{part}", std::process::id())
}

/// True if `name` is a [`name_of`] a bench that does not run any more.
pub(crate) fn is_abandoned(name: &str) -> bool {
    let pid = name.strip_prefix(NAME_PREFIX).and_then(|rest| rest.split('-').next());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}

/// A network that commands and threads can enter.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    namespace: Option<String>,
    /// Address of servers in it.
    pub(crate) ip: IpAddr,
}

impl Network {
    /// The host's loopback.
    pub(crate) fn host() -> Self {
        Self { namespace: None, ip: Ipv4Addr::LOCALHOST.into() }
    }

    /// A namespace that exists, in which servers have the address `ip`.
    pub(crate) fn namespace(name: String, ip: Ipv4Addr) -> Self {
        Self { namespace: Some(name), ip: ip.into() }
    }

    /// A command that runs in this network, with the pid of the started process.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let Some(namespace) = &self.namespace else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }

    /// Moves the calling thread into this network, for good.
    pub(crate) fn enter(&self) -> Result<()> {
        let Some(namespace) = &self.namespace else { return Ok(()) };
        let file = File::open(format!("/run/netns/{namespace}")).context("could not open the namespace")?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("could not enter {namespace}"))
    }

    /// Runs `job` in this network.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        if self.namespace.is_none() {
            return job();
        }
        let thread = || self.enter().and_then(|()| job());
        thread::scope(|scope| scope.spawn(thread).join()).map_err(|_| anyhow!("a thread panicked"))?
    }

    /// The first of `count` consecutive ports that are free and not reserved by another bench or test.
    pub(crate) fn free_ports(&self, count: u16) -> Result<u16> {
        self.run(|| Ok(free_ports_in_a_row(count)))
    }

    pub(crate) fn free_port(&self) -> Result<u16> {
        self.free_ports(1)
    }
}

/// Two namespaces and a veth with MTU 1500 between them, removed when dropped.
pub(crate) struct Veth {
    pub(crate) server: Network,
    pub(crate) client: Network,
}

impl Veth {
    /// Makes the namespaces and the veth; needs root.
    pub(crate) fn make() -> Result<Self> {
        let name = |side: &str| Some(name_of(side));
        let veth = Self {
            server: Network { namespace: name("s"), ip: SERVER_IP.into() },
            client: Network { namespace: name("c"), ip: CLIENT_IP.into() },
        };
        let (server, client) = (veth.server.name(), veth.client.name());
        let ip = |words: &str| run(Command::new("ip").args(words.split_whitespace()));
        ip(&format!("netns add {server}"))?;
        ip(&format!("netns add {client}"))?;
        ip(&format!(
            "link add eth0 mtu 1500 netns {server} type veth peer name eth0 mtu 1500 netns {client}"
        ))?;
        for (namespace, address) in [(server, SERVER_IP), (client, CLIENT_IP)] {
            ip(&format!("-n {namespace} address add {address}/24 dev eth0"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        Ok(veth)
    }
}

impl Network {
    /// Name of the namespace; empty for the host's network.
    pub(crate) fn name(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for network in [&self.server, &self.client] {
            Command::new("ip").args(["netns", "delete", network.name()]).output().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_bench_that_has_ended_made_is_abandoned() {
        assert!(!is_abandoned(&name_of("hub")));
        // No pid is that high.
        assert!(is_abandoned("piccolo-bench-4194305-hub"));
        assert!(!is_abandoned("pic7-1") && !is_abandoned("tmpfs"));
    }
}
