//! How the transfers of each digest went lately. containerd comes back: to resume where a response was cut, for
//! the next of its parallel ranges, or anew after a failure; and each calls for another answer.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::ingests::follower::Follower;
use super::spool::Whole;
use crate::agent::content::head::Head;
use crate::limits::{
    CUT_ORDER_WAIT, CUTS_REMEMBERED_MAX, TRANSFER_MEMORY_TTL, TRANSFERS_REMEMBERED_MAX, WHOLES_SHARED_MAX,
};
use crate::oci::{Digest, Hasher, RangeHeader};

/// The first bytes of a blob, hashed as they were passed on.
#[derive(Debug)]
pub(crate) struct Prefix {
    pub(crate) hasher: Hasher,
    /// How many bytes are hashed.
    pub(crate) length: u64,
    /// The peers that sent them.
    pub(crate) senders: Vec<SocketAddr>,
}

/// The place of a small blob that was asked for in parts, for its other parts. The request that has the lock
/// fetches the blob for all.
pub(crate) type SharedSlot = Arc<tokio::sync::Mutex<Option<SharedWhole>>>;

/// All of a small blob, verified.
#[derive(Clone, Debug)]
pub(crate) struct SharedWhole {
    pub(crate) source: SocketAddr,
    pub(crate) total: u64,
    pub(crate) whole: Whole,
}

/// Remembers at most [`TRANSFERS_REMEMBERED_MAX`] digests, each for [`TRANSFER_MEMORY_TTL`] after its last news.
#[derive(Debug, Default)]
pub(crate) struct ResumeMemory {
    digests: Mutex<HashMap<Digest, DigestMemory>>,
    range_ended: Notify,
}

/// How the transfers of one digest went.
#[derive(Debug)]
struct DigestMemory {
    /// Time of the last news.
    seen: Instant,
    /// Offsets at which responses were cut, until a request starts there.
    cuts: VecDeque<(u64, Instant)>,
    /// Length of the content, if a range of it was answered 206.
    ranged: Option<u64>,
    /// Starts of the ranges that were asked for and have not ended.
    running: Vec<u64>,
    /// Peers whose bytes have been passed on.
    senders: Vec<SocketAddr>,
    prefix: Option<Prefix>,
    whole: Option<SharedSlot>,
    follower: Option<Arc<Follower>>,
}

/// A range that was asked for. It has ended when this is dropped.
#[derive(Debug)]
pub(crate) struct RunningRange {
    resume: Arc<ResumeMemory>,
    digest: Digest,
    start: u64,
}

impl ResumeMemory {
    /// Notes that a response was cut at `offset`.
    pub(crate) fn cut(&self, digest: &Digest, offset: u64) {
        self.of(digest, |memory| {
            memory.cuts.retain(|(cut, _)| *cut != offset);
            memory.cuts.push_back((offset, Instant::now()));
            if memory.cuts.len() > CUTS_REMEMBERED_MAX {
                memory.cuts.pop_front();
            }
        });
    }

    /// Whether a response was cut at `offset`. That is forgotten then.
    pub(crate) fn take_cut(&self, digest: &Digest, offset: u64) -> bool {
        let take = |memory: &mut DigestMemory| {
            let before = memory.cuts.len();
            memory.cuts.retain(|(_, since)| since.elapsed() < TRANSFER_MEMORY_TTL);
            let before = before.min(memory.cuts.len());
            memory.cuts.retain(|(cut, _)| *cut != offset);
            memory.cuts.len() < before
        };
        self.known(digest, take).unwrap_or(false)
    }

    /// Notes that `range` is asked for, unless its start depends on the length of the content.
    pub(crate) fn range(self: &Arc<Self>, digest: &Digest, range: RangeHeader) -> Option<RunningRange> {
        let (RangeHeader::From(start) | RangeHeader::Between(start, _)) = range else { return None };
        self.of(digest, |memory| memory.running.push(start));
        Some(RunningRange { resume: Arc::clone(self), digest: digest.clone(), start })
    }

    /// Notes that a range of content of `total` bytes is answered 206: containerd may ask for others.
    pub(crate) fn answered_range(&self, digest: &Digest, total: u64) {
        self.of(digest, |memory| memory.ranged = Some(total));
    }

    /// Length of the content, if a range of it was answered 206 lately.
    pub(crate) fn ranged(&self, digest: &Digest) -> Option<u64> {
        self.known(digest, |memory| memory.ranged)?
    }

