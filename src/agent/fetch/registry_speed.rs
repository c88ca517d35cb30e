//! How fast this node's registries were lately, and whether a transfer from peers is given up for one.
//!
//! What is measured is what containerd fetches after this node answered 404: the growth of its ingest. A
//! registry of which nothing is known, or that sent nothing when it was last asked, is never preferred,
//! so that a slow transfer goes on where no other source has the bytes.

mod growth;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::{Instant, sleep};

use self::growth::Growth;
use super::background::Background;
use super::ingests::Ingests;
use super::wanted::{Kind, Wanted};
use crate::agent::expiring_set::ExpiringSet;
use crate::limits::{
    REGISTRIES_MEASURED_MAX, REGISTRY_MEASURED_BYTES_MIN, REGISTRY_MEASURED_TTL, REGISTRY_SAMPLE_PAUSE,
    REGISTRY_SAVES_MIN, REGISTRY_TIMES_FASTER, SOURCE_BYTES_PER_SECOND_MIN, TROUBLES_REMEMBERED_MAX,
};
use crate::oci::Digest;

/// How fast the registries of this node were when they were measured last.
#[derive(Debug)]
pub(crate) struct RegistrySpeeds {
    measured: Mutex<HashMap<String, Measured>>,
    /// Whether a measurement runs: there is one at a time.
    is_measuring: AtomicBool,
    /// Holders that were too slow for content of a registry.
    outpaced: ExpiringSet<(String, SocketAddr)>,
    /// Content that was left to its registry because of that.
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
pub(crate) struct RunningTransfer {
    pub(crate) bytes_per_second: u64,
    pub(crate) left_bytes: u64,
    /// Number of transfers of this node that share its link, this one included.
    pub(crate) transfers: usize,
}

impl Measured {
    fn is_known(&self, now: Instant) -> bool {
        self.bytes_per_second > 0 && now.saturating_duration_since(self.at) < REGISTRY_MEASURED_TTL
    }

    /// Whether the rest of `running` would come much sooner from this registry, even if all transfers of this node
    /// were as fast as that one.
    fn outpaces(&self, running: RunningTransfer, now: Instant) -> bool {
        let node = running.bytes_per_second.saturating_mul(running.transfers.max(1) as u64);
        if !self.is_known(now) || node.saturating_mul(REGISTRY_TIMES_FASTER) > self.bytes_per_second {
            return false;
        }
        let seconds = |rate: u64| running.left_bytes / rate.max(1);
        let saved = seconds(running.bytes_per_second).saturating_sub(seconds(self.bytes_per_second));
        saved >= REGISTRY_SAVES_MIN.as_secs()
    }
}

impl RegistrySpeeds {
    /// No registry has been measured yet.
    pub(crate) fn new() -> Self {
        Self {
            measured: Mutex::default(),
            is_measuring: AtomicBool::new(false),
            outpaced: ExpiringSet::new(REGISTRY_MEASURED_TTL, TROUBLES_REMEMBERED_MAX),
            left: ExpiringSet::new(REGISTRY_MEASURED_TTL, TROUBLES_REMEMBERED_MAX),
        }
    }

    /// Leaves `wanted`, all of whose holders are outpaced, to its registry. Returns whether that is done: not if
    /// it was done before, because a client that asks again did not get it there. Then nothing is left to that
    /// registry until it is measured again.
    pub(crate) fn leave(&self, wanted: &Wanted) -> bool {
        if wanted.head_only || wanted.start() != Some(0) {
            return true;
        }
        if self.left.contains(&wanted.digest)
            && let Some(registry) = wanted.registry()
        {
            self.is_away(registry);
            return false;
        }
        self.left.insert(wanted.digest.clone());
        true
    }

    /// Notes that nothing is to be had from `registry`: its measurement is forgotten.
    pub(crate) fn is_away(&self, registry: &str) {
        self.lock().remove(registry);
    }

    /// Whether `running` is given up for `registry`.
    pub(crate) fn outpaces(&self, registry: Option<&str>, running: RunningTransfer) -> bool {
        let measured = registry.and_then(|registry| self.lock().get(registry).copied());
        measured.is_some_and(|measured| measured.outpaces(running, Instant::now()))
    }

