//! What clients and nodes wrote down while there was trouble: the checker believes nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Findings that are kept word by word.
const FINDINGS_MAX: usize = 50;

/// What the index must hold for one holder in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub holder: String,
    pub keys: BTreeSet<String>,
}

/// A sign of life that a server has acknowledged, Unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Alive {
    pub sent: u64,
    pub heard: u64,
}

/// How long one holder's lease is, and when it was heard of.
#[derive(Clone, Debug, Default)]
pub struct Life {
    pub lease: Duration,
    pub beats: Vec<Alive>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    findings: Vec<String>,
    lives: BTreeMap<String, Life>,
    /// When each write was acknowledged, and how long it took with all its retries.
    writes: Vec<(u64, Duration)>,
    late_duplicates: u64,
    reads_of_own_writes: u64,
    /// Holders that a server showed as hidden, with the time that it gave, Unix milliseconds.
    hidden: BTreeSet<(String, u64)>,
    /// Terms, with the server that said it leads: its address for clients, and its node id.
    leaders: BTreeSet<(u64, SocketAddr, String)>,
}

pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

impl History {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that must not be.
    pub fn found(&self, what: String) {
        let mut inner = self.inner();
        if inner.findings.len() < FINDINGS_MAX {
            inner.findings.push(what);
        }
    }

    pub fn findings(&self) -> Vec<String> {
        self.inner().findings.clone()
    }

    pub fn alive(&self, holder: &str, lease: Duration, beat: Alive) {
        let mut inner = self.inner();
        let life = inner.lives.entry(holder.to_owned()).or_default();
        life.lease = lease;
        life.beats.push(beat);
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

    /// The clients with pairs did what their history is judged by.
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

    /// How long writes took that were acknowledged in this stretch: the middle one and the slowest.
    pub fn latency_between(&self, from_ms: u64, to_ms: u64) -> (Duration, Duration) {
        let inner = self.inner();
        let within = inner.writes.iter().filter(|(at, _)| (from_ms..to_ms).contains(at));
        let mut took: Vec<Duration> = within.map(|(_, took)| *took).collect();
        took.sort();
        (took.get(took.len() / 2).copied().unwrap_or_default(), took.last().copied().unwrap_or_default())
    }

    /// One line for whoever reads the output.
    pub fn summary(&self) -> String {
        let (middle, slowest) = self.latency_between(0, u64::MAX);
        let inner = self.inner();
        format!(
            "{} writes acknowledged (median {middle:?}, slowest {slowest:?}), {} reads of own writes, {} late duplicates, {} beats",
            inner.writes.len(),
            inner.reads_of_own_writes,
            inner.late_duplicates,
            inner.lives.values().map(|life| life.beats.len()).sum::<usize>()
        )
    }
}
