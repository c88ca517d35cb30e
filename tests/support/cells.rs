//! The fault matrix: {place} × {fault} × {another good peer, only the registry} × {2 MiB, 64
//! MiB}, and how its cells are run. What pulls is up to the test: a model of containerd, or a real one.
//!
//! Every cell succeeds within [`PULL_WITHIN`], what containerd holds has the right digest, and where a
//! good peer exists the registry sends none of it (I4, I5). The one exception: corrupt bytes in a blob
//! over 16 MiB, where that pull fails within [`FAIL_WITHIN`] of the detection and an immediate second one
//! succeeds.

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

/// What a pull meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    pub kind: Kind,
    /// Another peer holds the blob and serves it well.
    pub other: bool,
    pub size: u64,
}

/// Who has the blob of a cell.
pub struct Peers {
    /// Where the bad one is, or was.
    pub bad_address: SocketAddr,
    pub bad: Option<Scripted>,
    /// Further away than the bad one, which is asked first.
    pub other: Scripted,
    pub registry: Scripted,
}

impl fmt::Display for Fault {
    /// As the tables write it: fault, place, who else, size.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let else_has = if self.other { "peer" } else { "registry" };
        write!(f, "{} | {} | {else_has} | {} MiB", self.kind.name(), self.place.name(), self.size >> 20)
    }
}

impl Fault {
    /// At one place, the kinds innermost: those that wait for a time-out are spread over the run.
    pub fn all_at(place: Place) -> impl Iterator<Item = Self> {
        [(true, SMALL), (true, LARGE), (false, SMALL), (false, LARGE)]
            .into_iter()
            .flat_map(move |(other, size)| Kind::ALL.map(|kind| Self { place, kind, other, size }))
    }

    /// Starts those who have `blob`; `registry` is what the registry does.
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

    /// Whether the first pull may fail with `problem`, so long after the wrong bytes were detected: what
    /// was handed over cannot be taken back.
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

/// One pull under one fault.
pub trait Cell: Copy + fmt::Display + Send + 'static {
    /// What serves all cells.
    type Site: Send + Sync + 'static;
    fn fault(self) -> Fault;
    /// Err: what is wrong.
    fn run(self, site: &Self::Site) -> impl Future<Output = Result<(), String>> + Send;
}

/// How many cells run at once: most of them wait for a time-out, the others for one of two cores.
#[derive(Clone, Copy)]
pub struct AtOnce {
    pub cells: usize,
    /// Of those, how many move 64 MiB.
    pub large: usize,
}

/// How often a cell is run again at most.
const ROUNDS_MAX: usize = 5;
/// For cells that are run again.
const AGAIN: AtOnce = AtOnce { cells: 2, large: 2 };

/// A cell that was run.
struct Ran<C> {
    cell: C,
    time: Duration,
    result: Result<(), String>,
    /// How often the machine stood still meanwhile.
    standstills: u64,
}

/// Runs all `cells` and panics with a line for each that fails. The variable CELLS chooses those whose
/// line contains it, such as `freeze | 50 %`.
pub async fn all_pass<C: Cell>(site: Arc<C::Site>, cells: impl IntoIterator<Item = C>, at_once: AtOnce) {
    let wanted = std::env::var("CELLS").unwrap_or_default();
    let cells: Vec<C> = cells.into_iter().filter(|cell| cell.to_string().contains(&wanted)).collect();
    assert!(!cells.is_empty(), "no cell is called {wanted:?}");
    let started = Instant::now();
    let mut results = run(&site, cells, at_once).await;
    // A failure while the machine stood still says nothing about the product: again, few at once.
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

/// Lines of a log below a problem.
pub fn indented(text: &str) -> String {
    text.lines().map(|line| format!("        {line}")).collect::<Vec<_>>().join("\n")
}
