//! Opening a port: on one address, or on all addresses of both families.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

use super::occupant::{self, Occupant};

use crate::limits::ACCEPT_BACKLOG;

/// A listener that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address} for {what}{}", hint(source, occupant.as_ref()))]
pub struct BindError {
    /// What was to be served there.
    pub what: &'static str,
    /// The address asked for.
    pub address: SocketAddr,
    /// The process that listens there already, if it can be found.
    pub occupant: Option<Occupant>,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

fn hint(error: &io::Error, occupant: Option<&Occupant>) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let who = occupant.map_or_else(|| "another process".to_owned(), Occupant::to_string);
            format!(", which {who} holds: stop it or choose another port")
        }
        io::ErrorKind::AddrNotAvailable => ", which this host does not have".to_owned(),
        _ => String::new(),
    }
}

/// Listens on `address`; `what` names the use in errors. `[::]` means all addresses of this host, IPv4
/// included; where IPv6 is off, all IPv4 addresses.
pub async fn bind(address: SocketAddr, what: &'static str) -> Result<TcpListener, BindError> {
    let listening = match listen(address) {
        Err(error) => match without_ipv6(address, &error) {
            Some(v4) => {
                tracing::info!(%address, instead = %v4, "IPv6 is off on this host: listening for {what} on IPv4");
                listen(v4)
            }
            None => Err(error),
        },
        listening => listening,
    };
    listening.map_err(|source| {
        let occupied = source.kind() == io::ErrorKind::AddrInUse;
        BindError { what, address, occupant: occupied.then(|| occupant::of(address)).flatten(), source }
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    }?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Whatever the sysctl net.ipv6.bindv6only says.
        socket2::SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_BACKLOG)
}

/// The address to listen on instead, if listening on all addresses of both families failed with `error`
/// because IPv6 is off.
fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let is_off = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    let is_any = address.is_ipv6() && address.ip().is_unspecified();
    (is_any && is_off).then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_addresses_fall_back_to_those_of_ipv4_and_only_where_ipv6_is_off() {
        let off = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL];
        let in_use = rustix::io::Errno::ADDRINUSE;
        for (address, errno, expected) in [
            ("[::]:7781", off[0], Some("0.0.0.0:7781")),
            ("[::]:7781", off[1], Some("0.0.0.0:7781")),
            ("[::]:7781", in_use, None),
            ("[::1]:7781", off[0], None),
            ("[fd00::7]:7781", off[1], None),
            ("0.0.0.0:7781", off[1], None),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(without_ipv6(address.parse().unwrap(), &error), expected, "{address}: {error}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let held = bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
        let address = held.local_addr().unwrap();
        let message = bind(address, "the mirror").await.unwrap_err().to_string();
        assert!(message.contains(&address.to_string()) && message.contains("the mirror"), "{message}");
        assert!(message.contains(&format!("process {} (", std::process::id())), "{message}");
    }
}
