//! Addresses and names of a server that waits to be admitted to a cluster: it is in no list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use piccolo_raft::cluster::NodeNames;
use piccolo_raft::network::names::Names;

use super::local::local_address_towards;
use super::{
    AddressError, Listens, RAFT_PORT_DEFAULT, Stored, all_take, check_listening, entries, host_port, look_up,
    loopback,
};

use crate::limits::{CLUSTER_RESOLVE_BRIEFLY, CLUSTER_RESOLVE_TIMEOUT};

/// The address on which raft listens: the given one, or the default port, on loopback only if the member is
/// there.
///
/// # Errors
/// If `member` is malformed, or if raft is open to other hosts although that is not allowed: `may_be_open`.
pub fn joining_raft_listen(
    given: Option<SocketAddr>,
    member: &str,
    may_be_open: bool,
) -> Result<SocketAddr, AddressError> {
    let member = entries(&[member.to_owned()])?;
    let near = member.iter().all(|entry| loopback(entry).is_some());
    let ip = if near { IpAddr::from(Ipv4Addr::LOCALHOST) } else { Ipv6Addr::UNSPECIFIED.into() };
    let address = given.unwrap_or_else(|| SocketAddr::from((ip, RAFT_PORT_DEFAULT)));
    if !address.ip().is_loopback() && !may_be_open {
        return Err(AddressError::NotLoopback { address });
    }
    Ok(address)
}

/// The names of a server that listens on `api` and `raft`: the advertised host, the address on which it
/// listens, or the address of this host on the way to the member. A server with data that does not find this
/// address at once is what its data says.
///
/// # Errors
/// If the way to the member is not known, or if the others would be told a name under which nothing listens.
pub async fn joining_names(
    member: &str,
    advertise: Option<&str>,
    api: SocketAddr,
    raft: SocketAddr,
    stored: Option<&Stored>,
    known: &Names,
) -> Result<NodeNames, AddressError> {
    let open: Vec<SocketAddr> = [api, raft].into_iter().filter(|at| at.ip().is_unspecified()).collect();
    let is_open = !open.is_empty();
    let towards = match (advertise, stored) {
        (None, Some(stored)) if is_open => match local_towards(member, true, &open, known).await {
            Ok(ip) if !stored.is_here(known) => Some(ip),
            _ => return Ok(stored.names(&[], api, raft, known)),
        },
        (None, None) if is_open => Some(local_towards(member, false, &open, known).await?),
        _ => None,
    };
    let host = |listens: IpAddr| match (advertise, towards) {
        (Some(name), _) => name.to_owned(),
        (None, Some(towards)) if listens.is_unspecified() => towards.to_string(),
        (None, _) => listens.to_string(),
    };
    check_listening(&host(raft.ip()), Listens::raft(raft, advertise.is_some()))?;
    check_listening(&host(api.ip()), Listens::api(api, advertise.is_some()))?;
    Ok(NodeNames {
        members: Vec::new(),
        raft_address: Some(host_port(&host(raft.ip()), raft.port())),
        api_address: host_port(&host(api.ip()), api.port()),
        api_host_follows: false,
    })
}

/// The address of this host on the way to the member: the first one at which all of `open` listen, otherwise
/// the first of all, which [`check_listening`] refuses with the reason.
async fn local_towards(
    member: &str,
    briefly: bool,
    open: &[SocketAddr],
    known: &Names,
) -> Result<IpAddr, AddressError> {
    let patience = if briefly { CLUSTER_RESOLVE_BRIEFLY } else { CLUSTER_RESOLVE_TIMEOUT };
    let no_name = |reason| AddressError::NoName { member: member.to_owned(), reason };
    let (host, port) = member.rsplit_once(':').unwrap_or((member, ""));
    let ips = look_up(host, patience, known).await.map_err(no_name)?;
    let port = port.parse().unwrap_or(RAFT_PORT_DEFAULT);
    let local = ips.into_iter().filter_map(|ip| local_address_towards(SocketAddr::new(ip, port)));
    let local: Vec<IpAddr> = local.collect();
    let taken = local.iter().find(|ip| all_take(open.iter().copied(), **ip));
    taken.or(local.first()).copied().ok_or_else(|| no_name("this host has no route to it".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use piccolo_raft::network::names::{Resolve, SystemResolver};

    use super::*;

    /// A resolver that knows an address of each family for every name, IPv6 first.
    #[derive(Debug)]
    struct Both;

    impl Resolve for Both {
        fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            let both = [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
            std::future::ready(Ok(both.to_vec())).boxed()
        }
    }

    /// The names of a server without data.
    async fn joining_names(
        member: &str,
        advertise: Option<&str>,
        api: SocketAddr,
        raft: SocketAddr,
    ) -> Result<NodeNames, AddressError> {
        let known = Names::new(Arc::new(SystemResolver));
        super::joining_names(member, advertise, api, raft, None, &known).await
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn raft_listens_like_the_member_and_needs_consent_off_loopback() {
        assert_eq!(joining_raft_listen(None, "127.0.0.1:7790", false).unwrap(), address("127.0.0.1:7790"));
        assert_eq!(joining_raft_listen(None, "10.0.0.1:7790", true).unwrap(), address("[::]:7790"));
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
        let (v6_api, v6_raft) = (address("[::]:7789"), address("[::]:7790"));
        let names = joining_names("no-such-host.invalid:1", Some("fd00::1"), v6_api, v6_raft).await.unwrap();
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

    #[tokio::test]
    async fn it_is_called_by_an_address_at_which_it_listens() {
        let known = Names::new(Arc::new(Both));
        let names = async |api: &str, raft: &str| {
            super::joining_names("m:7790", None, address(api), address(raft), None, &known).await
        };
        let own = names("0.0.0.0:7789", "0.0.0.0:7790").await.unwrap();
        assert_eq!(own.raft_address.as_deref(), Some("127.0.0.1:7790"));
        let own = names("127.0.0.1:7789", "[::]:7790").await.unwrap();
        assert_eq!(own.raft_address.as_deref(), Some("[::1]:7790"), "the API has an address of its own");
        assert_eq!(own.api_address, "127.0.0.1:7789");
    }
}
