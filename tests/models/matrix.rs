//! The fault matrix (issue 4): {place} × {fault} × {another good peer, only the registry} × {2 MiB, 64
//! MiB}, pulled through the real mirror by a model of each version of containerd.
//!
//! Every cell succeeds within 20 s, what containerd holds has the right digest, and where a good peer
//! exists the registry sends none of it (I4, I5). The one exception: corrupt bytes in a blob over 16
//! MiB, where that pull fails within 1 s of the detection and an immediate second one succeeds.

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
use crate::lag::Lag;
use crate::product::Piccolo;
use crate::scripted::{Scripted, good};

const PULL_WITHIN: Duration = Duration::from_secs(20);
const FAIL_WITHIN: Duration = Duration::from_secs(1);
/// Cells that run at once: most of them wait for a time-out, the others for one of two cores.
const CELLS_AT_ONCE: usize = 24;
/// Of those, how many move 64 MiB.
const LARGE_AT_ONCE: usize = 6;
/// And of those that are run once more.
const AGAIN_AT_ONCE: usize = 2;
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
        let daemon = daemon.with_content_root(&piccolo.content_root());
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
        // What the agent does over gRPC (tested with a real containerd in tests/e2e): its store here is
        // a layout.
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

/// A cell that was run.
struct Ran {
    cell: Cell,
    time: Duration,
    result: Result<(), String>,
    /// How often the machine stood still meanwhile.
    standstills: u64,
}

async fn run_all(piccolo: &Arc<Piccolo>, cells: Vec<Cell>, at_once: usize, large_at_once: usize) -> Vec<Ran> {
    let (slots, large) = (Arc::new(Semaphore::new(at_once)), Arc::new(Semaphore::new(large_at_once)));
    let lag = Arc::new(Lag::watch());
    let mut running = JoinSet::new();
    for cell in cells {
        let (piccolo, slots, large) = (Arc::clone(piccolo), Arc::clone(&slots), Arc::clone(&large));
        let lag = Arc::clone(&lag);
        running.spawn(async move {
            let _large = if cell.size == LARGE { Some(large.acquire_owned().await.unwrap()) } else { None };
            let _slot = slots.acquire_owned().await.unwrap();
            let (started, standstills) = (Instant::now(), lag.standstills());
            let result = cell.run(&piccolo).await;
            Ran { cell, time: started.elapsed(), result, standstills: lag.standstills() - standstills }
        });
    }
    let mut all = Vec::new();
    while let Some(joined) = running.join_next().await {
        let ran = joined.expect("a cell does not panic");
        if let Err(reason) = &ran.result {
            let (reason, time) = (reason.lines().next().unwrap_or_default(), ran.time);
            println!("{} after {time:.1?}, {} standstills: {reason}", ran.cell, ran.standstills);
        }
        all.push(ran);
    }
    all
}

/// The variable CELLS chooses the cells whose line contains it, such as `1.6 | freeze`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_survives_every_fault_of_a_peer() {
    let wanted = std::env::var("CELLS").unwrap_or_default();
    let cells: Vec<Cell> =
        Cell::all().into_iter().filter(|cell| cell.to_string().contains(&wanted)).collect();
    let (started, piccolo) = (Instant::now(), Arc::new(Piccolo::start().await));
    let results = run_all(&piccolo, cells, CELLS_AT_ONCE, LARGE_AT_ONCE).await;
    // A failure while the machine stood still says nothing about the product: once more, few at once.
    let (void, mut results): (Vec<Ran>, Vec<Ran>) =
        results.into_iter().partition(|ran| ran.result.is_err() && ran.standstills > 0);
    let void: Vec<Cell> = void.into_iter().map(|ran| ran.cell).collect();
    println!("{} cells once more: the machine stood still", void.len());
    results.extend(run_all(&piccolo, void, AGAIN_AT_ONCE, AGAIN_AT_ONCE).await);
    let passed = results.iter().filter(|ran| ran.result.is_ok()).count();
    println!("{passed} of {} cells pass, in {:.1?}", results.len(), started.elapsed());
    let failed: Vec<String> = results.iter().filter_map(describe).collect();
    assert!(failed.is_empty(), "{} cells:\n{}", failed.len(), failed.join("\n"));
}

fn describe(ran: &Ran) -> Option<String> {
    let reason = ran.result.as_ref().err()?;
    Some(format!("{} after {:.1?}, {} standstills: {reason}", ran.cell, ran.time, ran.standstills))
}