    /// Notes that `holder` was too slow for content of `registry`.
    pub(crate) fn was_slow(&self, registry: Option<&str>, holder: SocketAddr) {
        if let Some(registry) = registry {
            self.outpaced.insert((registry.to_owned(), holder));
        }
    }

    /// Whether `holder` was too slow for content of `registry` lately, and that registry is known to be far faster
    /// than the slowest peers that are accepted.
    pub(crate) fn is_outpaced(&self, registry: Option<&str>, holder: SocketAddr) -> bool {
        let Some(registry) = registry else { return false };
        let is_fast = |measured: &Measured| {
            let least = SOURCE_BYTES_PER_SECOND_MIN * REGISTRY_TIMES_FASTER;
            measured.is_known(Instant::now()) && measured.bytes_per_second >= least
        };
        self.lock().get(registry).is_some_and(is_fast)
            && self.outpaced.contains(&(registry.to_owned(), holder))
    }

    /// Measures the registry of `wanted`, which peers did not bring: containerd asks the registry next.
    pub(crate) fn measure_later(
        self: &Arc<Self>,
        wanted: &Wanted,
        ingests: &Arc<Ingests>,
        background: &Background,
    ) {
        let Some(registry) = wanted.path.registry.clone() else { return };
        if wanted.kind() != Kind::Blob || self.is_measuring.swap(true, Ordering::AcqRel) {
            return;
        }
        let (speeds, ingests, digest) = (Arc::clone(self), Arc::clone(ingests), wanted.digest.clone());
        let measuring = background.clone();
        background.spawn(async move {
            if let Some(Some(growth)) = measuring.until_stop(growth(&ingests, &digest)).await
                && let Some(rate) = growth.rate()
            {
                speeds.set(&registry, rate);
            }
            speeds.is_measuring.store(false, Ordering::Release);
        });
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

/// How the ingest of `digest` grows. `None`: it cannot be seen, or is too small to tell anything.
async fn growth(ingests: &Ingests, digest: &Digest) -> Option<Growth> {
    let ingest = ingests.of(digest).await.into_iter().next()?;
    let (total, data) = (ingest.total_bytes?, ingest.data?);
    let length = data.metadata().ok()?.len();
    let mut growth = Growth::new(Instant::now(), length, total);
    if total.saturating_sub(length) < REGISTRY_MEASURED_BYTES_MIN {
        return None;
    }
    while !growth.is_over(Instant::now()) {
        sleep(REGISTRY_SAMPLE_PAUSE).await;
        growth.add(Instant::now(), data.metadata().ok()?.len());
    }
    Some(growth)
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
        let slow = RunningTransfer { bytes_per_second: 70 * 1_024, left_bytes: 10 * MIB, transfers: 1 };
        for (what, registry, at, running, expected) in [
            ("a lone crawling holder against 100 Mbit/s", 12 * MIB, now, slow, true),
            ("a registry that sent nothing", 0, now, slow, false),
            ("a registry measured long ago", 12 * MIB, long_ago, slow, false),
            ("a registry that is faster, but not by far", 500 * 1_024, now, slow, false),
            ("little is left", 12 * MIB, now, RunningTransfer { left_bytes: MIB / 2, ..slow }, false),
            ("the link is shared by many", 12 * MIB, now, RunningTransfer { transfers: 30, ..slow }, false),
            ("nothing comes", 12 * MIB, now, RunningTransfer { bytes_per_second: 0, ..slow }, true),
        ] {
            let measured = Measured { bytes_per_second: registry, at };
            assert_eq!(measured.outpaces(running, now), expected, "{what}");
        }
        assert!(!RegistrySpeeds::new().outpaces(Some("registry.test"), slow), "an unknown registry");
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_was_given_up_is_asked_again_when_the_registry_sends_nothing() {
        let (registries, registry) = (RegistrySpeeds::new(), Some("registry.test"));
        let holder = SocketAddr::from(([10, 0, 0, 1], 1));
        registries.set("registry.test", 12 * MIB);
        registries.was_slow(registry, holder);
        assert!(registries.is_outpaced(registry, holder));
        assert!(!registries.is_outpaced(Some("other.test"), holder) && !registries.is_outpaced(None, holder));
        registries.set("registry.test", 0);
        assert!(!registries.is_outpaced(registry, holder));
    }
}
