//! Hosts on one bridge, as network namespaces. The test has an address on the bridge, too.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use super::process::run;

static NUMBERS: AtomicU8 = AtomicU8::new(0);

/// Bridge and namespaces, which are removed when dropped.
pub struct Network {
    number: u8,
    hosts: u8,
}

impl Network {
    /// Makes hosts with the numbers from 1 to `hosts`.
    pub fn make(hosts: u8) -> Self {
        // Concurrent test processes start at different numbers, and skip those in use.
        let first = (std::process::id() % 120) as u8 * 2;
        let mut numbers = (0..240).map(|_| first.wrapping_add(NUMBERS.fetch_add(1, Ordering::Relaxed)));
        let is_free = |number: &u8| {
            let add = ["link", "add", &bridge(*number), "type", "bridge"];
            Command::new("ip").args(add).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let number = numbers.find(is_free).expect("the test may make a bridge");
        let network = Self { number, hosts };
        let bridge = bridge(number);
        ip(&["addr", "add", &format!("{}/24", network.address(254)), "dev", &bridge]);
        ip(&["link", "set", &bridge, "up"]);
        for host in 1..=hosts {
            let (space, outer) = (network.space(host), network.outer(host));
            ip(&["netns", "add", &space]);
            ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space]);
            ip(&["link", "set", &outer, "master", &bridge, "up"]);
            ip(&["-n", &space, "addr", "add", &format!("{}/24", network.address(host)), "dev", "eth0"]);
            ip(&["-n", &space, "link", "set", "eth0", "up"]);
            ip(&["-n", &space, "link", "set", "lo", "up"]);
        }
        network
    }

    /// IPv4 address of a host; 254 is the test itself.
    pub fn address(&self, host: u8) -> String {
        format!("10.211.{}.{host}", self.number)
    }

    /// Command that runs `program` on a host.
    pub fn command(&self, host: u8, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(host), program]);
        command
    }

    /// Runs `ip` on a host.
    pub fn inside(&self, host: u8, arguments: &[&str]) {
        ip(&[&["-n", &self.space(host)], arguments].concat());
    }

    /// Name of the test's link.
    pub fn bridge(&self) -> String {
        bridge(self.number)
    }

    /// IPv6 address of a host in this bridge's network, which [`Self::inside`] may assign.
    pub fn address_v6(&self, host: u8) -> String {
        format!("fd00:211:{:x}::{host:x}", self.number)
    }

    /// Drops all packets from and to a host, silently.
    pub fn unplug(&self, host: u8) {
        ip(&["link", "set", &self.outer(host), "down"]);
    }

    pub fn plug(&self, host: u8) {
        ip(&["link", "set", &self.outer(host), "up"]);
    }

    /// Limits the rate at which a host sends.
    pub fn shape(&self, host: u8, rate: &str) {
        let shape = ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "256kb"];
        run(self.command(host, "tc").args(shape).args(["latency", "100ms"]));
    }

    /// Number of bytes that a host has sent, including packet headers.
    pub fn sent(&self, host: u8) -> u64 {
        let file = format!("/sys/class/net/{}/statistics/rx_bytes", self.outer(host));
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    fn space(&self, host: u8) -> String {
        format!("pic{}-{host}", self.number)
    }

    fn outer(&self, host: u8) -> String {
        format!("pic{}v{host}", self.number)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 1..=self.hosts {
            // A namespace, with its link, lives as long as a connection of a killed process.
            Command::new("ip").args(["link", "del", &self.outer(host)]).status().ok();
            Command::new("ip").args(["netns", "del", &self.space(host)]).status().ok();
        }
        Command::new("ip").args(["link", "del", &bridge(self.number)]).status().ok();
    }
}

fn bridge(number: u8) -> String {
    format!("pic{number}")
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}
