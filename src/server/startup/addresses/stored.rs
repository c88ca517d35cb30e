//! What the data of a server says of its addresses. That is enough to start, whatever happened to DNS, to the
//! list and to the addresses of the host.

use std::net::{IpAddr, SocketAddr};

use piccolo_raft::cluster::{NodeNames, Opened};
use piccolo_raft::network::names::Names;

use super::local::{is_local, local_address_towards};
use super::{all_take, host_port};

/// The addresses of a server and of the others, as the membership in its data has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// `host:port` of its raft port.
    pub raft_address: String,
    /// `host:port` of its discovery API.
    pub api_address: String,
    /// Raft addresses of the other members.
    pub others: Vec<String>,
}

impl Stored {
    /// Reads the membership; `None` if the server is in none yet.
    pub fn of(opened: &Opened) -> Option<Self> {
        let own = opened.member()?;
        let others = opened.others().into_iter().map(|member| member.raft_address).collect();
        Some(Self { raft_address: own.raft_address, api_address: own.api_address, others })
    }

    /// Whether the host still has the address that the membership says, as far as that is known without a
    /// question to DNS.
    pub(super) fn is_here(&self, known: &Names) -> bool {
        known.known_addresses(host(&self.raft_address)).into_iter().any(is_local)
    }

    /// The names of a server that finds itself nowhere else: the same as before, or, if the host no longer
    /// has that address, its address on the way to another member, as far as `api` and `raft` listen there.
    pub(super) fn names(
        &self,
        cluster: &[String],
        api: SocketAddr,
        raft: SocketAddr,
        known: &Names,
    ) -> NodeNames {
        let is_here = self.is_here(known);
        let moved = if is_here { None } else { self.towards_others(api, raft, known) };
        let stored_host = host(&self.api_address).trim_start_matches('[').trim_end_matches(']');
        let host = moved.map_or_else(|| stored_host.to_owned(), |ip| ip.to_string());
        NodeNames {
            members: cluster.to_vec(),
            raft_address: match moved {
                Some(ip) => Some(host_port(&ip.to_string(), raft.port())),
                None => is_here.then(|| self.raft_address.clone()),
            },
            api_address: host_port(&host, api.port()),
            api_host_follows: true,
        }
    }

    fn towards_others(&self, api: SocketAddr, raft: SocketAddr, known: &Names) -> Option<IpAddr> {
        // No other host reaches a port on loopback, whatever this server is called.
        let listeners = || [api, raft].into_iter().filter(|address| !address.ip().is_loopback());
        let to = |address: &String| -> Option<IpAddr> {
            let (host, port) = address.rsplit_once(':')?;
            let port = port.parse().ok()?;
            let ips = known.known_addresses(host).into_iter();
            let mut local = ips.filter_map(|ip| local_address_towards(SocketAddr::new(ip, port)));
            local.find(|ip| all_take(listeners(), *ip))
        };
        self.others.iter().find_map(to)
    }
}

/// The host of `host:port`, an IPv6 address in its brackets.
fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

#[cfg(test)]
mod tests;
