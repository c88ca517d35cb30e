//! What this node gives to its peers: a number of uploads at once, and bytes per second over all of
//! them, in turns of one chunk, so that no upload starves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ::metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::limits::{FILE_CHUNK_BYTES, SOURCE_BYTES_PER_SECOND_MIN};

/// How far the bucket may run ahead after idle time.
const BURST: Duration = Duration::from_millis(100);
/// How many turns a second each upload gets.
const TURNS_PER_SECOND: u64 = 8;
/// Smallest chunk under a low rate, bytes.
const CHUNK_BYTES_MIN: usize = 4 * 1024;

/// Slots and rate.
#[derive(Clone)]
pub(crate) struct Uploads {
    slots: Option<Arc<Semaphore>>,
    rate: Option<Arc<TokenBucket>>,
    /// Looked up once, when metrics are installed for sure.
    inflight: Arc<OnceLock<Gauge>>,
}

/// One upload; the slot is free again when it is dropped.
pub(crate) struct Upload {
    _slot: Option<OwnedSemaphorePermit>,
    rate: Option<Arc<TokenBucket>>,
    inflight: Gauge,
}

impl Uploads {
    /// 0 means no limit, for both. Under a rate there are only as many slots as it can serve fast
    /// enough for peers not to give up.
    pub(crate) fn new(uploads_max: usize, bytes_per_second: u64) -> Self {
        let wanted = if uploads_max > 0 { uploads_max } else { usize::MAX };
        let slots = wanted.min(uploads_at(bytes_per_second));
        if slots < wanted {
            tracing::info!(slots, bytes_per_second, "fewer uploads at once, for each to be fast enough");
        }
        if (1..SOURCE_BYTES_PER_SECOND_MIN).contains(&bytes_per_second) {
            tracing::warn!(
                bytes_per_second,
                "the upload rate is so low that peers give up on each upload: raise \
                 --upload-bytes-per-second"
            );
        }
        let slots = (slots < usize::MAX).then(|| Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS))));
        let rate = (bytes_per_second > 0).then(|| Arc::new(TokenBucket::new(bytes_per_second)));
        Self { slots, rate, inflight: Arc::default() }
    }

    /// A slot, if one is free.
    pub(crate) fn start(&self) -> Option<Upload> {
        let slot = match &self.slots {
            Some(slots) => Some(Arc::clone(slots).try_acquire_owned().ok()?),
            None => None,
        };
        let inflight = self.inflight.get_or_init(|| ::metrics::gauge!("http_requests_blob_inflight")).clone();
        inflight.increment(1.0);
        if let Some(rate) = &self.rate {
            rate.sharing.fetch_add(1, Ordering::Relaxed);
        }
        Some(Upload { _slot: slot, rate: self.rate.clone(), inflight })
    }

    /// The rate of all uploads together.
    pub(crate) fn rate(&self) -> Option<Arc<TokenBucket>> {
        self.rate.clone()
    }
}

/// How many uploads at once a rate leaves twice the least speed that peers accept.
fn uploads_at(bytes_per_second: u64) -> usize {
    if bytes_per_second == 0 {
        return usize::MAX;
    }
    let uploads = bytes_per_second / (2 * SOURCE_BYTES_PER_SECOND_MIN);
    usize::try_from(uploads).unwrap_or(usize::MAX).max(1)
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.inflight.decrement(1.0);
        if let Some(rate) = &self.rate {
            rate.sharing.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Bytes per second, handed out in the order of asking.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    bytes_per_second: u64,
    /// Uploads that share it.
    sharing: AtomicU64,
    /// When all that was handed out is paid for.
    paid_at: Mutex<Instant>,
}

impl TokenBucket {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, sharing: AtomicU64::new(0), paid_at: Mutex::new(Instant::now()) }
    }

    /// How much to ask for at a time: so much that whoever shares the rate gets [`TURNS_PER_SECOND`],
    /// because peers take a source without a byte for a while for a stalled one.
    pub(crate) fn chunk_bytes(&self) -> usize {
        let sharing = self.sharing.load(Ordering::Relaxed).max(1);
        let turn = usize::try_from(self.bytes_per_second / TURNS_PER_SECOND / sharing);
        turn.unwrap_or(FILE_CHUNK_BYTES).clamp(CHUNK_BYTES_MIN, FILE_CHUNK_BYTES)
    }

    /// Waits until `bytes` may be sent. A caller that goes away while it waits pays nothing.
    pub(crate) async fn take(&self, bytes: usize) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let turn = {
            let now = Instant::now();
            let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
            let start = (*paid_at).max(now.checked_sub(BURST).unwrap_or(now));
            *paid_at = start + cost;
            *paid_at
        };
        let mut debt = Debt { bucket: self, cost };
        tokio::time::sleep_until(turn).await;
        debt.cost = Duration::ZERO;
    }
}

