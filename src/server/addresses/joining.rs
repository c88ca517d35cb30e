//! The same of a server that waits to be admitted: it is in nobody's list.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::{AddressError, Names, RAFT_PORT_DEFAULT, RESOLVE_TIMEOUT, entries, host_port};

/// Where raft listens: as given, or on the usual port, on loopback only if the member is there.
pub fn joining_raft_listen(
    given: Option<SocketAddr>,
    member: &str,
    insecure: bool,
) -> Result<SocketAddr, AddressError> {
    let member = entries(&[member.to_owned()])?;
    let near = member.iter().all(|entry| {
        entry.host == "localhost" || entry.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    });
    let ip = if near { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let address = given.unwrap_or_else(|| SocketAddr::from((ip, RAFT_PORT_DEFAULT)));
    if !address.ip().is_loopback() && !insecure {
        return Err(AddressError::NotLoopback { address });
    }
    Ok(address)
}

/// The names of a server that listens on `api` and `raft`: as advertised, where it listens, or the
/// address of this host on the way to the member.
pub async fn joining_names(
    member: &str,
    advertise: Option<&str>,
    api: SocketAddr,
    raft: SocketAddr,
) -> Result<Names, AddressError> {
    let towards = match advertise {
        None if api.ip().is_unspecified() || raft.ip().is_unspecified() => Some(local_towards(member).await?),
        _ => None,
    };
    let host = |listens: IpAddr| match (advertise, towards) {
        (Some(name), _) => name.to_owned(),
        (None, Some(towards)) if listens.is_unspecified() => towards.to_string(),
        (None, _) => listens.to_string(),
    };
    Ok(Names {
        members: Vec::new(),
        raft_address: Some(host_port(&host(raft.ip()), raft.port())),
        api_address: host_port(&host(api.ip()), api.port()),
    })
}

/// A datagram socket tells its own address without sending anything.
async fn local_towards(member: &str) -> Result<IpAddr, AddressError> {
    let look = async {
        let target = tokio::net::lookup_host(member).await.ok()?.next()?;
        let any: SocketAddr = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().ok()?;
        let socket = UdpSocket::bind(any).await.ok()?;
        socket.connect(target).await.ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
    };
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, look).await.ok().flatten();
    found.ok_or_else(|| AddressError::NoName { member: member.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn raft_listens_like_the_member_and_needs_consent_off_loopback() {
        assert_eq!(joining_raft_listen(None, "127.0.0.1:7790", false).unwrap(), address("127.0.0.1:7790"));
        assert_eq!(joining_raft_listen(None, "10.0.0.1:7790", true).unwrap(), address("0.0.0.0:7790"));
        let error = joining_raft_listen(None, "node-1:7790", false).unwrap_err().to_string();
        assert!(error.contains("--insecure"), "{error}");
        let given = Some(address("127.0.0.1:9"));
        assert_eq!(joining_raft_listen(given, "node-1:7790", false).unwrap(), address("127.0.0.1:9"));
        assert!(matches!(joining_raft_listen(None, "node-1", true), Err(AddressError::BadEntry { .. })));
    }

    #[tokio::test]
    async fn it_is_called_as_it_is_reached() {
        let (api, raft) = (address("0.0.0.0:7789"), address("0.0.0.0:7790"));
        let names = joining_names("127.0.0.1:1", None, api, raft).await.unwrap();
        assert_eq!(
            (names.raft_address.as_deref(), names.api_address.as_str()),
            (Some("127.0.0.1:7790"), "127.0.0.1:7789")
        );
        let names = joining_names("no-such-host.invalid:1", Some("fd00::1"), api, raft).await.unwrap();
        assert_eq!(
            (names.raft_address.as_deref(), names.api_address.as_str()),
            (Some("[fd00::1]:7790"), "[fd00::1]:7789")
        );
        let names = joining_names("x:1", None, address("127.0.0.2:5"), address("127.0.0.3:6")).await.unwrap();
        assert_eq!(
            (names.raft_address.as_deref(), names.api_address.as_str()),
            (Some("127.0.0.3:6"), "127.0.0.2:5")
        );
        let error = joining_names("no-such-host.invalid:1", None, api, raft).await.unwrap_err().to_string();
        assert!(error.contains("--advertise"), "{error}");
    }
}
