//! The fault matrix, {place} × {fault} × {another good peer, only the registry} × {2 MiB, 64 MiB}, and the
//! code that runs its cells. The test chooses the puller: a model of containerd, or a real one.
//!
//! Every cell succeeds within [`PULL_WITHIN`], containerd's content has the right digest, and if a good peer
//! exists the registry sends none of it (I4, I5). One exception: with corrupt bytes in a blob over 16 MiB the
//! pull fails within [`FAIL_WITHIN`] of the detection, and an immediate second one succeeds.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use piccolo::limits::VERIFIED_WHOLE_BYTES_MAX;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::blob::{Blob, LARGE, SMALL};
use crate::fault::{Kind, Place, script};
use crate::lag::Lag;
use crate::scripted::{Script, Scripted, good};

pub const PULL_WITHIN: Duration = Duration::from_secs(20);
const FAIL_WITHIN: Duration = Duration::from_secs(2);

/// The fault of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    pub kind: Kind,
    /// True if another peer holds the blob and serves it correctly.
    pub other: bool,
    pub size: u64,
}

/// The peers of a cell, which have its blob.
pub struct Peers {
    /// Address of the bad peer, also if it does not listen.
    pub bad_address: SocketAddr,
    pub bad: Option<Scripted>,
    /// The other peer, which is farther away than the bad one, so that the bad one is asked first.
    pub other: Scripted,
    pub registry: Scripted,
}

impl fmt::Display for Fault {
    /// Formats the fault as in the tables: fault, place, other peer, size.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let else_has = if self.other { "peer" } else { "registry" };
        write!(f, "{} | {} | {else_has} | {} MiB", self.kind.name(), self.place.name(), self.size >> 20)
    }
}

impl Fault {
    /// All faults at one place, with kinds in the innermost loop, so that those with a timeout are spread
    /// over the run.
    pub fn all_at(place: Place) -> impl Iterator<Item = Self> {
        [(true, SMALL), (true, LARGE), (false, SMALL), (false, LARGE)]
            .into_iter()
            .flat_map(move |(other, size)| Kind::ALL.map(|kind| Self { place, kind, other, size }))
    }

    /// Starts the peers with `blob`; `registry` is the script of the registry.
    pub async fn peers(self, blob: &Blob, registry: Script) -> Peers {
        let bad = Scripted::start("127.0.0.1", script(self.place, self.kind, blob)).await;
        let was_never_there = self.kind == Kind::Nobody && self.place == Place::BeforeHeaders;
        Peers {
            bad_address: bad.address,
            bad: Some(bad).filter(|_| !was_never_there),
            other: Scripted::start("127.9.0.1", good(blob)).await,
            registry: Scripted::start("127.0.0.1", registry).await,
        }
    }

    /// Checks whether the first pull may fail with `problem`, `late` after the detection of wrong bytes:
    /// bytes that were passed on cannot be taken back.
    pub fn excuses(self, problem: &str, late: Option<Duration>) -> Result<(), String> {
        if self.kind != Kind::Corrupt || self.size <= VERIFIED_WHOLE_BYTES_MAX {
            return Err(problem.to_owned());
        }
        match late {
            None => Err(format!("failed, and nothing was detected: {problem}")),
            Some(late) if late > FAIL_WITHIN => {
                Err(format!("failed {late:?} after the detection: {problem}"))
            }
            Some(_) => Ok(()),
        }
    }
}

/// A pull with one fault.
pub trait Cell: Copy + fmt::Display + Send + 'static {
    /// Processes that all cells share.
    type Site: Send + Sync + 'static;
    fn fault(self) -> Fault;
    /// Runs the cell; the error says what is wrong.
    fn run(self, site: &Self::Site) -> impl Future<Output = Result<(), String>> + Send;
}

/// Numbers of concurrent cells: most wait for a timeout, the others for one of two cores.
#[derive(Clone, Copy)]
pub struct AtOnce {
    pub cells: usize,
    /// Number of concurrent cells of 64 MiB.
    pub large: usize,
}

/// Largest number of rounds of repeated cells.
const ROUNDS_MAX: usize = 5;
/// Numbers of concurrent cells in such a round.
const AGAIN: AtOnce = AtOnce { cells: 2, large: 2 };

/// Result of a cell.
struct Ran<C> {
    cell: C,
    time: Duration,
    result: Result<(), String>,
    /// Number of standstills of the machine during the cell.
    standstills: u64,
}

/// Runs all `cells` and panics with a line for each failure. The variable CELLS selects those whose line
/// contains it, such as `freeze | 50 %`.
pub async fn all_pass<C: Cell>(site: Arc<C::Site>, cells: impl IntoIterator<Item = C>, at_once: AtOnce) {
    let wanted = std::env::var("CELLS").unwrap_or_default();
    let cells: Vec<C> = cells.into_iter().filter(|cell| cell.to_string().contains(&wanted)).collect();
    assert!(!cells.is_empty(), "no cell is called {wanted:?}");
    let started = Instant::now();
    let mut results = run(&site, cells, at_once).await;
    // A failure during a standstill of the machine proves nothing: such cells run again, few at a time.
    for _ in 0..ROUNDS_MAX {
        let (void, others): (Vec<Ran<C>>, Vec<Ran<C>>) =
            results.into_iter().partition(|ran| ran.result.is_err() && ran.standstills > 0);
        results = others;
        if void.is_empty() {
            break;
        }
        println!("{} cells once more: the machine stood still", void.len());
        results.extend(run(&site, void.into_iter().map(|ran| ran.cell).collect(), AGAIN).await);
    }
    let passed = results.iter().filter(|ran| ran.result.is_ok()).count();
    println!("{passed} of {} cells pass, in {:.1?}", results.len(), started.elapsed());
    let failed: Vec<String> = results.iter().filter_map(Ran::problem).collect();
    assert!(failed.is_empty(), "{} cells:\n{}", failed.len(), failed.join("\n"));
}

async fn run<C: Cell>(site: &Arc<C::Site>, cells: Vec<C>, at_once: AtOnce) -> Vec<Ran<C>> {
    let slots = Arc::new(Semaphore::new(at_once.cells));
    let large = Arc::new(Semaphore::new(at_once.large));
    let lag = Arc::new(Lag::watch());
    let mut running = JoinSet::new();
    for cell in cells {
        let (site, slots, large) = (Arc::clone(site), Arc::clone(&slots), Arc::clone(&large));
        let lag = Arc::clone(&lag);
        running.spawn(async move {
            let is_large = cell.fault().size == LARGE;
            let _large = if is_large { Some(large.acquire_owned().await.unwrap()) } else { None };
            let _slot = slots.acquire_owned().await.unwrap();
            let (started, standstills) = (Instant::now(), lag.standstills());
            let result = cell.run(&site).await;
            Ran { cell, time: started.elapsed(), result, standstills: lag.standstills() - standstills }
        });
    }
    let mut all = Vec::new();
    while let Some(joined) = running.join_next().await {
        let ran = joined.expect("a cell does not panic");
        if let Some(problem) = ran.problem() {
            println!("{}", problem.lines().next().unwrap_or_default());
        }
        all.push(ran);
    }
    all
}

impl<C: Cell> Ran<C> {
    fn problem(&self) -> Option<String> {
        let reason = self.result.as_ref().err()?;
        Some(format!("{} after {:.1?}, {} standstills: {reason}", self.cell, self.time, self.standstills))
    }
}

/// Log lines, indented below a failure.
pub fn indented(text: &str) -> String {
    text.lines().map(|line| format!("        {line}")).collect::<Vec<_>>().join("\n")
}
