//! Starts and stops real processes. Each test has one temporary folder and free loopback ports; its processes
//! are killed by pid when dropped.

pub mod containerd;
pub mod image;
pub mod network;
pub mod origin;
#[path = "../support/ports.rs"]
mod ports;
pub mod process;
pub mod puller;
pub mod registry;
pub mod servers;
pub mod slow_link;

use std::future::Future;
use std::time::{Duration, Instant};

pub use containerd::{Agent, Containerd, Node};
pub use image::Image;
pub use network::Network;
pub(crate) use ports::{free_port, free_ports_in_a_row};
pub use process::Process;
pub use puller::{LayerImage, Puller};
pub use registry::{READER, Registry};
pub use servers::{Servers, find, find_if_up, keys_of};
pub use slow_link::SlowLink;

/// The binary under test.
pub const PICCOLO: &str = env!("CARGO_BIN_EXE_piccolo");
/// Time for steps without a promised duration: a daemon's start, an election on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Polls until `condition` returns a value; panics with `what` after `time`.
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

/// A client that uses no proxy.
pub fn http() -> reqwest::Client {
    // Only the first call installs it; the error of later ones is ignored.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap()
}

/// Body of a GET, whatever its status. Retries while there is no answer: a process may just have started, or
/// the machine be busy.
pub async fn text_of(url: &str) -> String {
    within(&format!("{url} answers"), SOON, || async { http().get(url).send().await.ok()?.text().await.ok() })
        .await
}

/// Status of a GET; `None` without an answer.
pub async fn status_of(url: &str) -> Option<u16> {
    http().get(url).send().await.ok().map(|answer| answer.status().as_u16())
}