    /// What `range` may be promised although no source has it: once the first range of a blob was answered
    /// 206, containerd in its parallel mode has no other host for the others.
    pub(crate) fn promised(&self, digest: &Digest, range: RangeHeader) -> Option<Head> {
        let total = self.ranged(digest)?;
        let range = range.within(total).filter(|range| range.start > 0)?;
        Some(Head { total, range: Some(range) })
    }

    /// Notes that `holder` has sent bytes that were passed on.
    pub(crate) fn sent(&self, digest: &Digest, holder: SocketAddr) {
        self.of(digest, |memory| {
            if !memory.senders.contains(&holder) {
                memory.senders.push(holder);
            }
        });
    }

    /// The peers whose bytes were passed on lately.
    pub(crate) fn senders(&self, digest: &Digest) -> Vec<SocketAddr> {
        self.known(digest, |memory| memory.senders.clone()).unwrap_or_default()
    }

    /// Notes that a request begins at the first byte. Returns the peers whose bytes were passed on before, and were
    /// of no use.
    pub(crate) fn begins_anew(&self, digest: &Digest) -> Vec<SocketAddr> {
        let anew = |memory: &mut DigestMemory| {
            memory.prefix = None;
            memory.follower = None;
            // If other ranges run, this one belongs to them.
            if memory.running.is_empty() { std::mem::take(&mut memory.senders) } else { Vec::new() }
        };
        self.known(digest, anew).unwrap_or_default()
    }

    /// Notes that everything up to `prefix.length` was passed on, and that it broke off there.
    pub(crate) fn keep_prefix(&self, digest: &Digest, prefix: Prefix) {
        self.of(digest, |memory| memory.prefix = Some(prefix));
    }

    /// Takes out the prefix of exactly this length.
    pub(crate) fn take_prefix(&self, digest: &Digest, length: u64) -> Option<Prefix> {
        let fits = |prefix: &mut Prefix| prefix.length == length;
        self.known(digest, |memory| memory.prefix.take_if(fits))?
    }

    /// Notes that all bytes that were passed on are right.
    pub(crate) fn right(&self, digest: &Digest) {
        self.known(digest, |memory| {
            memory.senders.clear();
            memory.follower = None;
        });
    }

    /// The follower of the ingest, as long as it grows.
    pub(crate) fn follower(&self, digest: &Digest) -> Option<Arc<Follower>> {
        self.known(digest, |memory| memory.follower.take_if(|follower| !follower.is_alive()));
        self.known(digest, |memory| memory.follower.clone())?
    }

    /// Keeps the follower of the ingest.
    pub(crate) fn follow(&self, digest: &Digest, follower: Arc<Follower>) {
        self.of(digest, |memory| memory.follower = Some(follower));
    }

    /// The place of a small blob that is asked for in parts. At most [`WHOLES_SHARED_MAX`] are kept.
    pub(crate) fn whole(&self, digest: &Digest) -> SharedSlot {
        let whole = self.of(digest, |memory| Arc::clone(memory.whole.get_or_insert_default()));
        let mut digests = self.lock();
        let with_whole = digests.values_mut().filter(|memory| memory.whole.is_some());
        let mut oldest_first: Vec<&mut DigestMemory> = with_whole.collect();
        oldest_first.sort_by_key(|memory| memory.seen);
        let too_many = oldest_first.len().saturating_sub(WHOLES_SHARED_MAX);
        oldest_first.into_iter().take(too_many).for_each(|memory| memory.whole = None);
        whole
    }

    /// Forgets small blobs of which no part was asked for during `after`. Returns whether none is left.
    pub(crate) fn forget_wholes(&self, after: Duration) -> bool {
        let mut digests = self.lock();
        for memory in digests.values_mut().filter(|memory| memory.seen.elapsed() >= after) {
            memory.whole = None;
        }
        digests.values().all(|memory| memory.whole.is_none())
    }

    /// Reads or changes what is known of `digest`; `None` if nothing is.
    fn known<R>(&self, digest: &Digest, with: impl FnOnce(&mut DigestMemory) -> R) -> Option<R> {
        let mut digests = self.lock();
        let memory = digests.get_mut(digest)?;
        if memory.is_over() {
            digests.remove(digest);
            return None;
        }
        Some(with(memory))
    }

