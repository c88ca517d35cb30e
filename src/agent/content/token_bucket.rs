//! The rate limit of uploads: bytes per second over all uploads, given out in turns of one chunk, so that no
//! upload starves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{FILE_CHUNK_BYTES, UPLOAD_BURST, UPLOAD_CHUNK_BYTES_MIN, UPLOAD_TURNS_PER_SECOND};

/// A rate in bytes per second, given out in the order of the requests.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    bytes_per_second: u64,
    /// Number of uploads that share the rate.
    sharing: AtomicU64,
    /// When all bytes that were given out are paid for.
    paid_at: Mutex<Instant>,
}

impl TokenBucket {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, sharing: AtomicU64::new(0), paid_at: Mutex::new(Instant::now()) }
    }

    /// Bytes that an upload should ask for at a time: few enough that each upload gets [`UPLOAD_TURNS_PER_SECOND`],
    /// because peers consider a source stalled that sends nothing for a while.
    pub(crate) fn chunk_bytes(&self) -> usize {
        let sharing = self.sharing.load(Ordering::Relaxed).max(1);
        let turn = usize::try_from(self.bytes_per_second / UPLOAD_TURNS_PER_SECOND / sharing);
        turn.unwrap_or(FILE_CHUNK_BYTES).clamp(UPLOAD_CHUNK_BYTES_MIN, FILE_CHUNK_BYTES)
    }

    /// Registers one more upload that shares the rate.
    pub(crate) fn join(&self) {
        self.sharing.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes an upload that shared the rate.
    pub(crate) fn leave(&self) {
        self.sharing.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits until `bytes` may be sent. A caller that is dropped while it waits pays nothing.
    pub(crate) async fn take(&self, bytes: usize) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let turn = {
            let now = Instant::now();
            let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
            let start = (*paid_at).max(now.checked_sub(UPLOAD_BURST).unwrap_or(now));
            *paid_at = start + cost;
            *paid_at
        };
        let mut debt = Debt { bucket: self, cost };
        tokio::time::sleep_until(turn).await;
        debt.cost = Duration::ZERO;
    }
}

/// A cost that is refunded unless its bytes were sent.
struct Debt<'a> {
    bucket: &'a TokenBucket,
    cost: Duration,
}

impl Drop for Debt<'_> {
    fn drop(&mut self) {
        if !self.cost.is_zero() {
            let mut paid_at = self.bucket.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
            *paid_at = paid_at.checked_sub(self.cost).unwrap_or(*paid_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Clients that ask and leave again and again would otherwise leave nothing for others.
    #[tokio::test(start_paused = true)]
    async fn who_goes_away_before_its_turn_pays_nothing() {
        let bucket = TokenBucket::new(1_000_000);
        bucket.take(1_000_000).await;
        for _ in 0..100 {
            let gone = tokio::time::timeout(Duration::from_millis(1), bucket.take(1_000_000)).await;
            assert!(gone.is_err());
        }
        let start = Instant::now();
        bucket.take(1_000_000).await;
        assert!(start.elapsed() <= Duration::from_secs(1), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_over_all_uploads_together() {
        let bucket = Arc::new(TokenBucket::new(1_000_000));
        let start = Instant::now();
        let both = (0..2).map(|_| async {
            for _ in 0..50 {
                bucket.take(20_000).await;
            }
        });
        futures_util::future::join_all(both).await;
        let seconds = start.elapsed().as_secs_f64();
        assert!((1.89..2.01).contains(&seconds), "2 MB at 1 MB/s took {seconds} s");
    }

    /// Fault B13c of the Go version: rates below the read size were no limit at all.
    #[tokio::test(start_paused = true)]
    async fn a_rate_below_one_chunk_limits_too() {
        let bucket = TokenBucket::new(1_000);
        assert_eq!(bucket.chunk_bytes(), UPLOAD_CHUNK_BYTES_MIN);
        let start = Instant::now();
        bucket.take(bucket.chunk_bytes()).await;
        assert!(start.elapsed() >= Duration::from_secs(3));
    }
}
