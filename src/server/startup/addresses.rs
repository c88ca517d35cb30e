//! The addresses on which a server listens, and the names under which the others reach it. They follow from
//! `--listen`, `--raft-listen` and `--advertise`, and from the list of `--cluster` or the member of `--join`.

mod joining;
mod local;
mod stored;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use piccolo_raft::cluster::NodeNames;
use piccolo_raft::network::names::Names;

pub use joining::{joining_names, joining_raft_listen};
use local::is_local;
pub use stored::Stored;

use crate::limits::{CLUSTER_RESOLVE_BRIEFLY, CLUSTER_RESOLVE_TIMEOUT};

/// Raft port of a cluster of one, and of a server that joins one.
pub const RAFT_PORT_DEFAULT: u16 = 7790;

/// Why the addresses of a server do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// An entry of `--cluster` is not `host:port`.
    #[error("could not read --cluster: {entry:?} is not host:port")]
    BadEntry {
        /// The entry as it was given.
        entry: String,
    },
    /// An entry stands twice in `--cluster`.
    #[error("could not read --cluster: {entry:?} is listed twice")]
    Duplicate {
        /// The entry as it was given.
        entry: String,
    },
    /// The entries of `--cluster` have several ports.
    #[error("could not tell this server's raft port: the entries of --cluster differ, give --raft-listen")]
    SeveralPorts,
    /// Everybody who reaches the raft port could read and write.
    #[error(
        "could not listen for raft on {address}: it is not loopback, and connections in the clear are taken; \
         give --cluster-secret FILE (piccolo cluster-secret create) and no --tls, or --insecure if only trusted \
         hosts reach this port"
    )]
    NotLoopback {
        /// The address on which raft would listen.
        address: SocketAddr,
    },
    /// The same, where all servers of `--cluster` are on this host: loopback is enough for raft.
    #[error(
        "could not listen for raft on {address}: it is not loopback, and connections in the clear are taken; the \
         servers of --cluster are on loopback, so give --raft-listen with the entry of this server, such as {near}"
    )]
    NotLoopbackThoughNear {
        /// The address on which raft would listen.
        address: SocketAddr,
        /// A loopback address on which it could listen instead.
        near: SocketAddr,
    },
    /// The way to the member of `--join` is not known: its name cannot be resolved, or there is no route.
    #[error(
        "could not tell under which name the others reach this server, towards {member} ({reason}): waits for \
         that, or give --advertise HOST"
    )]
    NoName {
        /// The member as it was given.
        member: String,
        /// Why the way is not known.
        reason: String,
    },
    /// The others would be told a name under which nothing listens.
    #[error(
        "could not tell others {host} as the address of {what}: it listens on {listens}, which takes no \
         connection to {host}; give {option} [::]:{} for all addresses, or a name that leads there with \
         --advertise HOST", listens.port()
    )]
    NotListening {
        /// The host that the others would be told.
        host: String,
        /// What they would look for there: the discovery API or raft.
        what: &'static str,
        /// The option with the address on which it listens.
        option: &'static str,
        /// The address on which it listens.
        listens: SocketAddr,
    },
    /// No entry of `--cluster` is an address of this host.
    #[error(
        "could not find this host in --cluster {}{}: waits for an address of it, or give --advertise HOST",
        list.join(","),
        unknown(failures)
    )]
    NotInList {
        /// The entries of `--cluster`.
        list: Vec<String>,
        /// Why names of the list could not be resolved.
        failures: Vec<String>,
    },
}

fn unknown(failures: &[String]) -> String {
    if failures.is_empty() { String::new() } else { format!(" ({})", failures.join("; ")) }
}

