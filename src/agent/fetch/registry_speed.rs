//! How fast this node's registries were lately, and whether a transfer from peers is given up for one.
//!
//! Measured is what containerd fetches after this node answered 404: the growth of its ingest. A
//! registry of which nothing is known, or that sent nothing when it was last asked, is never preferred,
//! so that a transfer which is slow goes on where nobody else has the bytes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Fetcher, Wanted};
use crate::agent::expiring_set::ExpiringSet;
use crate::limits::{
    REGISTRIES_MEASURED_MAX, REGISTRY_MEASURED_BYTES_MIN, REGISTRY_MEASURED_FOR_MIN, REGISTRY_MEASURED_TTL,
    REGISTRY_SAMPLED_FOR_MAX, REGISTRY_SAMPLED_FOR_SILENCE, REGISTRY_SAVES_MIN, REGISTRY_TIMES_FASTER,
    SOURCE_BYTES_PER_SECOND_MIN, TROUBLES_REMEMBERED_MAX,
};
use crate::oci::{Digest, RangeHeader};

/// Between two looks at an ingest.
const PAUSE: Duration = Duration::from_millis(100);

/// What is known of the registries of this node.
#[derive(Debug)]
pub(super) struct Registries {
    measured: Mutex<HashMap<String, Measured>>,
    /// One measurement at a time.
    is_measuring: AtomicBool,
    /// Holders that were too slow for content of a registry.
    outpaced: ExpiringSet<(String, SocketAddr)>,
    /// Content that was left to its registry for that.
    left: ExpiringSet<Digest>,
}

/// The last measurement of one registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Measured {
    bytes_per_second: u64,
    at: Instant,
}

/// A transfer from peers that is compared with a registry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) bytes_per_second: u64,
    pub(super) left_bytes: u64,
    /// Transfers of this node that share its link, this one included.
    pub(super) transfers: usize,
}

impl Measured {
    fn is_known(&self, now: Instant) -> bool {
        self.bytes_per_second > 0 && now.saturating_duration_since(self.at) < REGISTRY_MEASURED_TTL
    }

    /// Whether the rest of `running` would come much sooner from this registry, also if all transfers
    /// of this node were as fast as that one.
    fn outpaces(&self, running: Running, now: Instant) -> bool {
        let node = running.bytes_per_second.saturating_mul(running.transfers.max(1) as u64);
        if !self.is_known(now) || node.saturating_mul(REGISTRY_TIMES_FASTER) > self.bytes_per_second {
            return false;
        }
        let seconds = |rate: u64| running.left_bytes / rate.max(1);
        let saved = seconds(running.bytes_per_second).saturating_sub(seconds(self.bytes_per_second));
        saved >= REGISTRY_SAVES_MIN.as_secs()
    }
}

impl Registries {
    pub(super) fn new() -> Self {
        Self {
            measured: Mutex::default(),
            is_measuring: AtomicBool::new(false),
            outpaced: ExpiringSet::new(REGISTRY_MEASURED_TTL, TROUBLES_REMEMBERED_MAX),
            left: ExpiringSet::new(REGISTRY_MEASURED_TTL, TROUBLES_REMEMBERED_MAX),
        }
    }

    /// `wanted`, all of whose holders are outpaced, is left to its registry. False: it was before, and
    /// whoever asks again has not got it there. Then nothing is left to that registry until it is measured
    /// again.
    pub(super) fn takes(&self, wanted: &Wanted) -> bool {
        let is_begin = matches!(wanted.range, None | Some(RangeHeader::From(0) | RangeHeader::Between(0, _)));
        if wanted.head_only || !is_begin {
            return true;
        }
        if self.left.contains(&wanted.digest)
            && let Some(registry) = wanted.path.registry.as_deref()
        {
            self.is_away(registry);
            return false;
        }
        self.left.insert(wanted.digest.clone());
        true
    }

    /// Nothing is to be had from `registry`: what was measured holds no more.
    pub(super) fn is_away(&self, registry: &str) {
        self.lock().remove(registry);
    }

