//! How much a server takes on at once: permits for writes, heartbeats and request bodies ([`bodies`]), the
//! lock of each holder ([`holder_locks`]), and how often one holder may sync ([`rate_limit`]).
//!
//! A request that finds no permit is answered 503 and has changed nothing. A permit is held until the work is
//! done, also if the client leaves before.

pub mod bodies;
pub mod holder_locks;
pub mod rate_limit;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::limits::{
    FLIGHTS_READ_MAX, HEARTBEAT_CHANGES_WAITING_MAX, HEARTBEATS_WAITING_MAX, HOLDER_HEARTBEATS_WAITING_MAX,
    HOLDER_WRITES_WAITING_MAX, SNAPSHOTS_SENT_MAX, WRITES_WAITING_MAX,
};
use bodies::Bodies;
use holder_locks::HolderPermits;

/// All permits of one server; clones share them.
#[derive(Clone, Debug)]
pub struct Permits {
    /// Writes that wait or run: advertise, withdraw and sync.
    pub writes: HolderPermits,
    /// Heartbeats, from the first byte of their bodies on. They need no permit of a write: a herd of writes
    /// must not let leases end. On a server that does not lead, a heartbeat waits as long as a write does.
    pub heartbeats: Arc<Semaphore>,
    /// Heartbeats that propose a command. They are fewer than the writes, so that a fleet that comes back
    /// leaves room for those.
    pub heartbeat_changes: HolderPermits,
    /// Memory for the bodies of requests.
    pub bodies: Bodies,
    /// Bodies with flights that are being read.
    pub flights: Arc<Semaphore>,
    /// Snapshots on their way to operators.
    pub snapshots: Arc<Semaphore>,
}

impl Default for Permits {
    fn default() -> Self {
        Self {
            writes: HolderPermits::new(WRITES_WAITING_MAX, HOLDER_WRITES_WAITING_MAX),
            heartbeats: Arc::new(Semaphore::new(HEARTBEATS_WAITING_MAX)),
            heartbeat_changes: HolderPermits::new(
                HEARTBEAT_CHANGES_WAITING_MAX,
                HOLDER_HEARTBEATS_WAITING_MAX,
            ),
            bodies: Bodies::default(),
            flights: Arc::new(Semaphore::new(FLIGHTS_READ_MAX)),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_SENT_MAX)),
        }
    }
}
