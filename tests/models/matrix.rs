//! The fault matrix: a model of each version of containerd pulls through the real mirror.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout;

use crate::blob::Blob;
use crate::cells::{AtOnce, Cell, Fault, PULL_WITHIN, all_pass, indented};
use crate::containerd::{Attempt, Containerd, Host, Store, Version};
use crate::fault::Place;
use crate::product::Piccolo;
use crate::scripted::{Scripted, good};

const AT_ONCE: AtOnce = AtOnce { cells: 24, large: 6 };
/// Number of chunks of one blob in the parallel mode.
const CHUNKS: u64 = 8;

/// Settings of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Client {
    version: Version,
    parallel: bool,
}

/// A cell with a modelled containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Modelled {
    client: Client,
    fault: Fault,
}

const CLIENTS: [Client; 5] = [
    Client { version: Version::V1_6, parallel: false },
    Client { version: Version::V2_1, parallel: false },
    Client { version: Version::V2_1, parallel: true },
    Client { version: Version::V2_3, parallel: false },
    Client { version: Version::V2_3, parallel: true },
];

impl fmt::Display for Modelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.client.parallel { " parallel" } else { "" };
        write!(f, "{}{mode} | {}", self.client.version.name(), self.fault)
    }
}

impl Cell for Modelled {
    type Site = Piccolo;

    fn fault(self) -> Fault {
        self.fault
    }

    async fn run(self, piccolo: &Piccolo) -> Result<(), String> {
        let blob = Blob::new(self.fault.size);
        let peers = self.fault.peers(&blob, good(&blob)).await;
        piccolo.advertise(peers.bad_address, &blob.digest).await;
        if self.fault.other {
            piccolo.advertise(peers.other.address, &blob.digest).await;
        }
        let hosts = vec![Host::at(piccolo.agent().mirror), Host::at(peers.registry.address)];
        let chunk_bytes = if self.client.parallel { self.fault.size / CHUNKS } else { 0 };
        let daemon = Containerd::new(self.client.version, hosts, chunk_bytes);
        let daemon = daemon.with_store(Store::of_ingests(&piccolo.agent().content_root()));
        let result = self.pull(&daemon, &blob, peers.bad.as_ref()).await;
        let sent = peers.registry.sent();
        let problem = match result {
            Err(problem) => problem,
            Ok(()) if !daemon.store.holds(&blob.digest) => "nothing was committed".to_owned(),
            Ok(()) if self.fault.other && sent > 0 => format!("the registry sent {sent} bytes"),
            Ok(()) => return Ok(()),
        };
        Err(format!("{problem}\n{}", indented(&piccolo.agent().log_of(&blob.digest))))
    }
}

impl Modelled {
    async fn pull(self, daemon: &Containerd, blob: &Blob, bad: Option<&Scripted>) -> Result<(), String> {
        let Err(problem) = pull_once(daemon, blob).await else { return Ok(()) };
        let ended = Instant::now();
        // Detected with the bad peer's last byte, at the latest.
        let detected = bad.and_then(Scripted::last_sent);
        self.fault.excuses(&problem, detected.map(|detected| ended.saturating_duration_since(detected)))?;
        // What the agent does over gRPC (tested with a real containerd in tests/e2e): its store here is a
        // layout.
        daemon.store.abort(&blob.digest);
        pull_once(daemon, blob).await.map_err(|second| format!("second pull: {second}; first: {problem}"))
    }
}

async fn pull_once(daemon: &Containerd, blob: &Blob) -> Result<(), String> {
    match timeout(PULL_WITHIN, daemon.pull_blob(&blob.digest, blob.size())).await {
        Err(_) => Err(format!("not within {PULL_WITHIN:?}")),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{error}; {}", requests(&error.outcome.attempts))),
    }
}

fn requests(attempts: &[Attempt]) -> String {
    let one = |attempt: &Attempt| {
        let host = ["mirror", "registry"][attempt.host];
        let range = attempt.range.as_deref().unwrap_or("all");
        format!("{host} {range} → {}", attempt.outcome)
    };
    attempts.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_survives_every_fault_of_a_peer() {
    let of = |place| {
        CLIENTS
            .into_iter()
            .flat_map(move |client| Fault::all_at(place).map(move |fault| Modelled { client, fault }))
    };
    let cells = Place::ALL.into_iter().flat_map(of);
    all_pass(Arc::new(Piccolo::start().await), cells, AT_ONCE).await;
}
