//! When requests give their turn in containerd's queue away. Pure: the time is an argument.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::limits::{YIELDS_AT_ONE_OFFSET_MAX, YIELDS_REMEMBERED_FOR, YIELDS_REMEMBERED_MAX};
use crate::oci::Digest;

/// How requests have given their turns away, by blob. This outlives flights: a request may wait in containerd's queue
/// for longer than they do.
#[derive(Debug, Default)]
pub(super) struct Yields {
    blobs: HashMap<Digest, Yielded>,
}

/// How requests for one blob have given their turns away.
#[derive(Debug)]
struct Yielded {
    /// The fetches for which they did, each with the bytes that it had.
    to: HashSet<(Digest, u64)>,
    /// Where the last request was cut, and how often requests were cut there.
    at: (u64, usize),
    last: Duration,
}

impl Yields {
    /// Whether a request for `digest` that has passed on the bytes before `start`, and receives nothing at `now`, gives its
    /// turn away to one of the fetches that are `standing` at so many bytes: once for each of these, and
    /// [`YIELDS_AT_ONE_OFFSET_MAX`] times at one place, because containerd gives a pull up after more cuts there. What
    /// this agent has gathered and not passed on is no progress for containerd.
    pub(super) fn yields(
        &mut self,
        digest: &Digest,
        start: u64,
        standing: &[(Digest, u64)],
        now: Duration,
    ) -> bool {
        let is_fresh = |yielded: &Yielded| now.saturating_sub(yielded.last) < YIELDS_REMEMBERED_FOR;
        if standing.is_empty() {
            return false;
        }
        self.blobs.retain(|_, yielded| is_fresh(yielded));
        if self.blobs.len() >= YIELDS_REMEMBERED_MAX && !self.blobs.contains_key(digest) {
            return false;
        }
        let begun = Yielded { to: HashSet::new(), at: (start, 0), last: now };
        let yielded = self.blobs.entry(digest.clone()).or_insert(begun);
        if yielded.at.0 != start {
            yielded.at = (start, 0);
        }
        let Some(to) = standing.iter().find(|fetch| !yielded.to.contains(*fetch)) else { return false };
        if yielded.at.1 >= YIELDS_AT_ONE_OFFSET_MAX {
            return false;
        }
        yielded.at.1 += 1;
        yielded.last = now;
        yielded.to.insert(to.clone());
        true
    }

    /// Notes that all of `digest` has come.
    pub(super) fn forget(&mut self, digest: &Digest) {
        self.blobs.remove(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    /// A blob, and three fetches.
    fn scene() -> (Yields, Digest, [(Digest, u64); 3]) {
        let fetches = [b"a", b"b", b"c"].map(|bytes| (Digest::of(bytes), 0));
        (Yields::default(), Digest::of(b"x"), fetches)
    }

    #[test]
    fn a_turn_is_given_away_once_for_each_fetch_and_twice_at_one_start() {
        let (mut yields, x, [a, b, c]) = scene();
        assert!(!yields.yields(&x, 0, &[], NOW));
        assert!(yields.yields(&x, 0, std::slice::from_ref(&a), NOW));
        assert!(!yields.yields(&x, 0, std::slice::from_ref(&a), NOW));
        assert!(yields.yields(&x, 0, &[a.clone(), b.clone()], NOW));
        let all = [a, b, c];
        assert!(!yields.yields(&x, 0, &all, NOW) && yields.yields(&x, 1, &all, NOW));
        assert!(!yields.yields(&x, 2, &all, NOW));
    }

    #[test]
    fn a_fetch_that_stands_again_gets_another_turn() {
        let (mut yields, x, [(a, _), ..]) = scene();
        let at = |bytes| [(a.clone(), bytes)];
        assert!(yields.yields(&x, 0, &at(0), NOW) && !yields.yields(&x, 0, &at(0), NOW));
        assert!(yields.yields(&x, 0, &at(4), NOW) && !yields.yields(&x, 0, &at(8), NOW));
    }

    #[test]
    fn it_is_remembered_until_all_of_the_blob_has_come_or_for_long() {
        let (mut yields, x, [a, ..]) = scene();
        let standing = std::slice::from_ref(&a);
        assert!(yields.yields(&x, 0, standing, NOW));
        assert!(!yields.yields(&x, 0, standing, NOW + YIELDS_REMEMBERED_FOR - Duration::from_millis(1)));
        assert!(yields.yields(&x, 0, standing, NOW + YIELDS_REMEMBERED_FOR));
        yields.forget(&x);
        assert!(yields.yields(&x, 0, standing, NOW + YIELDS_REMEMBERED_FOR));
    }

    #[test]
    fn blobs_beyond_the_limit_keep_their_turn() {
        let (mut yields, _, [a, ..]) = scene();
        let standing = std::slice::from_ref(&a);
        for number in 0..YIELDS_REMEMBERED_MAX {
            assert!(yields.yields(&Digest::of(number.to_string().as_bytes()), 0, standing, NOW));
        }
        assert!(!yields.yields(&Digest::of(b"one more"), 0, standing, NOW));
    }
}
