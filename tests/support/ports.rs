//! Ports for the processes that tests start. No two tests of this machine are given the same one, whichever
//! test process or checkout they belong to.
//!
//! A test has to know a port before the process that will listen on it runs, and a server that was killed
//! must find its own port free. So a port is claimed for as long as the test process lives: by an abstract
//! Unix socket of that number, which the kernel removes with the process. Like ports, such names belong to a
//! network namespace.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Below the range that the kernel gives to outgoing connections: one of those would take a port between the
/// claim and the start of the process that wants it.
const PORTS: Range<u16> = 12_000..32_000;
/// Test processes begin at different places, so that they seldom try what another one has claimed.
const STRIDE: usize = 1_237;

/// What this process has claimed.
static CLAIMED: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A port of loopback that nobody listens on, and that no other test is given.
pub(crate) fn free_port() -> u16 {
    free_ports_in_a_row(1)
}

/// An address with such a port.
pub(crate) fn free_address() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), free_port())
}

/// Several such ports.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    (0..count).map(|_| free_port()).collect()
}

/// The first of `count` such ports in a row.
pub(crate) fn free_ports_in_a_row(count: u16) -> u16 {
    let span = PORTS.len() - usize::from(count);
    let start = std::process::id() as usize * STRIDE;
    for _ in 0..span {
        let place = start + NEXT.fetch_add(usize::from(count), Ordering::Relaxed);
        let base = PORTS.start + (place % span) as u16;
        let claims: Option<Vec<_>> = (base..base + count).map(claim).collect();
        if let Some(claims) = claims {
            CLAIMED.lock().expect("nothing panics while it is locked").extend(claims);
            return base;
        }
    }
    panic!("could not find {count} free ports in a row in {PORTS:?}");
}

/// Claims a port among tests, if nobody else listens on it or was connected by it a moment ago.
fn claim(port: u16) -> Option<UnixDatagram> {
    let name = format!("piccolo-test-port-{port}");
    let name = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("the name is short");
    let claim = match UnixDatagram::bind_addr(&name) {
        Ok(claim) => claim,
        Err(error) if error.kind() == ErrorKind::AddrInUse => return None,
        Err(error) => panic!("could not claim port {port}: {error}"),
    };
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok().then_some(claim)
}
