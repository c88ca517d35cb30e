//! How the transfers of each digest went lately. containerd comes back: to resume where we cut, for
//! the next of its parallel ranges, or anew after a failure; and each calls for another answer.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::ingest_hash::Follower;
use super::spool::Whole;
use crate::limits::{
    CUT_ORDER_WAIT, CUTS_REMEMBERED_MAX, TRANSFER_MEMORY_TTL, TRANSFERS_REMEMBERED_MAX, WHOLES_SHARED_MAX,
};
use crate::oci::{Digest, Hasher};

/// The first bytes of a blob, hashed as they were passed on.
#[derive(Debug)]
pub(super) struct Prefix {
    pub(super) hasher: Hasher,
    pub(super) length: u64,
    /// Whose bytes they are.
    pub(super) senders: Vec<SocketAddr>,
}

/// A small blob that was asked for in parts, for its other parts. Whoever locks it fetches it for all.
pub(super) type Shared = Arc<tokio::sync::Mutex<Option<SharedWhole>>>;

/// All of it, verified.
#[derive(Clone, Debug)]
pub(super) struct SharedWhole {
    pub(super) source: SocketAddr,
    pub(super) total: u64,
    pub(super) whole: Whole,
}

/// At most [`TRANSFERS_REMEMBERED_MAX`] digests, each for [`TRANSFER_MEMORY_TTL`] after its last news.
#[derive(Debug, Default)]
pub(super) struct Lately {
    digests: Mutex<HashMap<Digest, Memory>>,
    range_ended: Notify,
}

#[derive(Debug)]
struct Memory {
    seen: Instant,
    /// Where answers were cut, until somebody asks there.
    cuts: VecDeque<(u64, Instant)>,
    /// A range was answered 206, of content of this length.
    ranged: Option<u64>,
    /// Starts of the ranges that were asked for and have not ended.
    running: Vec<u64>,
    /// Whose bytes have been passed on.
    senders: Vec<SocketAddr>,
    prefix: Option<Prefix>,
    whole: Option<Shared>,
    follower: Option<Arc<Follower>>,
}

/// A range that was asked for and has not ended. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct RunningRange {
    lately: Arc<Lately>,
    digest: Digest,
    start: u64,
}

impl Lately {
    /// The answer was cut at `offset`.
    pub(super) fn cut(&self, digest: &Digest, offset: u64) {
        self.of(digest, |memory| {
            memory.cuts.retain(|(cut, _)| *cut != offset);
            memory.cuts.push_back((offset, Instant::now()));
            if memory.cuts.len() > CUTS_REMEMBERED_MAX {
                memory.cuts.pop_front();
            }
        });
    }

    /// Whether an answer was cut at `offset`, which is forgotten.
    pub(super) fn take_cut(&self, digest: &Digest, offset: u64) -> bool {
        let take = |memory: &mut Memory| {
            let before = memory.cuts.len();
            memory.cuts.retain(|(_, since)| since.elapsed() < TRANSFER_MEMORY_TTL);
            let before = before.min(memory.cuts.len());
            memory.cuts.retain(|(cut, _)| *cut != offset);
            memory.cuts.len() < before
        };
        self.known(digest, take).unwrap_or(false)
    }

    /// A range from `start` on is asked for.
    pub(super) fn range(self: &Arc<Self>, digest: &Digest, start: u64) -> RunningRange {
        self.of(digest, |memory| memory.running.push(start));
        RunningRange { lately: Arc::clone(self), digest: digest.clone(), start }
    }

    /// A range is answered 206: containerd may ask for others.
    pub(super) fn answered_range(&self, digest: &Digest, total: u64) {
        self.of(digest, |memory| memory.ranged = Some(total));
    }

    /// Length of the content, if a range of it was answered 206 lately.
    pub(super) fn ranged(&self, digest: &Digest) -> Option<u64> {
        self.known(digest, |memory| memory.ranged)?
    }

    /// `holder` has sent bytes that were passed on.
    pub(super) fn sent(&self, digest: &Digest, holder: SocketAddr) {
        self.of(digest, |memory| {
            if !memory.senders.contains(&holder) {
                memory.senders.push(holder);
            }
        });
    }