impl AddressError {
    /// Whether the reason may pass although nobody changes anything: DNS comes back, or an interface gets its
    /// address.
    pub fn may_pass(&self) -> bool {
        matches!(self, AddressError::NoName { .. } | AddressError::NotInList { .. })
    }
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

/// The address on which raft listens.
///
/// # Errors
/// If the list is malformed, or if raft is open to other hosts although that is not allowed: `may_be_open`.
pub fn raft_listen(
    given: Option<SocketAddr>,
    cluster: &[String],
    may_be_open: bool,
) -> Result<SocketAddr, AddressError> {
    let entries = entries(cluster)?;
    let address = match (given, &entries[..]) {
        (Some(address), _) => address,
        (None, []) => SocketAddr::from((Ipv4Addr::LOCALHOST, RAFT_PORT_DEFAULT)),
        (None, [first, rest @ ..]) if rest.iter().all(|entry| entry.port == first.port) => {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, first.port))
        }
        (None, _) => return Err(AddressError::SeveralPorts),
    };
    if address.ip().is_loopback() || may_be_open {
        return Ok(address);
    }
    let near: Vec<SocketAddr> = entries.iter().filter_map(loopback).collect();
    let all_near = near.len() == entries.len() && given.is_none();
    Err(match near.first().filter(|_| all_near) {
        Some(&near) => AddressError::NotLoopbackThoughNear { address, near },
        None => AddressError::NotLoopback { address },
    })
}

/// The address of an entry that is on loopback.
fn loopback(entry: &Entry) -> Option<SocketAddr> {
    let ip = match entry.host.as_str() {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.parse::<IpAddr>().ok().filter(IpAddr::is_loopback)?,
    };
    Some(SocketAddr::new(ip, entry.port))
}

/// The names of a server that listens on `api` and `raft`. A server with data (`stored`) is what its data
/// says: it does not wait for names to be resolved.
///
/// # Errors
/// If the server does not find itself in the list, or would be told to others by a name under which it does
/// not listen.
pub async fn names(
    cluster: &[String],
    advertise: Option<&str>,
    api: SocketAddr,
    raft: SocketAddr,
    stored: Option<&Stored>,
    known: &Names,
) -> Result<NodeNames, AddressError> {
    let entries = entries(cluster)?;
    if entries.is_empty() {
        return alone(advertise, api, raft);
    }
    let own = own_entry(&entries, advertise, raft, stored, known).await;
    let host = match (advertise, &own) {
        (Some(host), _) => host,
        (None, Ok(entry)) => &entry.host,
        (None, Err(failures)) => {
            let Some(stored) = stored else {
                let (list, failures) = (cluster.to_vec(), failures.clone());
                return Err(AddressError::NotInList { list, failures });
            };
            return Ok(stored.names(cluster, api, raft, known));
        }
    };
    check_listening(host, Listens::api(api, advertise.is_some()))?;
    if let Ok(entry) = own {
        check_listening(&entry.host, Listens::raft(raft, advertise.is_some()))?;
    }
    Ok(NodeNames {
        members: cluster.to_vec(),
        raft_address: own.as_ref().ok().map(|entry| entry.text.clone()),
        api_address: host_port(host, api.port()),
        api_host_follows: false,
    })
}

/// The names of the only server of a cluster.
fn alone(advertise: Option<&str>, api: SocketAddr, raft: SocketAddr) -> Result<NodeNames, AddressError> {
    let host = |ip: IpAddr| if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip }.to_string();
    let named = |ip: IpAddr| advertise.map_or_else(|| host(ip), str::to_owned);
    check_listening(&named(raft.ip()), Listens::raft(raft, advertise.is_some()))?;
    check_listening(&named(api.ip()), Listens::api(api, advertise.is_some()))?;
    let raft_address = host_port(&named(raft.ip()), raft.port());
    Ok(NodeNames {
        members: vec![raft_address.clone()],
        raft_address: Some(raft_address),
        api_address: host_port(&named(api.ip()), api.port()),
        api_host_follows: false,
    })
}

