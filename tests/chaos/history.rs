//! Records of clients and nodes during the faults, which are the only source of the checker.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Number of findings that are kept with their text.
const FINDINGS_MAX: usize = 50;

/// Expected content of the index for one holder at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub holder: String,
    pub keys: BTreeSet<String>,
}

/// An acknowledged heartbeat or write, Unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Alive {
    pub sent: u64,
    pub heard: u64,
}

/// Lease of one holder, and times of its acknowledged heartbeats and writes.
#[derive(Clone, Debug, Default)]
pub struct Life {
    pub lease: Duration,
    pub heartbeats: Vec<Alive>,
}

/// Records of a scenario, shared by its clients and the checker.
#[derive(Debug, Default)]
pub struct History {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    findings: Vec<String>,
    lives: BTreeMap<String, Life>,
    /// Time of each acknowledgement, and duration of the write with all retries.
    writes: Vec<(u64, Duration)>,
    late_duplicates: u64,
    reads_of_own_writes: u64,
    /// Holders that a server showed as hidden, with the server's time, Unix milliseconds.
    hidden: BTreeSet<(String, u64)>,
    /// Terms, with the API address and node id of each server that said it led.
    leaders: BTreeSet<(u64, SocketAddr, String)>,
}

pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

impl History {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a violation.
    pub fn found(&self, what: String) {
        let mut inner = self.inner();
        if inner.findings.len() < FINDINGS_MAX {
            inner.findings.push(what);
        }
    }

    pub fn findings(&self) -> Vec<String> {
        self.inner().findings.clone()
    }

    pub fn alive(&self, holder: &str, lease: Duration, heartbeat: Alive) {
        let mut inner = self.inner();
        let life = inner.lives.entry(holder.to_owned()).or_default();
        life.lease = lease;
        life.heartbeats.push(heartbeat);
    }

    pub fn lives(&self) -> BTreeMap<String, Life> {
        self.inner().lives.clone()
    }

    pub fn hidden(&self, holder: &str, at_ms: u64) {
        self.inner().hidden.insert((holder.to_owned(), at_ms));
    }

    pub fn all_hidden(&self) -> BTreeSet<(String, u64)> {
        self.inner().hidden.clone()
    }

    pub fn leads(&self, term: u64, server: SocketAddr, node: String) {
        self.inner().leaders.insert((term, server, node));
    }

    pub fn leaders(&self) -> BTreeSet<(u64, SocketAddr, String)> {
        self.inner().leaders.clone()
    }

    pub fn wrote(&self, took: Duration) {
        self.inner().writes.push((unix_ms(), took));
    }

    pub fn late_duplicate(&self) {
        self.inner().late_duplicates += 1;
    }

    pub fn read_own_write(&self) {
        self.inner().reads_of_own_writes += 1;
    }

    /// Asserts that the clients with pairs did what the checks need.
    pub fn assert_lived(&self) {
        let (reads, duplicates) = {
            let inner = self.inner();
            (inner.reads_of_own_writes, inner.late_duplicates)
        };
        assert!(reads > 0 && duplicates > 0, "hardly any load: {}", self.summary());
    }

    pub fn writes(&self) -> usize {
        self.inner().writes.len()
    }

    /// Median and longest duration of the writes that were acknowledged in this period.
    pub fn latency_between(&self, from_ms: u64, to_ms: u64) -> (Duration, Duration) {
        let inner = self.inner();
        let within = inner.writes.iter().filter(|(at, _)| (from_ms..to_ms).contains(at));
        let mut took: Vec<Duration> = within.map(|(_, took)| *took).collect();
        took.sort();
        (took.get(took.len() / 2).copied().unwrap_or_default(), took.last().copied().unwrap_or_default())
    }

    /// A line of text for people.
    pub fn summary(&self) -> String {
        let (middle, slowest) = self.latency_between(0, u64::MAX);
        let inner = self.inner();
        format!(
            "{} writes acknowledged (median {middle:?}, slowest {slowest:?}), {} reads of own writes, {} late duplicates, {} heartbeats",
            inner.writes.len(),
            inner.reads_of_own_writes,
            inner.late_duplicates,
            inner.lives.values().map(|life| life.heartbeats.len()).sum::<usize>()
        )
    }
}