    /// Whose bytes were passed on lately.
    pub(super) fn senders(&self, digest: &Digest) -> Vec<SocketAddr> {
        self.known(digest, |memory| memory.senders.clone()).unwrap_or_default()
    }

    /// Somebody begins at the first byte: those whose bytes he had before, which were of no use.
    pub(super) fn begins_anew(&self, digest: &Digest) -> Vec<SocketAddr> {
        let anew = |memory: &mut Memory| {
            memory.prefix = None;
            memory.follower = None;
            // Other ranges that run say that this one belongs to them.
            if memory.running.is_empty() { std::mem::take(&mut memory.senders) } else { Vec::new() }
        };
        self.known(digest, anew).unwrap_or_default()
    }

    /// Everything up to `prefix.length` was passed on, then it broke off.
    pub(super) fn keep_prefix(&self, digest: &Digest, prefix: Prefix) {
        self.of(digest, |memory| memory.prefix = Some(prefix));
    }

    /// The prefix of exactly this length, which is forgotten.
    pub(super) fn take_prefix(&self, digest: &Digest, length: u64) -> Option<Prefix> {
        let fits = |prefix: &mut Prefix| prefix.length == length;
        self.known(digest, |memory| memory.prefix.take_if(fits))?
    }

    /// All that was passed on turned out right.
    pub(super) fn right(&self, digest: &Digest) {
        self.known(digest, |memory| {
            memory.senders.clear();
            memory.follower = None;
        });
    }

    /// Who follows the ingest, as long as it grows.
    pub(super) fn follower(&self, digest: &Digest) -> Option<Arc<Follower>> {
        self.known(digest, |memory| memory.follower.take_if(|follower| !follower.is_alive()));
        self.known(digest, |memory| memory.follower.clone())?
    }

    /// Follows the ingest from now on.
    pub(super) fn follow(&self, digest: &Digest, follower: Arc<Follower>) {
        self.of(digest, |memory| memory.follower = Some(follower));
    }

    /// Where the parts of a small blob come from.
    pub(super) fn whole(&self, digest: &Digest) -> Shared {
        let whole = self.of(digest, |memory| Arc::clone(memory.whole.get_or_insert_default()));
        let mut digests = self.lock();
        let with_whole = digests.values_mut().filter(|memory| memory.whole.is_some());
        let mut oldest_first: Vec<&mut Memory> = with_whole.collect();
        oldest_first.sort_by_key(|memory| memory.seen);
        let too_many = oldest_first.len().saturating_sub(WHOLES_SHARED_MAX);
        oldest_first.into_iter().take(too_many).for_each(|memory| memory.whole = None);
        whole
    }

    /// Forgets wholes that nobody has asked for a part of for so long. True: none is left.
    pub(super) fn forget_wholes(&self, after: Duration) -> bool {
        let mut digests = self.lock();
        for memory in digests.values_mut().filter(|memory| memory.seen.elapsed() >= after) {
            memory.whole = None;
        }
        digests.values().all(|memory| memory.whole.is_none())
    }

    fn known<R>(&self, digest: &Digest, with: impl FnOnce(&mut Memory) -> R) -> Option<R> {
        let mut digests = self.lock();
        let memory = digests.get_mut(digest)?;
        if memory.is_over() {
            digests.remove(digest);
            return None;
        }
        Some(with(memory))
    }