/// Finds this server in the list: by the exact address of its listener, by the advertised name, by the name
/// that its data says, or by an address of this host. If it is not there, the error says which names could
/// not be resolved, and why.
async fn own_entry<'a>(
    entries: &'a [Entry],
    advertise: Option<&str>,
    raft: SocketAddr,
    stored: Option<&Stored>,
    known: &Names,
) -> Result<&'a Entry, Vec<String>> {
    let same_port: Vec<_> = entries.iter().filter(|entry| entry.port == raft.port()).collect();
    let literal = |entry: &Entry| entry.host.parse::<IpAddr>().ok();
    let is_stored = |entry: &Entry| stored.is_some_and(|stored| stored.raft_address == entry.text);
    let by_text = |is_it: &dyn Fn(&Entry) -> bool| same_port.iter().find(|entry| is_it(entry)).copied();
    let own = by_text(&|entry| literal(entry) == Some(raft.ip()))
        .or_else(|| by_text(&|entry| Some(entry.host.as_str()) == advertise))
        .or_else(|| by_text(&|entry| literal(entry).is_none() && is_stored(entry)))
        .or_else(|| by_text(&|entry| literal(entry).is_some_and(is_local)));
    if let Some(own) = own {
        return Ok(own);
    }
    // With an advertised name that is in no entry the others find this server by its own list.
    let patience = if stored.is_some() { CLUSTER_RESOLVE_BRIEFLY } else { CLUSTER_RESOLVE_TIMEOUT };
    let names = same_port.into_iter().filter(|entry| literal(entry).is_none());
    let looked_up =
        join_all(names.map(|entry| async move { (entry, look_up(&entry.host, patience, known).await) }));
    let mut failures = Vec::new();
    for (entry, found) in looked_up.await {
        match found {
            Ok(ips) if ips.iter().copied().any(is_local) => return Ok(entry),
            Ok(_) => {}
            Err(reason) => failures.push(reason),
        }
    }
    Err(failures)
}

/// The addresses of a name, or why there are none within `patience`.
async fn look_up(host: &str, patience: Duration, known: &Names) -> Result<Vec<IpAddr>, String> {
    let late = |_| Err(format!("no answer yet to where {host} is"));
    tokio::time::timeout(patience, known.addresses(host)).await.unwrap_or_else(late)
}

/// A listener of this server.
#[derive(Clone, Copy)]
struct Listens {
    what: &'static str,
    option: &'static str,
    address: SocketAddr,
    /// Whether the operator says with `--advertise` under which name it is reached: that may be the name of a
    /// proxy, or of an address that is translated.
    is_advertised: bool,
}

impl Listens {
    fn api(address: SocketAddr, is_advertised: bool) -> Self {
        Self { what: "the discovery API", option: "--listen", address, is_advertised }
    }

    fn raft(address: SocketAddr, is_advertised: bool) -> Self {
        Self { what: "raft", option: "--raft-listen", address, is_advertised }
    }

    /// Whether a connection to `ip` may arrive.
    fn takes(&self, ip: IpAddr) -> bool {
        match self.address.ip().to_canonical() {
            // All addresses of both families.
            IpAddr::V6(own) if own.is_unspecified() => true,
            own if own.is_ipv4() != ip.is_ipv4() => false,
            own => own.is_unspecified() || own == ip || self.is_advertised || !own.is_loopback(),
        }
    }
}

/// Whether a connection to `ip` may arrive at each of these listeners.
fn all_take(listeners: impl IntoIterator<Item = SocketAddr>, ip: IpAddr) -> bool {
    listeners.into_iter().all(|address| Listens::raft(address, false).takes(ip))
}

/// Checks that a connection to `host` may arrive at this listener, as far as the text of an address shows
/// that.
fn check_listening(host: &str, listens: Listens) -> Result<(), AddressError> {
    match host.parse::<IpAddr>() {
        Ok(ip) if !listens.takes(ip) => {
            let Listens { what, option, address, .. } = listens;
            Err(AddressError::NotListening { host: host.to_owned(), what, option, listens: address })
        }
        _ => Ok(()),
    }
}

