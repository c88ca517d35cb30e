//! The address under which peers reach this node: as given, where the peer port listens, or found out and
//! followed while the agent runs.

mod cidr;
mod follow;
mod interfaces;
pub(crate) mod own;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use futures_util::future::{BoxFuture, join_all};
use tokio::net::{UdpSocket, lookup_host};

pub use cidr::Cidr;
pub(crate) use follow::{Following, Look, begin};

use crate::limits::ADDRESS_LOOKS_PER_RESOLUTION;

/// Addresses for documentation (RFC 5737, RFC 3849): routed like any other address, and never an address of
/// this node.
const ELSEWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// Why no address is known, or why the given one cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdvertiseError {
    /// No name of a server could be resolved.
    #[error("could not resolve a discovery server of {}", servers.join(", "))]
    NoServer {
        /// URLs of the servers that were looked at.
        servers: Vec<String>,
    },
    /// There is no route from this node to a server.
    #[error("could not find a route from this node to a discovery server")]
    NoRoute,
    /// Finding the address took too long, because the resolver did not answer.
    #[error("could not find it in time: the resolver does not answer")]
    Late,
    /// No address of this node is on the given interface or in the given ranges.
    #[error("could not find an address that peers can reach {}", place(interface.as_deref(), cidrs))]
    NotThere {
        /// Value of `--advertise-interface`.
        interface: Option<String>,
        /// Value of `--advertise-cidr`.
        cidrs: Vec<Cidr>,
    },
    /// The system did not list the addresses of this node.
    #[error("could not list the addresses of {}", interface.as_deref().unwrap_or("this node"))]
    Interfaces {
        /// Value of `--advertise-interface`.
        interface: Option<String>,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The peer port accepts no connections to the given address.
    #[error(
        "could not advertise {address}: peers cannot reach it, as --peer-listen {listens} takes connections of \
         the other family only; give --peer-listen [::]:{} for all addresses", listens.port()
    )]
    OtherFamily {
        /// Value of `--advertise`.
        address: SocketAddr,
        /// Address of `--peer-listen`.
        listens: SocketAddr,
    },
}

fn place(interface: Option<&str>, cidrs: &[Cidr]) -> String {
    let cidrs: Vec<String> = cidrs.iter().map(Cidr::to_string).collect();
    let on = interface.map(|name| format!("on interface {name} (--advertise-interface)"));
    let within = (!cidrs.is_empty()).then(|| format!("in {} (--advertise-cidr)", cidrs.join(", ")));
    on.into_iter().chain(within).collect::<Vec<_>>().join(" ")
}

/// Address of the peer port, and whether an IPv6 socket accepts IPv4 as well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listens {
    pub(crate) address: SocketAddr,
    pub(crate) both_families: bool,
}

impl Listens {
    /// Reads both from a listening socket.
    pub(crate) fn of(listener: &tokio::net::TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let is_any_v6 = address.is_ipv6() && address.ip().is_unspecified();
        let both_families = is_any_v6 && !socket2::SockRef::from(listener).only_v6()?;
        Ok(Self { address, both_families })
    }

    fn takes(&self, ip: IpAddr) -> bool {
        self.both_families || self.address.is_ipv4() == ip.is_ipv4()
    }
}

/// Which addresses of this node qualify: those on an interface, in a range, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Value of `--advertise-interface`. Absent: any interface.
    pub interface: Option<String>,
    /// Value of `--advertise-cidr`. Empty: any address.
    pub cidrs: Vec<Cidr>,
}

/// The address if it is certain from the start: the given one, or that of a peer port that listens on one
/// address.
///
/// # Errors
/// If no peer could reach the given address.
pub(crate) fn fixed(
    given: Option<SocketAddr>,
    listens: Listens,
) -> Result<Option<SocketAddr>, AdvertiseError> {
    let own = listens.address;
    match given {
        Some(given) if !listens.takes(given.ip()) => {
            Err(AdvertiseError::OtherFamily { address: given, listens: own })
        }
        Some(given) if given.port() == 0 => Ok(Some(SocketAddr::new(given.ip(), own.port()))),
        Some(given) => Ok(Some(given)),
        None => Ok(Some(own).filter(|own| !own.ip().is_unspecified())),
    }
}

/// Finds the address of this node: the one that connections to the servers leave from, or one of those
/// selected.
pub(crate) struct Seeker {
    servers: Vec<String>,
    listens: Listens,
    selection: Selection,
    /// Resolved addresses of the servers.
    targets: Vec<SocketAddr>,
    /// Looks left before the servers are resolved again.
    looks_left: u32,
    /// The address that was found last. It is kept while it is as good as others.
    last: Option<IpAddr>,
}

impl Seeker {
    pub(crate) fn new(servers: Vec<String>, listens: Listens, selection: Selection) -> Self {
        Self { servers, listens, selection, targets: Vec::new(), looks_left: 0, last: None }
    }

