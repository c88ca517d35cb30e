//! The leases of one server, as its endpoints and the lease task share them.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use piccolo_raft::model::Holder;

use super::Leases;
use crate::clock::SharedClock;

/// The [`Leases`] behind a lock, with the clock that their times come from; clones share them.
#[derive(Clone)]
pub struct LeaseTable {
    leases: Arc<Mutex<Leases>>,
    clock: SharedClock,
}

impl LeaseTable {
    /// Shares `leases`, whose times are those of `clock`.
    pub fn new(leases: Leases, clock: SharedClock) -> Self {
        Self { leases: Arc::new(Mutex::new(leases)), clock }
    }

    /// Locks the leases.
    pub fn lock(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().expect("no lease operation panics")
    }

    /// Gives `holder` a full lease from now; 0 seconds are the default length.
    pub fn renew(&self, holder: &Holder, ttl_seconds: u32) {
        let now = self.now();
        self.lock().renew(holder, ttl_seconds, now);
    }

    /// Monotonic time, as the leases count it.
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Wall time, milliseconds since 1970. It is trusted only at the start of a term.
    pub fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }
}