/// Writes `host:port`, with brackets around an IPv6 address.
pub fn host_port(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(v6) => format!("[{v6}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use piccolo_raft::network::names::SystemResolver;

    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|entry| (*entry).to_owned()).collect()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// The names of a server without data.
    async fn names(
        cluster: &[String],
        advertise: Option<&str>,
        api: SocketAddr,
        raft: SocketAddr,
    ) -> Result<NodeNames, AddressError> {
        super::names(cluster, advertise, api, raft, None, &Names::new(Arc::new(SystemResolver))).await
    }

    #[test]
    fn raft_listens_on_the_port_of_the_list_on_all_addresses() {
        let three = list(&["a:7790", "b:7790", "c:7790"]);
        assert_eq!(raft_listen(None, &three, true).unwrap(), address("[::]:7790"));
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
        assert!(error.contains("[::]:7790") && error.contains("--insecure"), "{error}");
        for near in [&["127.0.0.1:1"][..], &["127.0.0.1:1", "localhost:1", "[::1]:1"]] {
            let error = raft_listen(None, &list(near), false).unwrap_err().to_string();
            assert!(
                error.contains("give --raft-listen") && error.ends_with("such as 127.0.0.1:1"),
                "{error}"
            );
            assert!(!error.contains("--insecure"), "{error}");
        }
        let given = raft_listen(Some(address("0.0.0.0:1")), &list(&["127.0.0.1:1"]), false);
        assert!(given.unwrap_err().to_string().contains("--insecure"), "it is what was asked for");
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
        let api = address("[::]:7789");
        let other = names(&far, Some("fd00::9"), api, raft).await.unwrap();
        assert_eq!((other.raft_address, other.api_address.as_str()), (None, "[fd00::9]:7789"));
    }

    #[test]
    fn a_name_is_given_to_others_only_if_the_port_takes_connections_to_it() {
        let cases = [
            ("fd00::1", "[::]:1", false, true),
            ("10.0.0.1", "[::]:1", false, true),
            ("10.0.0.1", "0.0.0.0:1", false, true),
            ("fd00::1", "0.0.0.0:1", false, false),
            ("fd00::1", "0.0.0.0:1", true, false),
            ("10.0.0.1", "[fd00::1]:1", true, false),
            ("10.0.0.1", "127.0.0.1:1", false, false),
            ("10.0.0.1", "127.0.0.1:1", true, true),
            ("127.0.0.1", "127.0.0.1:1", false, true),
            ("203.0.113.7", "10.0.0.1:1", false, true),
            ("node-1", "127.0.0.1:1", false, true),
        ];
        for (host, listens, advertised, expected) in cases {
            let checked = check_listening(host, Listens::api(address(listens), advertised));
            assert_eq!(checked.is_ok(), expected, "{host} at {listens}, advertised: {advertised}");
        }
    }

    #[tokio::test]
    async fn a_server_that_would_tell_members_where_it_does_not_listen_does_not_start() {
        let three = list(&["127.0.0.1:7790", "240.0.0.2:7790"]);
        let (v4, v6) = (address("0.0.0.0:7789"), address("[::1]:7789"));
        assert!(names(&three, None, v4, address("[::]:7790")).await.is_ok());
        let error = names(&three, None, v6, address("[::]:7790")).await.unwrap_err().to_string();
        assert!(error.contains("127.0.0.1") && error.contains("--listen [::]:7789"), "{error}");
        let error = names(&[], Some("fd00::1"), v4, v4).await.unwrap_err().to_string();
        assert!(error.contains("fd00::1") && error.contains("--raft-listen"), "{error}");
    }

    #[tokio::test]
    async fn a_cluster_of_one_names_itself() {
        let (api, raft) = (address("0.0.0.0:7789"), address("127.0.0.1:7790"));
        let one = names(&[], None, api, raft).await.unwrap();
        assert_eq!(one.members, ["127.0.0.1:7790"]);
        assert_eq!(one.api_address, "127.0.0.1:7789");
    }
}