    /// Whether `running` is given up for `registry`.
    pub(super) fn outpaces(&self, registry: Option<&str>, running: Running) -> bool {
        let measured = registry.and_then(|registry| self.lock().get(registry).copied());
        measured.is_some_and(|measured| measured.outpaces(running, Instant::now()))
    }

    /// `holder` was too slow for content of `registry`.
    pub(super) fn was_slow(&self, registry: Option<&str>, holder: SocketAddr) {
        if let Some(registry) = registry {
            self.outpaced.insert((registry.to_owned(), holder));
        }
    }

    /// Whether that was so lately, and the registry is known to be far faster than the slowest peers that are
    /// put up with.
    pub(super) fn is_outpaced(&self, registry: Option<&str>, holder: SocketAddr) -> bool {
        let Some(registry) = registry else { return false };
        let is_fast = |measured: &Measured| {
            let least = SOURCE_BYTES_PER_SECOND_MIN * REGISTRY_TIMES_FASTER;
            measured.is_known(Instant::now()) && measured.bytes_per_second >= least
        };
        self.lock().get(registry).is_some_and(is_fast)
            && self.outpaced.contains(&(registry.to_owned(), holder))
    }

    fn set(&self, registry: &str, bytes_per_second: u64) {
        let (now, mut measured) = (Instant::now(), self.lock());
        if measured.len() >= REGISTRIES_MEASURED_MAX && !measured.contains_key(registry) {
            let oldest =
                measured.iter().min_by_key(|(_, measured)| measured.at).map(|(name, _)| name.clone());
            oldest.map(|oldest| measured.remove(&oldest));
        }
        tracing::debug!(registry, bytes_per_second, "measured the registry");
        measured.insert(registry.to_owned(), Measured { bytes_per_second, at: now });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Measured>> {
        self.measured.lock().expect("nothing panics with it in hand")
    }
}

/// The growth of one ingest.
#[derive(Clone, Copy, Debug)]
struct Growth {
    asked: (Instant, u64),
    first: Option<(Instant, u64)>,
    last: (Instant, u64),
    total: u64,
}

impl Growth {
    fn new(now: Instant, length: u64, total: u64) -> Self {
        Self { asked: (now, length), first: None, last: (now, length), total }
    }

    fn add(&mut self, now: Instant, length: u64) {
        if length > self.last.1 {
            self.first.get_or_insert((now, length));
            self.last = (now, length);
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.asked.0) >= REGISTRY_SAMPLED_FOR_MAX
            || now.saturating_duration_since(self.last.0) >= REGISTRY_SAMPLED_FOR_SILENCE
            || self.last.1 >= self.total
    }

    /// Bytes per second; `None`: it was too little, or too short, to tell.
    fn rate(&self) -> Option<u64> {
        let Some(first) = self.first else { return Some(0) };
        let between = |from: (Instant, u64)| {
            let (time, bytes) = (self.last.0 - from.0, self.last.1 - from.1);
            (time >= REGISTRY_MEASURED_FOR_MIN && bytes >= REGISTRY_MEASURED_BYTES_MIN)
                .then(|| u64::try_from(u128::from(bytes) * 1_000 / time.as_millis()).unwrap_or(u64::MAX))
        };
        // With the time until the first byte it is less than the truth.
        between(first).or_else(|| between(self.asked))
    }
}

impl Fetcher {
    /// The registry cannot answer for a tag, so no content is left to it.
    pub(crate) fn registry_is_away(&self, registry: &str) {
        self.registries.is_away(registry);
    }

    /// `wanted` was not to be had from peers: containerd asks its registry next.
    pub(super) fn measure_registry(self: &Arc<Self>, wanted: &Wanted) {
        let Some(registry) = wanted.path.registry.clone() else { return };
        if wanted.path.is_manifest()
            || wanted.head_only
            || self.registries.is_measuring.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let (fetcher, digest) = (Arc::clone(self), wanted.digest.clone());
        self.tasks.spawn(async move {
            let growing = fetcher.growth(&digest);
            if let Some(Some(growth)) = fetcher.stop.run_until_cancelled(growing).await
                && let Some(rate) = growth.rate()
            {
                fetcher.registries.set(&registry, rate);
            }
            fetcher.registries.is_measuring.store(false, Ordering::Release);
        });
    }

