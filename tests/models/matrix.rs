//! The fault matrix (issue 4): {place} × {fault} × {another good peer, only the registry} × {2 MiB, 64 MiB}, pulled
//! through the real mirror by a model of each version of containerd.
//!
//! Every cell succeeds within 20 s, what containerd holds has the right digest, and where a good peer exists the
//! registry sends none of it (I4, I5). The one exception: corrupt bytes in a blob over 16 MiB, where that pull fails
//! within 1 s of the detection and an immediate second one succeeds.

mod known;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use piccolo::limits::VERIFIED_WHOLE_BYTES_MAX;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::blob::{Blob, LARGE, SMALL};
use crate::containerd::{Attempt, Containerd, Host, Version};
use crate::fault::{Kind, Place, script};
use crate::product::Piccolo;
use crate::scripted::{Scripted, good};
use known::Known;

const PULL_WITHIN: Duration = Duration::from_secs(20);
const FAIL_WITHIN: Duration = Duration::from_secs(1);
/// Cells that run at once: most of them wait for a time-out, the others for one of two cores.
const CELLS_AT_ONCE: usize = 24;
/// Of those, how many move 64 MiB.
const LARGE_AT_ONCE: usize = 6;
/// Chunks of the parallel mode in one blob.
const CHUNKS: u64 = 8;

/// How a daemon is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    version: Version,
    parallel: bool,
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    client: Client,
    place: Place,
    kind: Kind,
    /// Another peer holds the blob and serves it well.
    other: bool,
    size: u64,
}

const CLIENTS: [Client; 5] = [
    Client { version: Version::V1_6, parallel: false },
    Client { version: Version::V2_1, parallel: false },
    Client { version: Version::V2_1, parallel: true },
    Client { version: Version::V2_3, parallel: false },
    Client { version: Version::V2_3, parallel: true },
];

impl Client {
    fn name(self) -> String {
        format!("{}{}", self.version.name(), if self.parallel { " parallel" } else { "" })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.columns().join(" | "))
    }
}

impl Cell {
    /// The kinds innermost: those that wait for a time-out are spread over the run.
    fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for (place, client) in Place::ALL.into_iter().flat_map(|place| CLIENTS.map(|client| (place, client)))
        {
            for (other, size) in [(true, SMALL), (true, LARGE), (false, SMALL), (false, LARGE)] {
                cells.extend(Kind::ALL.map(|kind| Self { client, place, kind, other, size }));
            }
        }
        cells
    }

    /// As the tables write it: client, fault, place, who else, size.
    fn columns(&self) -> [String; 5] {
        [
            self.client.name(),
            self.kind.name().to_owned(),
            self.place.name().to_owned(),
            if self.other { "peer" } else { "registry" }.to_owned(),
            format!("{} MiB", self.size >> 20),
        ]
    }

    /// Bytes that were handed over cannot be taken back.
    fn may_fail_once(&self) -> bool {
        self.kind == Kind::Corrupt && self.size > VERIFIED_WHOLE_BYTES_MAX
    }

    async fn run(self, piccolo: &Piccolo) -> Result<(), String> {
        let blob = Blob::new(self.size);
        let bad = Scripted::start("127.0.0.1", script(self.place, self.kind, &blob)).await;
        let address = bad.address;
        let bad = (self.kind != Kind::Nobody || self.place != Place::BeforeHeaders).then_some(bad);
        // Further away than the bad one: that is asked first.
        let other = Scripted::start("127.9.0.1", good(&blob)).await;
        let registry = Scripted::start("127.0.0.1", good(&blob)).await;
        piccolo.advertise(address, &blob.digest).await;
        if self.other {
            piccolo.advertise(other.address, &blob.digest).await;
        }
        let hosts = vec![Host::at(piccolo.mirror), Host::at(registry.address)];
        let chunk_bytes = if self.client.parallel { self.size / CHUNKS } else { 0 };
        let daemon = Containerd::new(self.client.version, hosts, chunk_bytes);
        let result = self.pull(&daemon, &blob, bad.as_ref()).await;
        let sent = registry.sent();
        let problem = match result {
            Err(problem) => problem,
            Ok(()) if !daemon.store.holds(&blob.digest) => "nothing was committed".to_owned(),
            Ok(()) if self.other && sent > 0 => format!("the registry sent {sent} bytes"),
            Ok(()) => return Ok(()),
        };
        Err(format!("{problem}\n{}", indented(&piccolo.log_of(&blob.digest))))
    }

    async fn pull(&self, daemon: &Containerd, blob: &Blob, bad: Option<&Scripted>) -> Result<(), String> {
        let first = pull_once(daemon, blob).await;
        let ended = Instant::now();
        let (Err(problem), true) = (&first, self.may_fail_once()) else { return first };
        // Detected with the last byte of the liar, at the latest.
        let detected = bad.and_then(Scripted::last_sent).ok_or_else(|| problem.clone())?;
        let late = ended.saturating_duration_since(detected);
        if late > FAIL_WITHIN {
            return Err(format!("failed {late:?} after the detection: {problem}"));
        }
        // What the agent does over gRPC (tested with a real containerd in tests/e2e): its store here is a layout.
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

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("        {line}")).collect::<Vec<_>>().join("\n")
}

async fn run_all(cells: Vec<Cell>) -> Vec<(Cell, Duration, Result<(), String>)> {
    let piccolo = Arc::new(Piccolo::start().await);
    let (slots, large) = (Arc::new(Semaphore::new(CELLS_AT_ONCE)), Arc::new(Semaphore::new(LARGE_AT_ONCE)));
    let mut running = JoinSet::new();
    for cell in cells {
        let (piccolo, slots, large) = (Arc::clone(&piccolo), Arc::clone(&slots), Arc::clone(&large));
        running.spawn(async move {
            let _large = if cell.size == LARGE { Some(large.acquire_owned().await.unwrap()) } else { None };
            let _slot = slots.acquire_owned().await.unwrap();
            let started = Instant::now();
            let result = cell.run(&piccolo).await;
            (cell, started.elapsed(), result)
        });
    }
    let mut results = Vec::new();
    while let Some(joined) = running.join_next().await {
        let (cell, time, result) = joined.expect("a cell does not panic");
        if let Err(reason) = &result {
            println!("{cell} after {time:.1?}: {}", reason.lines().next().unwrap_or_default());
        }
        results.push((cell, time, result));
    }
    results
}

/// The cells that fail are exactly those of the table in [`known`]: a new failure breaks the build, and so does a cell
/// of the table that passes; take it out then. The variable CELLS chooses those whose line contains it, such as
/// `1.6 | freeze`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_survives_every_fault_of_a_peer() {
    let wanted = std::env::var("CELLS").unwrap_or_default();
    let cells: Vec<Cell> =
        Cell::all().into_iter().filter(|cell| cell.to_string().contains(&wanted)).collect();
    let started = Instant::now();
    let results = run_all(cells).await;
    let mut unexpected = Vec::new();
    for (cell, time, result) in &results {
        match (result, known::known(&cell.columns())) {
            (Ok(()), Some(Known::Fails)) => {
                unexpected.push(format!("{cell}: passes, take it out of the table"))
            }
            (Err(reason), None) => unexpected.push(format!("{cell} after {time:.1?}: {reason}")),
            (Ok(()), _) | (Err(_), Some(_)) => {}
        }
    }
    let passed = results.iter().filter(|(_, _, result)| result.is_ok()).count();
    println!("{passed} of {} cells pass, in {:.1?}", results.len(), started.elapsed());
    assert!(unexpected.is_empty(), "{} cells:\n{}", unexpected.len(), unexpected.join("\n"));
}