    async fn seek(&mut self) -> Result<SocketAddr, AdvertiseError> {
        if self.looks_left == 0 || self.targets.is_empty() {
            self.resolve().await;
        }
        self.looks_left = self.looks_left.saturating_sub(1);
        let found = if self.selection == Selection::default() {
            self.towards_servers().await
        } else {
            self.selected().await
        };
        if found.as_ref().ok().copied() != self.last || found.is_err() {
            // Something has changed, maybe the addresses of the servers as well.
            self.looks_left = 0;
        }
        self.last = found.as_ref().ok().copied();
        Ok(SocketAddr::new(found?, self.listens.address.port()))
    }

    async fn resolve(&mut self) {
        let mut targets = Vec::new();
        for server in &self.servers {
            targets.extend(resolve(server).await);
        }
        // While the resolver does not answer, the last addresses are the best that is known.
        if !targets.is_empty() {
            (self.targets, self.looks_left) = (targets, ADDRESS_LOOKS_PER_RESOLUTION);
        }
    }

    /// The local end of a connection to a server. The address in use stays while any server is reached from
    /// it, because a resolver names several servers in another order each time; else the first server that
    /// has a usable local end decides. With all servers on loopback it is the local end of the default route.
    async fn towards_servers(&self) -> Result<IpAddr, AdvertiseError> {
        if self.targets.is_empty() {
            return Err(AdvertiseError::NoServer { servers: self.servers.clone() });
        }
        let ends = join_all(self.targets.iter().map(|target| local_end(*target))).await;
        let ends: Vec<IpAddr> = ends.into_iter().flatten().collect();
        if ends.is_empty() {
            // An address of another route would be a guess.
            return Err(AdvertiseError::NoRoute);
        }
        if let Some(ip) = self.public_end(&ends) {
            return Ok(ip);
        }
        let loopback = ends.iter().copied().find(|ip| ip.is_loopback() && self.listens.takes(*ip));
        // The server is on this host, or of another address family than the peer port.
        for target in ELSEWHERE {
            let ip = local_end(target).await.filter(|ip| is_public(*ip) && self.listens.takes(*ip));
            if let Some(ip) = ip {
                return Ok(ip);
            }
        }
        // Servers on loopback and no other route: the whole cluster is on this host.
        loopback.ok_or(AdvertiseError::NoRoute)
    }

    /// The address to advertise, out of these local ends of connections.
    fn public_end(&self, ends: &[IpAddr]) -> Option<IpAddr> {
        let is_usable = |ip: &IpAddr| is_public(*ip) && self.listens.takes(*ip);
        let candidates: Vec<IpAddr> = ends.iter().copied().filter(is_usable).collect();
        choose(&candidates, self.last, None)
    }

    async fn selected(&self) -> Result<IpAddr, AdvertiseError> {
        let Selection { interface, cidrs } = &self.selection;
        let listed = interfaces::addresses(interface.as_deref());
        let listed =
            listed.map_err(|source| AdvertiseError::Interfaces { interface: interface.clone(), source })?;
        let takes = |ip: &IpAddr| {
            is_public(*ip)
                && self.listens.takes(*ip)
                && (cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.contains(*ip)))
        };
        let candidates: Vec<IpAddr> = listed.into_iter().filter(takes).collect();
        let mut preferred = self.last;
        for target in &self.targets {
            preferred = preferred.or(local_end(*target).await.filter(|ip| candidates.contains(ip)));
        }
        choose(&candidates, preferred, self.targets.first().map(SocketAddr::is_ipv4))
            .ok_or_else(|| AdvertiseError::NotThere { interface: interface.clone(), cidrs: cidrs.clone() })
    }
}

impl Look for Seeker {
    fn look(&mut self) -> BoxFuture<'_, Result<SocketAddr, AdvertiseError>> {
        Box::pin(self.seek())
    }

    fn is_here(&self, ip: IpAddr) -> bool {
        std::net::UdpSocket::bind((ip, 0)).is_ok()
    }
}

