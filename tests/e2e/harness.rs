//! Starts and stops the real parts. Everything lives in one temporary folder a test, listens on
//! free loopback ports, and is killed by its pid when dropped.

pub mod containerd;
pub mod image;
pub mod network;
pub mod origin;
pub mod process;
pub mod puller;
pub mod registry;
pub mod servers;

use std::future::Future;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub use containerd::{Agent, Containerd, Node};
pub use image::Image;
pub use network::Network;
pub use process::Process;
pub use puller::{LayerImage, Puller};
pub use registry::{READER, Registry};
pub use servers::{Servers, find, find_if_up, keys_of};

/// The binary under test.
pub const PICCOLO: &str = env!("CARGO_BIN_EXE_piccolo");
/// For what is no promise: starting a daemon, an election on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Polls until `condition` gives a value; panics with `what` when the time is over.
pub async fn within<T, F: Future<Output = Option<T>>>(
    what: &str,
    time: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + time;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < end, "not within {time:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Polls for `time` and panics as soon as `condition` holds.
pub async fn never_for<F: Future<Output = bool>>(
    what: &str,
    time: Duration,
    mut condition: impl FnMut() -> F,
) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(!condition().await, "happened: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Below the range that the kernel gives to outgoing connections: one of those must not take a port
/// between our look and the start of the daemon that wants it.
const PORTS: std::ops::Range<u16> = 15_000..30_000;
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A port that was free a moment ago, and that no other test of this process is given.
pub fn free_port() -> u16 {
    free_ports_in_a_row(1)
}

/// The first of `count` free ports in a row.
pub fn free_ports_in_a_row(count: u16) -> u16 {
    let all_free =
        |base: u16| (base..base + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    let span = PORTS.end - PORTS.start - count;
    // Test processes that run side by side start far from each other.
    let start = (std::process::id() % 89) as u16 * 167;
    let next = || PORTS.start + (start + NEXT_PORT.fetch_add(count, Ordering::Relaxed)) % span;
    (0..1000).map(|_| next()).find(|base| all_free(*base)).expect("there are free ports")
}

/// A client that asks straight.
pub fn http() -> reqwest::Client {
    // The first call decides; later ones are told so, which is no error here.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap()
}

/// Status of a GET, `None` if nobody answers.
pub async fn status_of(url: &str) -> Option<u16> {
    http().get(url).send().await.ok().map(|answer| answer.status().as_u16())
}
