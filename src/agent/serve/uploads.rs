//! What this node gives to its peers: a number of uploads at once, at one rate over all of them.

use std::sync::{Arc, OnceLock};

use ::metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::agent::content::token_bucket::TokenBucket;
use crate::limits::SOURCE_BYTES_PER_SECOND_MIN;

/// The slots of uploads, and their rate.
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
            rate.join();
        }
        Some(Upload { _slot: slot, rate: self.rate.clone(), inflight })
    }
}

impl Upload {
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
            rate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn many_uploads_share_the_rate_alike_and_none_waits_long() {
        let bytes_per_second = 64 * 2 * SOURCE_BYTES_PER_SECOND_MIN;
        let uploads = Uploads::new(0, bytes_per_second);
        let end = Instant::now() + Duration::from_secs(10);
        let running: Vec<_> = (0..64).map(|_| uploads.start().expect("a slot")).collect();
        let each = running.iter().map(|upload| async {
            let rate = upload.rate().unwrap();
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
        assert!((total / bytes_per_second as f64 - 1.0).abs() < 0.1, "{total} B/s in all");
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
