//! Where a server listens, and what it calls itself: from `--listen`, `--raft-listen`, `--advertise`,
//! and the list of `--cluster` or the member of `--join`.

mod joining;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

pub use joining::{joining_names, joining_raft_listen};

/// Raft port of a cluster of one, and of a server that joins one.
pub(super) const RAFT_PORT_DEFAULT: u16 = 7790;
/// How long a name of the list may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the addresses do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// An entry of `--cluster` is no `host:port`.
    #[error("could not read --cluster: {entry:?} is not host:port")]
    BadEntry {
        /// The entry.
        entry: String,
    },
    /// An entry stands twice in `--cluster`.
    #[error("could not read --cluster: {entry:?} is listed twice")]
    Duplicate {
        /// The entry.
        entry: String,
    },
    /// The entries of `--cluster` have several ports.
    #[error("could not tell this server's raft port: the entries of --cluster differ, give --raft-listen")]
    SeveralPorts,
    /// Raft would be readable and writable by whoever reaches the port.
    #[error(
        "could not listen for raft on {address}: it is not loopback and raft has no TLS; \
         give --insecure if only trusted hosts reach this port"
    )]
    NotLoopback {
        /// Where it would listen.
        address: SocketAddr,
    },
    /// `--join` is no `host:port`, or cannot be resolved.
    #[error(
        "could not tell under which name the others reach this server, towards {member}: give --advertise HOST"
    )]
    NoName {
        /// As given.
        member: String,
    },
    /// No entry of `--cluster` is an address of this host.
    #[error("could not find this host in --cluster {}: give --advertise HOST", list.join(","))]
    NotInList {
        /// The entries.
        list: Vec<String>,
    },
}

/// One entry of `--cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    text: String,
    host: String,
    port: u16,
}

fn entries(cluster: &[String]) -> Result<Vec<Entry>, AddressError> {
    let mut entries: Vec<Entry> = Vec::new();
    for text in cluster {
        let bad = || AddressError::BadEntry { entry: text.clone() };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let well_formed = match bare {
            Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '/', ' ', '[', ']']),
        };
        if !well_formed {
            return Err(bad());
        }
        let host = bare.unwrap_or(host).to_owned();
        let entry = Entry { text: text.clone(), host, port };
        if entries.contains(&entry) {
            return Err(AddressError::Duplicate { entry: text.clone() });
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Where raft listens.
pub fn raft_listen(
    given: Option<SocketAddr>,
    cluster: &[String],
    insecure: bool,
) -> Result<SocketAddr, AddressError> {
    let entries = entries(cluster)?;
    let address = match (given, &entries[..]) {
        (Some(address), _) => address,
        (None, []) => SocketAddr::from((Ipv4Addr::LOCALHOST, RAFT_PORT_DEFAULT)),
        (None, [first, rest @ ..]) if rest.iter().all(|entry| entry.port == first.port) => {
            let all_v6 = entries.iter().all(|entry| entry.host.parse::<Ipv6Addr>().is_ok());
            let ip = if all_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            SocketAddr::new(ip, first.port)
        }
        (None, _) => return Err(AddressError::SeveralPorts),
    };
    if !address.ip().is_loopback() && !insecure {
        return Err(AddressError::NotLoopback { address });
    }
    Ok(address)
}

/// What a server calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The list, with the server itself for a cluster of one.
    pub members: Vec<String>,
    /// Its own entry, if it is known.
    pub raft_address: Option<String>,
    /// `host:port` of its API.
    pub api_address: String,
}

/// The names of a server that listens on `api` and `raft`.
pub async fn names(
    cluster: &[String],
    advertise: Option<&str>,
    api: SocketAddr,
    raft: SocketAddr,
) -> Result<Names, AddressError> {
    let entries = entries(cluster)?;
    if entries.is_empty() {
        let host = |ip: IpAddr| if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip }.to_string();
        let named = |ip: IpAddr| advertise.map_or_else(|| host(ip), str::to_owned);
        let raft_address = host_port(&named(raft.ip()), raft.port());
        return Ok(Names {
            members: vec![raft_address.clone()],
            raft_address: Some(raft_address),
            api_address: host_port(&named(api.ip()), api.port()),
        });
    }
    let own = own_entry(&entries, advertise, raft).await;
    let host = match (advertise, own) {
        (Some(host), _) => host,
        (None, Some(entry)) => &entry.host,
        (None, None) => return Err(AddressError::NotInList { list: cluster.to_vec() }),
    };
    Ok(Names {
        members: cluster.to_vec(),
        raft_address: own.map(|entry| entry.text.clone()),
        api_address: host_port(host, api.port()),
    })
}

