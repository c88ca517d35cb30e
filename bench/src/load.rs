//! The load: connections that fetch one blob repeatedly, measured for a time.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::client::Client;
use crate::layout::Blob;
use crate::net::Network;
use crate::side::Side;
use crate::usage::{Machine, cpu_seconds_of_tree};

const GIB: f64 = (1u64 << 30) as f64;
/// Time after the load within which CPU time must stop growing; otherwise the side works for nobody.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// Time without a first byte after which a side has failed.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(10);
const SETTLE_STEP: Duration = Duration::from_millis(40);

/// How a sample is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// Time before the window that is not counted: connections open, buffers grow.
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    /// Instead of a window: bytes to fetch in whole requests, the same number for every connection.
    pub(crate) whole_bytes: Option<u64>,
    /// Limit of the rate of all connections together.
    pub(crate) sink_bytes_per_second: Option<u64>,
}

/// Results of one window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) gib_per_second: f64,
    /// CPU seconds of the side's processes for each GiB.
    pub(crate) cpu_per_gib: f64,
    /// Share of the machine that was idle.
    pub(crate) idle: f64,
    /// Share of the machine used by processes other than the sides and the client.
    pub(crate) others: f64,
}

/// State that the connections share.
struct LoadState {
    bytes: AtomicU64,
    stop: AtomicBool,
    error: Mutex<Option<anyhow::Error>>,
    started: Instant,
}

/// CPU seconds at one moment.
struct Clock {
    at: Instant,
    bytes: u64,
    side: f64,
    ours: f64,
    machine: Machine,
}

impl Clock {
    fn read(shared: &LoadState, side: &Side) -> Result<Self> {
        Ok(Self {
            side: cpu_seconds_of_tree(side.pid)?,
            ours: cpu_seconds_of_tree(std::process::id())?,
            machine: Machine::now()?,
            bytes: shared.bytes.load(Ordering::Relaxed),
            at: Instant::now(),
        })
    }
}

/// Loads `side` from `network` and takes one sample.
pub(crate) fn sample(load: Load, network: &Network, side: &Side, blob: &Blob) -> Result<Sample> {
    let shared = LoadState {
        bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        error: Mutex::new(None),
        started: Instant::now(),
    };
    let before = Clock::read(&shared, side);
    let clocks = thread::scope(|scope| {
        let connection = || {
            if let Err(error) = fetch_blobs(load, network, side.address, blob, &shared) {
                shared.stop.store(true, Ordering::Relaxed);
                shared.error.lock().expect("nobody panics with the lock").get_or_insert(error);
            }
        };
        let threads: Vec<_> = (0..load.connections).map(|_| scope.spawn(connection)).collect();
        let start = if load.whole_bytes.is_some() {
            threads.into_iter().for_each(|thread| thread.join().expect("a connection does not panic"));
            before
        } else {
            thread::sleep(load.warm_up);
            let start = Clock::read(&shared, side);
            wait_for_window(load, &shared);
            start
        };
        let end = Clock::read(&shared, side);
        shared.stop.store(true, Ordering::Relaxed);
        start.and_then(|start| Ok((start, end?)))
    });
    if let Some(error) = shared.error.into_inner().map_err(|_| anyhow!("a thread panicked"))? {
        return Err(error.context(format!("{} failed under {load:?}", side.name)));
    }
    let (start, end) = clocks?;
    settle(side)?;
    let gib = (end.bytes - start.bytes) as f64 / GIB;
    ensure!(gib > 0.0, "{}: no byte within {FIRST_BYTE_MAX:?}", side.name);
    let total = end.machine.total - start.machine.total;
    let idle = end.machine.idle - start.machine.idle;
    // All sides are children of this process, so that its tree contains both.
    let known = end.ours - start.ours;
    Ok(Sample {
        gib_per_second: gib / (end.at - start.at).as_secs_f64(),
        cpu_per_gib: (end.side - start.side) / gib,
        idle: idle / total,
        others: ((total - idle - known) / total).max(0.0),
    })
}

/// Waits for the window, and longer while nothing has arrived: a busy machine is slow, which is no error.
fn wait_for_window(load: Load, shared: &LoadState) {
    let (started, before) = (Instant::now(), shared.bytes.load(Ordering::Relaxed));
    thread::sleep(load.window);
    while shared.bytes.load(Ordering::Relaxed) == before
        && started.elapsed() < FIRST_BYTE_MAX
        && !shared.stop.load(Ordering::Relaxed)
    {
        thread::sleep(SETTLE_STEP);
    }
}

/// Fetches blobs until the load is stopped, or as many as it says.
fn fetch_blobs(
    load: Load,
    network: &Network,
    address: SocketAddr,
    blob: &Blob,
    shared: &LoadState,
) -> Result<()> {
    network.enter()?;
    let mut client = Client::new(address);
    let path = blob.path();
    let share = load.whole_bytes.map(|bytes| bytes.div_ceil(blob.bytes * load.connections as u64));
    let mut done = 0;
    while !shared.stop.load(Ordering::Relaxed) && share.is_none_or(|share| done < share) {
        done += 1;
        let (status, whole) = client.get(&path, |piece| {
            let bytes = shared.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if let Some(rate) = load.sink_bytes_per_second {
                let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
                thread::sleep(due.saturating_sub(shared.started.elapsed()));
            }
            !shared.stop.load(Ordering::Relaxed)
        })?;
        ensure!(status == 200, "status {status}");
        ensure!(whole || shared.stop.load(Ordering::Relaxed), "a blob was not read whole");
    }
    Ok(())
}

/// Waits until the side has finished its work for closed connections.
fn settle(side: &Side) -> Result<()> {
    let end = Instant::now() + SETTLE_MAX;
    let mut before = cpu_seconds_of_tree(side.pid)?;
    loop {
        thread::sleep(SETTLE_STEP);
        let now = cpu_seconds_of_tree(side.pid)?;
        if now - before < 0.005 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{} still works {SETTLE_MAX:?} after its clients have gone", side.name);
        before = now;
    }
}