    fn of<R>(&self, digest: &Digest, with: impl FnOnce(&mut Memory) -> R) -> R {
        let mut digests = self.lock();
        if !digests.contains_key(digest) {
            digests.retain(|_, memory| !memory.is_over());
            if digests.len() >= TRANSFERS_REMEMBERED_MAX {
                let oldest =
                    digests.iter().min_by_key(|(_, memory)| memory.seen).map(|(digest, _)| digest.clone());
                oldest.map(|oldest| digests.remove(&oldest));
            }
        }
        let memory = digests.entry(digest.clone()).or_insert_with(Memory::new);
        memory.seen = Instant::now();
        with(memory)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Memory>> {
        // A map is whole after any panic.
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn new() -> Self {
        Self {
            seen: Instant::now(),
            cuts: VecDeque::new(),
            ranged: None,
            running: Vec::new(),
            senders: Vec::new(),
            prefix: None,
            whole: None,
            follower: None,
        }
    }

    fn is_over(&self) -> bool {
        self.running.is_empty() && self.seen.elapsed() >= TRANSFER_MEMORY_TTL
    }
}

impl RunningRange {
    /// Waits, but not for ever, until no range before this one is being sent. containerd in its
    /// parallel mode reads them in order, and resumes only if the first that ends early is the one
    /// that it reads.
    pub(crate) async fn is_first(&self) {
        let first = async {
            loop {
                let ended = self.lately.range_ended.notified();
                let mut ended = std::pin::pin!(ended);
                ended.as_mut().enable();
                let is_first = |memory: &mut Memory| memory.running.iter().all(|start| *start >= self.start);
                if self.lately.known(&self.digest, is_first).unwrap_or(true) {
                    return;
                }
                ended.await;
            }
        };
        _ = timeout(CUT_ORDER_WAIT, first).await;
    }
}

impl Drop for RunningRange {
    fn drop(&mut self) {
        self.lately.of(&self.digest, |memory| {
            if let Some(at) = memory.running.iter().position(|start| *start == self.start) {
                memory.running.swap_remove(at);
            }
        });
        self.lately.range_ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn lately() -> (Arc<Lately>, Digest) {
        (Arc::default(), Digest::of(b"x"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_is_known_once_at_its_offset_and_within_its_time() {
        let (lately, digest) = lately();
        lately.cut(&digest, 10);
        assert!(!lately.take_cut(&digest, 9));
        lately.cut(&digest, 20);
        assert!(lately.take_cut(&digest, 10) && !lately.take_cut(&digest, 10));
        assert!(lately.take_cut(&digest, 20));
        lately.cut(&digest, 10);
        tokio::time::advance(TRANSFER_MEMORY_TTL).await;
        assert!(!lately.take_cut(&digest, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_prefix_is_given_once_at_its_length() {
        let (lately, digest) = lately();
        let prefix = || Prefix { hasher: Hasher::new(Algorithm::Sha256), length: 10, senders: Vec::new() };
        lately.keep_prefix(&digest, prefix());
        assert!(lately.take_prefix(&digest, 9).is_none());
        assert!(lately.take_prefix(&digest, 10).is_some() && lately.take_prefix(&digest, 10).is_none());
        lately.keep_prefix(&digest, prefix());
        lately.begins_anew(&digest);
        assert!(lately.take_prefix(&digest, 10).is_none(), "of another transfer");
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded() {
        let (lately, first) = lately();
        lately.cut(&first, 0);
        for number in 0..TRANSFERS_REMEMBERED_MAX {
            tokio::time::advance(Duration::from_millis(1)).await;
            lately.cut(&Digest::of(&number.to_le_bytes()), 0);
        }
        assert_eq!(lately.lock().len(), TRANSFERS_REMEMBERED_MAX);
        assert!(!lately.take_cut(&first, 0), "the oldest goes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_range_waits_for_those_before_it() {
        let (lately, digest) = lately();
        let (first, last) = (lately.range(&digest, 0), lately.range(&digest, 20));
        let _other = lately.range(&Digest::of(b"y"), 0);
        let start = Instant::now();
        first.is_first().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        last.is_first().await;
        assert_eq!(start.elapsed(), CUT_ORDER_WAIT, "bounded");
        let (start, dropped) = (Instant::now(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(first);
        });
        tokio::join!(last.is_first(), dropped);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_begins_anew_had_no_use_of_what_was_sent() {
        let (lately, digest) = lately();
        let peer = SocketAddr::from(([10, 0, 0, 1], 1));
        lately.sent(&digest, peer);
        let running = lately.range(&digest, 5);
        assert!(lately.begins_anew(&digest).is_empty(), "a range still runs");
        drop(running);
        assert_eq!(lately.begins_anew(&digest), [peer]);
        assert!(lately.begins_anew(&digest).is_empty());
    }
}