/// The address that packets to `target` would leave from. Connecting a UDP socket sends no packet.
async fn local_end(target: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(target).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Chooses one of several addresses: the preferred one if it is among them, else the first of the servers'
/// address family, else the first.
fn choose(candidates: &[IpAddr], preferred: Option<IpAddr>, servers_v4: Option<bool>) -> Option<IpAddr> {
    let of_family = || candidates.iter().find(|ip| Some(ip.is_ipv4()) == servers_v4);
    let preferred = preferred.filter(|ip| candidates.contains(ip));
    preferred.or_else(|| of_family().or(candidates.first()).copied())
}

async fn resolve(server: &str) -> Vec<SocketAddr> {
    let Ok(uri) = server.parse::<axum::http::Uri>() else { return Vec::new() };
    let Some(host) = uri.host() else { return Vec::new() };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match lookup_host((host, uri.port_u16().unwrap_or(80))).await {
        Ok(found) => found.collect(),
        Err(error) => {
            tracing::debug!(server, %error, "could not resolve a discovery server");
            Vec::new()
        }
    }
}

/// Whether other nodes may reach an address: it is not loopback, link-local or unspecified.
fn is_public(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback() && !ip.is_unspecified() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(address: &str) -> Listens {
        let address: SocketAddr = address.parse().unwrap();
        Listens { address, both_families: address.is_ipv6() && address.ip().is_unspecified() }
    }

    #[test]
    fn what_is_given_wins_and_then_where_the_peer_port_listens() {
        for (given, peer, expected) in [
            (Some("10.9.8.7:1"), "0.0.0.0:2", Some("10.9.8.7:1")),
            (Some("10.9.8.7:0"), "[::]:2", Some("10.9.8.7:2")),
            (Some("[fd00::7]:1"), "[::]:2", Some("[fd00::7]:1")),
            (Some("203.0.113.7:1"), "10.0.0.1:2", Some("203.0.113.7:1")),
            (None, "127.0.0.5:2", Some("127.0.0.5:2")),
            (None, "[::]:2", None),
            (None, "0.0.0.0:2", None),
        ] {
            let found = fixed(given.map(|given| given.parse().unwrap()), listens(peer)).unwrap();
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{given:?} at {peer}");
        }
    }

    #[test]
    fn an_address_of_a_family_that_the_peer_port_does_not_take_is_refused_with_what_to_set() {
        for (given, peer) in [("[fd00::7]:7781", "0.0.0.0:7781"), ("10.0.0.7:7781", "[fd00::1]:7781")] {
            let error = fixed(Some(given.parse().unwrap()), listens(peer)).unwrap_err().to_string();
            assert!(error.contains(given) && error.contains("--peer-listen [::]:7781"), "{error}");
        }
    }

    /// Fault B9 of the Go version: it advertises `0.0.0.0` literally.
    #[tokio::test]
    async fn an_unspecified_address_is_never_advertised() {
        for server in ["http://127.0.0.1:7789", "http://[::1]:7789", "http://localhost:7789/prefix"] {
            for peer in ["0.0.0.0:2", "[::]:2"] {
                let mut seeker = Seeker::new(vec![server.to_owned()], listens(peer), Selection::default());
                // A host without routes, with a server of the other address family, has no usable address.
                if let Ok(found) = seeker.seek().await {
                    assert!(!found.ip().is_unspecified() && found.port() == 2, "{found}");
                    assert!(peer.starts_with('[') || found.is_ipv4(), "{found} is not reached at {peer}");
                }
            }
        }
    }

    /// Regression: the address of the default route was taken instead, and kept.
    #[tokio::test]
    async fn while_no_server_can_be_resolved_nothing_is_guessed() {
        let servers = vec!["http://no-such-host.invalid:7789".to_owned()];
        let error = Seeker::new(servers, listens("[::]:2"), Selection::default()).seek().await.unwrap_err();
        assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
    }

    /// A resolver names several servers in another order each time. A node with two networks would move all
    /// its keys again and again.
    #[test]
    fn the_address_in_use_stays_while_any_server_is_reached_from_it() {
        let [one, other, v6, loopback] =
            ["10.0.0.7", "10.1.0.7", "fd00::7", "127.0.0.1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let mut seeker = Seeker::new(Vec::new(), listens("0.0.0.0:2"), Selection::default());
        for (last, ends, expected) in [
            (None, vec![loopback, v6, one, other], Some(one)),
            (Some(one), vec![other, one], Some(one)),
            (Some(one), vec![one, other], Some(one)),
            (Some(one), vec![other], Some(other)),
            (Some(v6), vec![v6], None),
        ] {
            seeker.last = last;
            assert_eq!(seeker.public_end(&ends), expected, "{last:?} {ends:?}");
        }
    }

    #[tokio::test]
    async fn an_interface_or_range_without_a_usable_address_is_named() {
        let servers = vec!["http://127.0.0.1:7789".to_owned()];
        for (selection, named) in [
            (Selection { interface: Some("lo".to_owned()), cidrs: Vec::new() }, "interface lo"),
            (Selection { interface: None, cidrs: vec!["240.9.0.0/16".parse().unwrap()] }, "240.9.0.0/16"),
            (Selection { interface: Some("nic9".to_owned()), cidrs: Vec::new() }, "nic9"),
        ] {
            let mut seeker = Seeker::new(servers.clone(), listens("0.0.0.0:2"), selection);
            let error = seeker.seek().await.unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn of_several_addresses_the_one_in_use_stays_and_else_the_servers_family_decides() {
        let [v4, other, v6] = ["10.0.0.7", "10.0.0.8", "fd00::7"].map(|ip| ip.parse::<IpAddr>().unwrap());
        for (candidates, preferred, servers_v4, expected) in [
            (vec![v6, v4, other], Some(other), Some(false), Some(other)),
            (vec![v6, v4], Some(other), Some(true), Some(v4)),
            (vec![v4, v6], None, Some(false), Some(v6)),
            (vec![v6], None, Some(true), Some(v6)),
            (vec![v6, v4], None, None, Some(v6)),
            (vec![], Some(v4), Some(true), None),
        ] {
            assert_eq!(choose(&candidates, preferred, servers_v4), expected, "{candidates:?}");
        }
    }

    #[test]
    fn addresses_that_others_cannot_reach_are_told_apart() {
        for ip in ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "0.0.0.0", "::"] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["10.0.0.1", "192.168.1.1", "fd00::1"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}
