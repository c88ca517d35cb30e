//! Decides whether content is so new that the label with its source may still be missing.
//!
//! containerd labels content right after its fetch, so that only the age of the content matters. Its date
//! comes from the wall clock, which may have been wrong when the content was written, or may have jumped
//! since. The date is trusted only if it says "old" by every offset that the wall clock had since this agent
//! started. In all other cases the time counts since this agent first saw the content, by the monotonic
//! clock. Content with a date in the future is therefore held back for [`LABELLED_WITHIN`], not until that
//! date, and a clock that jumps ahead does not make new content old.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limits::{LABELLED_WITHIN, NEW_CONTENT_REMEMBERED_MAX};
use crate::oci::Digest;

/// One moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Time since a fixed moment. It never jumps.
    pub(super) monotonic: Duration,
    /// Wall clock, milliseconds since 1970.
    pub(super) unix_ms: u64,
}

/// Content without a label, and when it was first seen.
#[derive(Debug, Default)]
pub(super) struct Newness {
    /// Smallest difference between wall clock and monotonic clock so far, milliseconds.
    offset_ms_min: Option<i128>,
    /// When content without a trusted date was first seen, by the monotonic clock.
    first_seen: HashMap<Digest, Duration>,
}

impl Newness {
    /// Whether the label of `digest` may still come. `created_unix_ms` is the date of the content, if it has
    /// one.
    pub(super) fn is_new(&mut self, digest: &Digest, created_unix_ms: Option<i128>, now: Moment) -> bool {
        let monotonic_ms = now.monotonic.as_millis() as i128;
        let offset_ms = i128::from(now.unix_ms) - monotonic_ms;
        let offset_ms_min = self.offset_ms_min.map_or(offset_ms, |min| min.min(offset_ms));
        self.offset_ms_min = Some(offset_ms_min);
        let age_ms = created_unix_ms.map(|created| monotonic_ms + offset_ms_min - created);
        if age_ms.is_some_and(|age_ms| age_ms >= LABELLED_WITHIN.as_millis() as i128) {
            self.first_seen.remove(digest);
            return false;
        }
        if let Some(first_seen) = self.first_seen.get(digest) {
            return now.monotonic.saturating_sub(*first_seen) < LABELLED_WITHIN;
        }
        self.make_room(now.monotonic);
        self.first_seen.insert(digest.clone(), now.monotonic);
        true
    }

    /// Forgets content that has a label or is gone.
    pub(super) fn settle(&mut self, digest: &Digest) {
        self.first_seen.remove(digest);
    }

    /// Drops expired entries. Content that is dropped early is held back for [`LABELLED_WITHIN`] when it is
    /// asked for again.
    fn make_room(&mut self, now: Duration) {
        if self.first_seen.len() < NEW_CONTENT_REMEMBERED_MAX {
            return;
        }
        self.first_seen.retain(|_, first_seen| now.saturating_sub(*first_seen) < LABELLED_WITHIN);
        if self.first_seen.len() >= NEW_CONTENT_REMEMBERED_MAX {
            self.first_seen.clear();
        }
    }
}

/// [`Newness`] by the clocks of this machine.
#[derive(Debug)]
pub(super) struct Ages {
    start: Instant,
    newness: Mutex<Newness>,
}

impl Ages {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), newness: Mutex::default() }
    }

    pub(super) fn now(&self) -> Moment {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { monotonic: self.start.elapsed(), unix_ms: unix.as_millis() as u64 }
    }

    pub(super) fn newness(&self) -> MutexGuard<'_, Newness> {
        // Each change is one insertion or removal: a panic cannot leave the map half changed.
        self.newness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_UNIX_MS: i128 = 1_700_000_000_000;
    const HOUR_MS: i128 = 3_600_000;

    /// The moment `seconds` after the start, with a wall clock that is wrong by `jumped_ms`.
    fn at(seconds: u64, jumped_ms: i128) -> Moment {
        let unix_ms = START_UNIX_MS + i128::from(seconds) * 1_000 + jumped_ms;
        Moment { monotonic: Duration::from_secs(seconds), unix_ms: u64::try_from(unix_ms).unwrap() }
    }

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    #[test]
    fn the_date_or_the_time_since_it_was_first_seen_makes_content_old() {
        // Name, date in milliseconds after the start, and moments with whether the content is new at each.
        type Case<'a> = (&'a str, Option<i128>, &'a [(Moment, bool)]);
        let cases: [Case<'_>; 7] = [
            ("old by its date at first sight", Some(-HOUR_MS), &[(at(0, 0), false)]),
            ("old by its date at the limit", Some(-5_000), &[(at(0, 0), false)]),
            ("new by its date", Some(-1_000), &[(at(0, 0), true), (at(3, 0), true), (at(4, 0), false)]),
            ("dated in the future", Some(HOUR_MS), &[(at(0, 0), true), (at(4, 0), true), (at(5, 0), false)]),
            ("without a date", None, &[(at(0, 0), true), (at(4, 0), true), (at(5, 0), false)]),
            (
                "a clock that jumps ahead does not make it old",
                Some(-1_000),
                &[(at(0, 0), true), (at(1, HOUR_MS), true), (at(5, HOUR_MS), false)],
            ),
            (
                "a clock that is set back does not make it new for ever",
                Some(0),
                &[(at(1, 0), true), (at(2, -HOUR_MS), true), (at(6, -HOUR_MS), false)],
            ),
        ];
        for (case, created_ms, moments) in cases {
            let mut newness = Newness::default();
            for (position, (moment, expected)) in moments.iter().enumerate() {
                let created = created_ms.map(|created_ms| START_UNIX_MS + created_ms);
                let is_new = newness.is_new(&digest("content"), created, *moment);
                assert_eq!(is_new, *expected, "{case}, moment {position}");
            }
        }
    }

    /// Content that is written after the jump has a date of the clock after the jump.
    #[test]
    fn after_a_jump_ahead_new_content_is_still_held_back_for_its_time() {
        let mut newness = Newness::default();
        assert!(!newness.is_new(&digest("before"), Some(START_UNIX_MS - HOUR_MS), at(0, 0)));
        let created = START_UNIX_MS + 10_000 + HOUR_MS;
        assert!(newness.is_new(&digest("after"), Some(created), at(10, HOUR_MS)));
        assert!(!newness.is_new(&digest("after"), Some(created), at(15, HOUR_MS)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut newness = Newness::default();
        for number in 0..=NEW_CONTENT_REMEMBERED_MAX {
            assert!(newness.is_new(&digest(&number.to_string()), None, at(0, 0)));
        }
        assert!(newness.first_seen.len() <= NEW_CONTENT_REMEMBERED_MAX);
        newness.settle(&digest(&NEW_CONTENT_REMEMBERED_MAX.to_string()));
        assert!(newness.first_seen.is_empty());
    }
}
