//! Starts and stops the real parts. Everything lives in one temporary folder a test, listens on
//! free loopback ports, and is killed by its pid when dropped.

pub mod containerd;
pub mod image;
pub mod origin;
pub mod process;
pub mod registry;
pub mod servers;

use std::future::Future;
use std::net::TcpListener;
use std::time::{Duration, Instant};

pub use containerd::{Agent, Containerd, Node};
pub use image::Image;
pub use process::Process;
pub use registry::Registry;
pub use servers::{Servers, find, keys_of};

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

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The first of `count` free ports in a row.
pub fn free_ports_in_a_row(count: u16) -> u16 {
    let all_free = |base: u16| {
        let held: Vec<_> =
            (0..count).map_while(|n| TcpListener::bind(("127.0.0.1", base + n)).ok()).collect();
        held.len() == usize::from(count)
    };
    (0..100)
        .map(|_| free_port())
        .find(|base| base.checked_add(count).is_some() && all_free(*base))
        .expect("a hundred tries find free ports")
}

/// Status of a GET, `None` if nobody answers.
pub async fn status_of(url: &str) -> Option<u16> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    client.get(url).send().await.ok().map(|answer| answer.status().as_u16())
}
