//! The growth of an ingest, and the rate that follows from it. Pure: times and lengths come in.

use tokio::time::Instant;

use crate::limits::{
    REGISTRY_MEASURED_BYTES_MIN, REGISTRY_MEASURED_FOR_MIN, REGISTRY_SAMPLED_FOR_MAX,
    REGISTRY_SAMPLED_FOR_SILENCE,
};

/// The growth of one ingest: lengths in bytes with their times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    /// The length at the beginning.
    begun: (Instant, u64),
    /// The length when the first growth was seen.
    first: Option<(Instant, u64)>,
    /// The length when the last growth was seen.
    last: (Instant, u64),
    /// The length that containerd expects.
    total: u64,
}

impl Growth {
    /// An ingest that has `length` of `total` bytes now.
    pub(super) fn new(now: Instant, length: u64, total: u64) -> Self {
        Self { begun: (now, length), first: None, last: (now, length), total }
    }

    /// Adds what is seen now.
    pub(super) fn add(&mut self, now: Instant, length: u64) {
        if length > self.last.1 {
            self.first.get_or_insert((now, length));
            self.last = (now, length);
        }
    }

    /// Whether nothing more is to be learned: it took too long, nothing comes, or all is there.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun.0) >= REGISTRY_SAMPLED_FOR_MAX
            || now.saturating_duration_since(self.last.0) >= REGISTRY_SAMPLED_FOR_SILENCE
            || self.last.1 >= self.total
    }

    /// Bytes per second; `None` if the growth was too little, or too short, to tell.
    pub(super) fn rate(&self) -> Option<u64> {
        let Some(first) = self.first else { return Some(0) };
        let between = |from: (Instant, u64)| {
            let (time, bytes) = (self.last.0 - from.0, self.last.1 - from.1);
            (time >= REGISTRY_MEASURED_FOR_MIN && bytes >= REGISTRY_MEASURED_BYTES_MIN)
                .then(|| u64::try_from(u128::from(bytes) * 1_000 / time.as_millis()).unwrap_or(u64::MAX))
        };
        // With the time until the first byte, the rate is less than the true one.
        between(first).or_else(|| between(self.begun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MIB: u64 = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_the_growth_and_too_little_growth_has_none() {
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
