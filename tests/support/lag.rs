//! Detects standstills of this machine, during which tests with deadlines prove nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(10);
/// A fifth of the agent's shortest timeout for a peer (`PEER_CONNECT_TIMEOUT`).
const STANDSTILL: Duration = Duration::from_millis(50);

/// A thread that only sleeps and reads the clock. It runs beside the product, not in it, so that it does not
/// hide a product that blocks.
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

    /// Number of times so far that the thread was due and did not run.
    pub fn standstills(&self) -> u64 {
        self.standstills.load(Ordering::Relaxed)
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}