/// Finds itself: by the exact listener, by the advertised name, or by an address of this host.
async fn own_entry<'a>(entries: &'a [Entry], advertise: Option<&str>, raft: SocketAddr) -> Option<&'a Entry> {
    let same_port: Vec<_> = entries.iter().filter(|entry| entry.port == raft.port()).collect();
    if let Some(entry) = same_port.iter().find(|entry| entry.host.parse() == Ok(raft.ip())) {
        return Some(entry);
    }
    if let Some(entry) = same_port.iter().find(|entry| Some(entry.host.as_str()) == advertise) {
        return Some(entry);
    }
    for entry in same_port {
        if is_local(&entry.host).await {
            return Some(entry);
        }
    }
    None
}

/// Whether a name is this host's: one can listen on its address.
async fn is_local(host: &str) -> bool {
    let lookup = tokio::net::lookup_host((host, 0));
    match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
        Ok(Ok(mut addresses)) => {
            addresses.any(|address| UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok())
        }
        Ok(Err(_)) | Err(_) => false,
    }
}

/// `host:port` with brackets around an IPv6 address.
pub(super) fn host_port(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(v6) => format!("[{v6}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|entry| (*entry).to_owned()).collect()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn raft_listens_on_the_port_of_the_list_on_all_addresses() {
        let three = list(&["a:7790", "b:7790", "c:7790"]);
        assert_eq!(raft_listen(None, &three, true).unwrap(), address("0.0.0.0:7790"));
        let v6 = list(&["[fd00::1]:7790", "[fd00::2]:7790"]);
        assert_eq!(raft_listen(None, &v6, true).unwrap(), address("[::]:7790"));
        assert_eq!(raft_listen(None, &[], false).unwrap(), address("127.0.0.1:7790"));
        let different = list(&["a:7790", "b:7792"]);
        assert!(matches!(raft_listen(None, &different, true), Err(AddressError::SeveralPorts)));
        let given = address("10.0.0.1:7792");
        assert_eq!(raft_listen(Some(given), &different, true).unwrap(), given);
    }

    #[test]
    fn raft_in_the_clear_needs_consent_off_loopback() {
        let error = raft_listen(None, &list(&["a:7790", "b:7790"]), false).unwrap_err().to_string();
        assert!(error.contains("0.0.0.0:7790") && error.contains("--insecure"), "{error}");
        assert!(raft_listen(Some(address("127.0.0.1:1")), &list(&["127.0.0.1:1"]), false).is_ok());
        assert!(raft_listen(Some(address("[::1]:1")), &[], false).is_ok());
    }

    #[test]
    fn what_is_no_list_is_refused_with_the_entry() {
        for entry in ["a", "a:", ":7790", "a:0", "a:99999", "fd00::1:7790", "http://a:7790", "[x]:7790"] {
            let error = raft_listen(None, &list(&["b:7790", entry]), true).unwrap_err().to_string();
            assert!(error.contains(&format!("{entry:?} is not host:port")), "{error}");
        }
        let error = raft_listen(None, &list(&["a:1", "a:1"]), true).unwrap_err().to_string();
        assert!(error.contains("twice"), "{error}");
    }

    #[tokio::test]
    async fn a_server_finds_itself_in_the_list() {
        let three = list(&["240.0.0.1:7790", "127.0.0.1:7790", "127.0.0.1:7792"]);
        let names = names(&three, None, address("0.0.0.0:7789"), address("0.0.0.0:7790")).await.unwrap();
        assert_eq!(names.raft_address.as_deref(), Some("127.0.0.1:7790"));
        assert_eq!(names.api_address, "127.0.0.1:7789");
        assert_eq!(names.members, three);
    }

    #[tokio::test]
    async fn a_server_that_is_not_in_the_list_needs_a_name() {
        let far = list(&["240.0.0.1:7790", "240.0.0.2:7790"]);
        let (api, raft) = (address("0.0.0.0:7789"), address("0.0.0.0:7790"));
        let error = names(&far, None, api, raft).await.unwrap_err().to_string();
        assert!(error.contains("240.0.0.1:7790,240.0.0.2:7790") && error.contains("--advertise"), "{error}");
        let named = names(&far, Some("240.0.0.2"), api, raft).await.unwrap();
        assert_eq!(named.raft_address.as_deref(), Some("240.0.0.2:7790"));
        let other = names(&far, Some("fd00::9"), api, raft).await.unwrap();
        assert_eq!((other.raft_address, other.api_address.as_str()), (None, "[fd00::9]:7789"));
    }

    #[tokio::test]
    async fn a_cluster_of_one_names_itself() {
        let (api, raft) = (address("0.0.0.0:7789"), address("127.0.0.1:7790"));
        let one = names(&[], None, api, raft).await.unwrap();
        assert_eq!(one.members, ["127.0.0.1:7790"]);
        assert_eq!(one.api_address, "127.0.0.1:7789");
    }
}
