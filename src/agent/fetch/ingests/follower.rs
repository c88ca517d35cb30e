//! The hash of what containerd has written of a blob. When containerd resumes, or fetches in ranges, this node
//! passes on only parts; containerd writes them in order into one file, which is hashed while it grows.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::agent::content::buffer_pool::BufferPool;
use crate::agent::fetch::background::Background;
use crate::agent::fetch::pieces::compact;
use crate::limits::{
    FILE_CHUNK_BYTES, FOLLOW_IDLE_MAX, FOLLOW_PAUSE, FOLLOW_TAIL_BYTES, FOLLOW_TURN_BYTES, FOLLOW_VERDICT_MAX,
};
use crate::oci::{Digest, Hasher};

/// Hashes one ingest while it grows.
#[derive(Debug)]
pub(crate) struct Follower {
    hasher: Arc<Mutex<Hashed>>,
    progress: watch::Receiver<u64>,
    _ends_with_us: DropGuard,
}

/// The hash of the first bytes of a file.
#[derive(Debug)]
struct Hashed {
    hasher: Hasher,
    /// How many bytes are hashed.
    offset: u64,
}

impl Follower {
    /// Follows `data` until it has not grown for [`FOLLOW_IDLE_MAX`], or until this is dropped.
    pub(crate) fn start(data: File, digest: &Digest, pool: BufferPool, background: &Background) -> Self {
        let hasher = Hashed { hasher: Hasher::new(digest.algorithm()), offset: 0 };
        let hasher = Arc::new(Mutex::new(hasher));
        let (sender, progress) = watch::channel(0);
        let stop = CancellationToken::new();
        let following = follow(Arc::new(data), Arc::clone(&hasher), pool, sender);
        let stopped = stop.clone();
        background.spawn(async move { _ = stopped.run_until_cancelled(following).await });
        Self { hasher, progress, _ends_with_us: stop.drop_guard() }
    }

    /// Whether the file is still followed.
    pub(crate) fn is_alive(&self) -> bool {
        self.progress.has_changed().is_ok()
    }

    /// Whether the bytes before the tail, the tail, and `last` together have the digest. `None` if that cannot be
    /// told: containerd does not write what it has read, or not into this file.
    pub(crate) async fn verdict(&self, tail: &Tail, last: &Bytes, digest: &Digest) -> Option<bool> {
        let mut progress = self.progress.clone();
        // Not as long as the file grows: it may be the ingest of another request.
        let far_enough = progress.wait_for(|hashed| *hashed >= tail.start);
        timeout(FOLLOW_VERDICT_MAX, far_enough).await.ok()?.ok()?;
        let (mut hasher, offset) = {
            let hashed = self.hasher.lock().unwrap_or_else(PoisonError::into_inner);
            (hashed.hasher.clone(), hashed.offset)
        };
        let mut skip = usize::try_from(offset.checked_sub(tail.start)?).ok()?;
        for piece in tail.pieces.iter().chain([last]) {
            let skipped = skip.min(piece.len());
            hasher.update(&piece[skipped..]);
            skip -= skipped;
        }
        (skip == 0).then(|| hasher.finish() == *digest)
    }
}

async fn follow(data: Arc<File>, hasher: Arc<Mutex<Hashed>>, pool: BufferPool, progress: watch::Sender<u64>) {
    let mut idle = Duration::ZERO;
    while idle < FOLLOW_IDLE_MAX {
        let (data, hasher, pool) = (Arc::clone(&data), Arc::clone(&hasher), pool.clone());
        let before = *progress.borrow();
        match tokio::task::spawn_blocking(move || hash_on(&data, &hasher, &pool)).await {
            Ok(Ok(offset)) if offset > before => {
                progress.send_replace(offset);
                idle = Duration::ZERO;
            }
            Ok(Ok(_)) => {
                sleep(FOLLOW_PAUSE).await;
                idle += FOLLOW_PAUSE;
            }
            Ok(Err(error)) => return tracing::debug!(%error, "could not read an ingest"),
            Err(_) => return,
        }
    }
}