/// What is given back if its turn does not come.
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

    /// Clients that ask and go away again and again would else leave nothing for the others.
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

    /// B13c: speeds below the read size were no limit at all.
    #[tokio::test(start_paused = true)]
    async fn a_rate_below_one_chunk_limits_too() {
        let bucket = TokenBucket::new(1_000);
        assert_eq!(bucket.chunk_bytes(), CHUNK_BYTES_MIN);
        let start = Instant::now();
        bucket.take(bucket.chunk_bytes()).await;
        assert!(start.elapsed() >= Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn many_uploads_share_the_rate_alike_and_none_waits_long() {
        let uploads = Uploads::new(0, 64 * 2 * SOURCE_BYTES_PER_SECOND_MIN);
        let (rate, end) = (uploads.rate().unwrap(), Instant::now() + Duration::from_secs(10));
        let running: Vec<_> = (0..64).map(|_| uploads.start().expect("a slot")).collect();
        let each = running.iter().map(|_| async {
            let (mut bytes, mut longest, mut before) = (0, Duration::ZERO, Instant::now());
            while Instant::now() < end {
                let chunk = rate.chunk_bytes();
                rate.take(chunk).await;
                bytes += chunk;
                longest = longest.max(before.elapsed());
                before = Instant::now();
            }
            (bytes as f64 / 10.0, longest)
        });
        let shares = futures_util::future::join_all(each).await;
        let total: f64 = shares.iter().map(|(share, _)| share).sum();
        let fair = total / 64.0;
        assert!((total / rate.bytes_per_second as f64 - 1.0).abs() < 0.1, "{total} B/s in all");
        assert!(shares.iter().all(|(share, _)| (share / fair - 1.0).abs() < 0.1), "{shares:?}");
        assert!(shares.iter().all(|(_, longest)| *longest < Duration::from_millis(200)), "{shares:?}");
    }

    #[test]
    fn a_rate_leaves_no_more_slots_than_it_can_serve() {
        let slots = |uploads_max, bytes_per_second| {
            let uploads = Uploads::new(uploads_max, bytes_per_second);
            uploads.slots.map(|slots| slots.available_permits())
        };
        let least = SOURCE_BYTES_PER_SECOND_MIN;
        assert_eq!(slots(64, 64 * least), Some(32));
        assert_eq!(slots(0, 64 * least), Some(32));
        assert_eq!(slots(64, least), Some(1));
        assert_eq!((slots(64, 0), slots(0, 0)), (Some(64), None));
        assert_eq!(slots(64, 1_000 * least), Some(64));
    }

    #[test]
    fn a_slot_is_free_again_when_its_upload_ends() {
        let uploads = Uploads::new(1, 0);
        let first = uploads.start();
        assert!(first.is_some() && uploads.start().is_none());
        drop(first);
        assert!(uploads.start().is_some());
        let unlimited = Uploads::new(0, 0);
        assert!((0..1000).map(|_| unlimited.start()).collect::<Vec<_>>().iter().all(Option::is_some));
    }
}