    /// How the ingest of `digest` grows. `None`: it cannot be seen, or is too small to tell anything.
    async fn growth(&self, digest: &Digest) -> Option<Growth> {
        let ingest = self.ingests(digest).await.into_iter().next()?;
        let (total, data) = (ingest.total_bytes?, ingest.data?);
        let mut growth = Growth::new(Instant::now(), data.metadata().ok()?.len(), total);
        if total.saturating_sub(growth.asked.1) < REGISTRY_MEASURED_BYTES_MIN {
            return None;
        }
        while !growth.is_over(Instant::now()) {
            sleep(PAUSE).await;
            growth.add(Instant::now(), data.metadata().ok()?.len());
        }
        Some(growth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn a_transfer_is_given_up_only_for_a_registry_that_is_known_to_be_far_faster() {
        let now = Instant::now();
        let long_ago = now;
        let now = now + REGISTRY_MEASURED_TTL;
        let slow = Running { bytes_per_second: 70 * 1_024, left_bytes: 10 * MIB, transfers: 1 };
        for (what, registry, at, running, expected) in [
            ("a lone crawling holder against 100 Mbit/s", 12 * MIB, now, slow, true),
            ("a registry that sent nothing", 0, now, slow, false),
            ("a registry measured long ago", 12 * MIB, long_ago, slow, false),
            ("a registry that is faster, but not by far", 500 * 1_024, now, slow, false),
            ("little is left", 12 * MIB, now, Running { left_bytes: MIB / 2, ..slow }, false),
            ("the link is shared by many", 12 * MIB, now, Running { transfers: 30, ..slow }, false),
            ("nothing comes", 12 * MIB, now, Running { bytes_per_second: 0, ..slow }, true),
        ] {
            let measured = Measured { bytes_per_second: registry, at };
            assert_eq!(measured.outpaces(running, now), expected, "{what}");
        }
        assert!(!Registries::new().outpaces(Some("registry.test"), slow), "an unknown registry");
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_was_given_up_is_asked_again_when_the_registry_sends_nothing() {
        let (registries, registry) = (Registries::new(), Some("registry.test"));
        let holder = SocketAddr::from(([10, 0, 0, 1], 1));
        registries.set("registry.test", 12 * MIB);
        registries.was_slow(registry, holder);
        assert!(registries.is_outpaced(registry, holder));
        assert!(!registries.is_outpaced(Some("other.test"), holder) && !registries.is_outpaced(None, holder));
        registries.set("registry.test", 0);
        assert!(!registries.is_outpaced(registry, holder));
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_the_growth_and_nothing_is_told_by_too_little() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        for (what, samples, expected) in [
            ("no byte", &[][..], Some(0)),
            ("growth after a slow begin", &[(1_000, MIB), (1_500, 6 * MIB)][..], Some(10 * MIB)),
            ("in one step", &[(400, 8 * MIB)][..], Some(20 * MIB)),
            ("in one step, too short", &[(100, 8 * MIB)][..], None),
            ("too little", &[(400, MIB / 2)][..], None),
        ] {
            let mut growth = Growth::new(start, 0, 20 * MIB);
            for (at, length) in samples {
                assert!(!growth.is_over(ms(*at)));
                growth.add(ms(*at), *length);
            }
            assert_eq!(growth.rate(), expected, "{what}");
        }
        let mut growth = Growth::new(start, 0, MIB);
        growth.add(ms(50), MIB);
        assert!(growth.is_over(ms(50)), "all is there");
        let growth = Growth::new(start, 0, MIB);
        assert!(growth.is_over(start + REGISTRY_SAMPLED_FOR_SILENCE), "nothing comes");
    }
}