/// Hashes what is there, [`FOLLOW_TURN_BYTES`] at most. Returns the new offset. Blocks.
fn hash_on(data: &File, hasher: &Mutex<Hashed>, pool: &BufferPool) -> io::Result<u64> {
    let length = data.metadata()?.len();
    // The lock is held for one chunk at a time; only this function changes what is behind it.
    let lock = || hasher.lock().unwrap_or_else(PoisonError::into_inner);
    let mut offset = lock().offset;
    let end = length.min(offset + FOLLOW_TURN_BYTES);
    while offset < end {
        let chunk = usize::try_from(end - offset).unwrap_or(FILE_CHUNK_BYTES).min(FILE_CHUNK_BYTES);
        let bytes = pool.read_at(data, offset, chunk)?;
        let mut hashed = lock();
        hashed.hasher.update(&bytes);
        hashed.offset += bytes.len() as u64;
        offset = hashed.offset;
    }
    Ok(offset)
}

/// The last bytes that were passed on. containerd may not have written them yet.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Offset of the first of them in the blob.
    start: u64,
    /// How many there are.
    length: u64,
    pieces: std::collections::VecDeque<Bytes>,
}

impl Tail {
    /// No bytes yet, from offset `start` on.
    pub(crate) fn new(start: u64) -> Self {
        Self { start, length: 0, pieces: std::collections::VecDeque::new() }
    }

    /// Adds bytes that were passed on, and forgets those that are far enough behind.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.length += bytes.len() as u64;
        self.pieces.push_back(compact(bytes));
        while let Some(first) = self.pieces.front()
            && self.length - first.len() as u64 >= FOLLOW_TAIL_BYTES
        {
            self.length -= first.len() as u64;
            self.start += first.len() as u64;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::until;
    use crate::task::Stop;
    use std::io::Write;

    struct Ingest {
        writer: File,
        follower: Follower,
        _background: Background,
    }

    fn follow(content: &[u8]) -> Ingest {
        let writer = tempfile::NamedTempFile::new().unwrap();
        let (data, background) = (writer.reopen().unwrap(), Background::new(Stop::new()));
        let follower = Follower::start(data, &Digest::of(content), BufferPool::default(), &background);
        Ingest { writer: writer.into_file(), follower, _background: background }
    }

    #[tokio::test]
    async fn bytes_that_others_wrote_and_bytes_that_were_passed_on_are_hashed_together() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let digest = Digest::of(&content);
        for (right, written) in [(true, 0), (true, 200), (true, 70_000), (false, 70_000)] {
            let mut ingest = follow(&content);
            let mut prefix = content[..50_000 + written].to_vec();
            prefix[0] ^= u8::from(!right);
            ingest.writer.write_all(&prefix).unwrap();
            let mut tail = Tail::new(50_000);
            for piece in content[50_000..390_000].chunks(10_000) {
                tail.push(Bytes::copy_from_slice(piece));
            }
            let last = Bytes::copy_from_slice(&content[390_000..]);
            assert_eq!(ingest.follower.verdict(&tail, &last, &digest).await, Some(right), "{written}");
        }
    }

    #[tokio::test]
    async fn a_tail_forgets_what_is_far_enough_behind() {
        let mut tail = Tail::new(7);
        let piece = Bytes::from(vec![0; 1024 * 1024]);
        for _ in 0..10 {
            tail.push(piece.clone());
        }
        assert_eq!(tail.length, FOLLOW_TAIL_BYTES);
        assert_eq!(tail.start, 7 + 10 * 1024 * 1024 - FOLLOW_TAIL_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_does_not_grow_gives_no_verdict() {
        let ingest = follow(b"0123456789");
        let (tail, last) = (Tail::new(5), Bytes::from_static(b"56789"));
        assert_eq!(ingest.follower.verdict(&tail, &last, &Digest::of(b"0123456789")).await, None);
        until("it is given up", || !ingest.follower.is_alive()).await;
    }
}
