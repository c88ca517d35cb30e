//! Ports for the processes of tests. No two tests on this machine get the same one, whichever process or
//! checkout they are in.
//!
//! A test has to know a port before its process listens on it, and a killed server must find its port free
//! again. So a port is claimed as long as the test process lives: by an abstract Unix socket with that number
//! as its name, which the kernel removes with the process. Like ports, such names belong to a network
//! namespace.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Below the kernel's range for outgoing connections: such a connection could take a port between the claim
/// and the start of the process.
const PORTS: Range<u16> = 12_000..32_000;
/// Test processes begin at different ports, so that they rarely try claimed ones.
const STRIDE: usize = 1_237;

/// Claims of this process.
static CLAIMED: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A free loopback port that no other test gets.
pub(crate) fn free_port() -> u16 {
    free_ports_in_a_row(1)
}

/// A loopback address with a free port.
pub(crate) fn free_address() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), free_port())
}

/// Several free ports.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    (0..count).map(|_| free_port()).collect()
}

/// The first of `count` consecutive free ports.
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

/// Claims a port among tests, unless a process listens on it or a connection used it a moment ago.
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
