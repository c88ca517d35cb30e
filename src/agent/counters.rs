//! Counters of this agent's use, which every heartbeat reports to the servers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start of the agent. They only grow.
#[derive(Debug, Default)]
pub struct Counters {
    bytes_from_peers: AtomicU64,
    bytes_served: AtomicU64,
    misses: AtomicU64,
    asked: AtomicU64,
}

impl Counters {
    /// Bytes that the mirror received from peers.
    pub fn bytes_from_peers(&self) -> u64 {
        self.bytes_from_peers.load(Ordering::Relaxed)
    }

    /// Bytes that the blob server sent to peers.
    pub fn bytes_served(&self) -> u64 {
        self.bytes_served.load(Ordering::Relaxed)
    }

    /// Requests of containerd that neither this node nor a peer could answer.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// Requests of containerd for content, whatever their outcome.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Counts a request of containerd for content.
    pub fn add_asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes that the mirror received from a peer.
    pub fn add_bytes_from_peers(&self, bytes: u64) {
        self.bytes_from_peers.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that the blob server sent to a peer.
    pub fn add_bytes_served(&self, bytes: u64) {
        self.bytes_served.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a request of containerd that nobody could answer.
    pub fn add_miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }
}
