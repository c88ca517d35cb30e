//! The address under which peers reach this node, when nobody gives it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{UdpSocket, lookup_host};

/// Addresses for documentation (RFC 5737, RFC 3849): routed like any other, never ours.
const ELSEWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// No address was found.
#[derive(Debug, thiserror::Error)]
#[error("could not find out the address under which peers reach this node: give it with --advertise IP:PORT")]
pub struct AdvertiseError;

/// What peers are told: `given`, or the address that the peer port listens on, or the local end of a
/// connection to the first server, or (beside a loopback server) the address of the default route.
/// `peer` is where the peer port listens.
pub(crate) async fn address(
    given: Option<SocketAddr>,
    peer: SocketAddr,
    servers: &[String],
) -> Result<SocketAddr, AdvertiseError> {
    if let Some(given) = given {
        let port = if given.port() == 0 { peer.port() } else { given.port() };
        return Ok(SocketAddr::new(given.ip(), port));
    }
    if !peer.ip().is_unspecified() {
        return Ok(peer);
    }
    let mut loopback = None;
    for server in servers {
        for target in resolve(server).await {
            match local_end(peer, target).await {
                Some(ip) if is_public(ip) => return Ok(SocketAddr::new(ip, peer.port())),
                Some(ip) if ip.is_loopback() => loopback = loopback.or(Some(ip)),
                _ => {}
            }
        }
        if loopback.is_some() {
            break;
        }
    }
    for target in ELSEWHERE {
        if let Some(ip) = local_end(peer, target).await.filter(|ip| is_public(*ip)) {
            return Ok(SocketAddr::new(ip, peer.port()));
        }
    }
    // Servers on loopback and no route to anywhere: all there is of this cluster is this host.
    loopback.map(|ip| SocketAddr::new(ip, peer.port())).ok_or(AdvertiseError)
}

async fn resolve(server: &str) -> Vec<SocketAddr> {
    let Ok(uri) = server.parse::<axum::http::Uri>() else { return Vec::new() };
    let Some(host) = uri.host() else { return Vec::new() };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match lookup_host((host, uri.port_u16().unwrap_or(80))).await {
        Ok(found) => found.collect(),
        Err(error) => {
            tracing::warn!(server, %error, "could not resolve a discovery server");
            Vec::new()
        }
    }
}

/// The address that packets to `target` would leave from. Connecting a UDP socket sends none.
async fn local_end(peer: SocketAddr, target: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        // A peer port on 0.0.0.0 is not reached over IPv6.
        SocketAddr::V6(_) if peer.is_ipv4() => return None,
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(target).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Not loopback, link-local or unspecified: another node may reach it.
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

    async fn found(given: Option<&str>, peer: &str, server: &str) -> SocketAddr {
        let given = given.map(|given| given.parse().unwrap());
        address(given, peer.parse().unwrap(), &[server.to_owned()]).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_given_wins_and_then_where_the_peer_port_listens() {
        let server = "http://127.0.0.1:7789";
        assert_eq!(found(Some("10.9.8.7:1"), "0.0.0.0:2", server).await, "10.9.8.7:1".parse().unwrap());
        assert_eq!(found(Some("10.9.8.7:0"), "0.0.0.0:2", server).await, "10.9.8.7:2".parse().unwrap());
        assert_eq!(found(None, "127.0.0.5:2", server).await, "127.0.0.5:2".parse().unwrap());
    }

    /// B9: the Go version advertises `0.0.0.0` literally.
    #[tokio::test]
    async fn an_unspecified_address_is_never_advertised() {
        for server in ["http://127.0.0.1:7789", "http://[::1]:7789", "http://localhost:7789/prefix"] {
            for peer in ["0.0.0.0:2", "[::]:2"] {
                let peer = peer.parse().unwrap();
                // On a host without any route, and a server of the other family, there is none at all.
                if let Ok(found) = address(None, peer, &[server.to_owned()]).await {
                    assert!(!found.ip().is_unspecified() && found.port() == 2, "{found}");
                    assert!(peer.is_ipv6() || found.is_ipv4(), "{found} is not reached at {peer}");
                }
            }
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