    /// Changes what is known of `digest`, which is new if nothing is known.
    fn of<R>(&self, digest: &Digest, with: impl FnOnce(&mut DigestMemory) -> R) -> R {
        let mut digests = self.lock();
        if !digests.contains_key(digest) {
            digests.retain(|_, memory| !memory.is_over());
            if digests.len() >= TRANSFERS_REMEMBERED_MAX {
                let oldest =
                    digests.iter().min_by_key(|(_, memory)| memory.seen).map(|(digest, _)| digest.clone());
                oldest.map(|oldest| digests.remove(&oldest));
            }
        }
        let memory = digests.entry(digest.clone()).or_insert_with(DigestMemory::new);
        memory.seen = Instant::now();
        with(memory)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, DigestMemory>> {
        // A map is whole after any panic.
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DigestMemory {
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
    /// Waits until no range before this one is being sent, for [`CUT_ORDER_WAIT`] at most. containerd in its
    /// parallel mode reads the ranges in order, and resumes only if the first range that ends early is the
    /// one that it reads.
    pub(crate) async fn is_first(&self) {
        let first = async {
            loop {
                let ended = self.resume.range_ended.notified();
                let mut ended = std::pin::pin!(ended);
                ended.as_mut().enable();
                let is_first =
                    |memory: &mut DigestMemory| memory.running.iter().all(|start| *start >= self.start);
                if self.resume.known(&self.digest, is_first).unwrap_or(true) {
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
        self.resume.of(&self.digest, |memory| {
            if let Some(at) = memory.running.iter().position(|start| *start == self.start) {
                memory.running.swap_remove(at);
            }
        });
        self.resume.range_ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn resume() -> (Arc<ResumeMemory>, Digest) {
        (Arc::default(), Digest::of(b"x"))
    }

    fn range(resume: &Arc<ResumeMemory>, digest: &Digest, start: u64) -> RunningRange {
        resume.range(digest, RangeHeader::From(start)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_is_known_once_at_its_offset_and_within_its_time() {
        let (resume, digest) = resume();
        resume.cut(&digest, 10);
        assert!(!resume.take_cut(&digest, 9));
        resume.cut(&digest, 20);
        assert!(resume.take_cut(&digest, 10) && !resume.take_cut(&digest, 10));
        assert!(resume.take_cut(&digest, 20));
        resume.cut(&digest, 10);
        tokio::time::advance(TRANSFER_MEMORY_TTL).await;
        assert!(!resume.take_cut(&digest, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_prefix_is_given_once_at_its_length() {
        let (resume, digest) = resume();
        let prefix = || Prefix { hasher: Hasher::new(Algorithm::Sha256), length: 10, senders: Vec::new() };
        resume.keep_prefix(&digest, prefix());
        assert!(resume.take_prefix(&digest, 9).is_none());
        assert!(resume.take_prefix(&digest, 10).is_some() && resume.take_prefix(&digest, 10).is_none());
        resume.keep_prefix(&digest, prefix());
        resume.begins_anew(&digest);
        assert!(resume.take_prefix(&digest, 10).is_none(), "of another transfer");
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded() {
        let (resume, first) = resume();
        resume.cut(&first, 0);
        for number in 0..TRANSFERS_REMEMBERED_MAX {
            tokio::time::advance(Duration::from_millis(1)).await;
            resume.cut(&Digest::of(&number.to_le_bytes()), 0);
        }
        assert_eq!(resume.lock().len(), TRANSFERS_REMEMBERED_MAX);
        assert!(!resume.take_cut(&first, 0), "the oldest goes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_range_waits_for_those_before_it() {
        let (resume, digest) = resume();
        let (first, last) = (range(&resume, &digest, 0), range(&resume, &digest, 20));
        let _other = range(&resume, &Digest::of(b"y"), 0);
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
    async fn a_request_that_begins_anew_had_no_use_of_what_was_sent() {
        let (resume, digest) = resume();
        let peer = SocketAddr::from(([10, 0, 0, 1], 1));
        resume.sent(&digest, peer);
        let running = range(&resume, &digest, 5);
        assert!(resume.begins_anew(&digest).is_empty(), "a range still runs");
        drop(running);
        assert_eq!(resume.begins_anew(&digest), [peer]);
        assert!(resume.begins_anew(&digest).is_empty());
    }
}
