//! Whether this machine stood still: what has deadlines proves nothing then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(10);
/// A fifth of the shortest time-out that the agent has for a peer (`PEER_CONNECT_TIMEOUT`).
const STANDSTILL: Duration = Duration::from_millis(50);

/// A thread that does nothing but sleep and look at the clock. It runs beside the product, not in it: a
/// product that blocks does not hide behind it.
pub struct Lag {
    standstills: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
}

impl Lag {
    pub fn watch() -> Self {
        let lag = Self { standstills: Arc::default(), end: Arc::default() };
        let (standstills, end) = (Arc::clone(&lag.standstills), Arc::clone(&lag.end));
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let before = Instant::now();
                std::thread::sleep(TICK);
                if before.elapsed() > TICK + STANDSTILL {
                    standstills.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        lag
    }

    /// How often a thread that was due did not run, so far.
    pub fn standstills(&self) -> u64 {
        self.standstills.load(Ordering::Relaxed)
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}
