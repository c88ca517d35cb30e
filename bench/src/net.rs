//! Network of a process: the host's, or a network namespace behind a veth.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::ports::free_ports_in_a_row;
use crate::process::run;

const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 2);

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
        let name = |side: &str| Some(format!("piccolo-bench-{}-{side}", std::process::id()));
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
    fn name(&self) -> &str {
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
