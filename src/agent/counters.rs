//! What the agent tells the servers about its own use, with every heartbeat.

use std::sync::atomic::{AtomicU64, Ordering};

/// Since the agent's start; only ever growing.
#[derive(Debug, Default)]
pub struct Counters {
    bytes_from_peers: AtomicU64,
    bytes_served: AtomicU64,
    misses: AtomicU64,
    asked: AtomicU64,
}

impl Counters {
    /// Bytes that the mirror has had from peers.
    pub fn bytes_from_peers(&self) -> u64 {
        self.bytes_from_peers.load(Ordering::Relaxed)
    }

    /// Bytes that the blob server has given to peers.
    pub fn bytes_served(&self) -> u64 {
        self.bytes_served.load(Ordering::Relaxed)
    }

    /// Requests of containerd that nobody here or among the peers could answer.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// Requests of containerd for content, whatever became of them.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// The mirror was asked for content.
    pub fn add_asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// The mirror had bytes from a peer.
    pub fn add_bytes_from_peers(&self, bytes: u64) {
        self.bytes_from_peers.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A peer had bytes from us.
    pub fn add_bytes_served(&self, bytes: u64) {
        self.bytes_served.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A request was a miss.
    pub fn add_miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }
}
