//! A source's own check: a file is hashed once before it is first served, and again when its inode,
//! size or time of modification change. All who ask meanwhile wait for the same check; while nobody
//! does it rests, for the checks that somebody waits for, and goes on from there.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::buffers::BufferPool;
use crate::limits::{FILE_CHUNK_BYTES, VERIFICATIONS_MAX, VERIFIED_FILES_MAX, VERIFIED_WHOLE_BYTES_MAX};
use crate::oci::{Digest, Hasher};
use crate::task::Stop;

/// Files that were checked, and checks that run.
#[derive(Clone, Debug)]
pub(crate) struct Verifier {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    known: Mutex<Known>,
    slots_small: Semaphore,
    slots_large: Semaphore,
    pool: BufferPool,
    tasks: TaskTracker,
    stop: Stop,
}

/// At most [`VERIFIED_FILES_MAX`]; the one known longest goes first.
#[derive(Debug, Default)]
struct Known {
    files: HashMap<FileVersion, Check>,
    order: VecDeque<FileVersion>,
}

/// A check that is done, runs, or rests.
#[derive(Debug)]
struct Check {
    progress: watch::Sender<Progress>,
    /// What was hashed before nobody waited any more.
    resting: Option<Hashed>,
}

/// Everything before `offset`.
#[derive(Debug)]
struct Hashed {
    hasher: Hasher,
    offset: u64,
}

/// What changes with a file's content, as far as the file system can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileState {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
}

impl FileState {
    /// The state of an open file, and how many names it still has.
    pub(crate) fn of(file: &File) -> io::Result<(Self, u64)> {
        let meta = file.metadata()?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        let state = Self { device: meta.dev(), inode: meta.ino(), size_bytes: meta.size(), modified };
        Ok((state, meta.nlink()))
    }

    /// Length, bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

/// Content that has not changed since.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FileVersion {
    state: FileState,
    digest: Digest,
}

/// How far a check is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    hashed_bytes: u64,
    right: Option<bool>,
}

/// Whether the bytes are what their digest says, now or once that has been found out.
#[derive(Clone, Debug)]
pub(crate) struct Verdict(watch::Receiver<Progress>);

impl Verdict {
    /// The verdict, if it is known already.
    pub(crate) fn now(&self) -> Option<bool> {
        self.0.borrow().right
    }

    /// Waits for the verdict. A check that could not be made proves nothing: false.
    pub(crate) async fn wait(&mut self) -> bool {
        self.0
            .wait_for(|progress| progress.right.is_some())
            .await
            .is_ok_and(|progress| progress.right == Some(true))
    }

    /// Waits until so many bytes have been hashed, or until there is a verdict.
    pub(crate) async fn wait_hashed(&mut self, bytes: u64) {
        let far_enough = |progress: &Progress| progress.hashed_bytes >= bytes || progress.right.is_some();
        // A check that ended without a verdict is found out by `wait`.
        _ = self.0.wait_for(far_enough).await;
    }
}

impl Verifier {
    /// Nothing known yet. Checks end at `stop`.
    pub(crate) fn new(pool: BufferPool, stop: Stop) -> Self {
        let shared = Shared {
            known: Mutex::default(),
            slots_small: Semaphore::new(VERIFICATIONS_MAX),
            slots_large: Semaphore::new(VERIFICATIONS_MAX),
            pool,
            tasks: TaskTracker::new(),
            stop,
        };
        Self { shared: Arc::new(shared) }
    }

    /// What ends the checks.
    pub(crate) fn stop(&self) -> &Stop {
        &self.shared.stop
    }

    /// The verdict on an open file in its present `state`, found out in the background if it is not
    /// known.
    pub(crate) fn verdict(&self, file: &Arc<File>, state: FileState, digest: &Digest) -> Verdict {
        let version = FileVersion { state, digest: digest.clone() };
        let mut known = self.lock();
        let (verdict, hashed) = if let Some(check) = known.files.get_mut(&version) {
            (Verdict(check.progress.subscribe()), check.resting.take())
        } else {
            let (progress, receiver) = watch::channel(Progress::default());
            known.insert(version.clone(), Check { progress, resting: None });
            (Verdict(receiver), Some(Hashed { hasher: Hasher::new(digest.algorithm()), offset: 0 }))
        };
        if let Some(hashed) = hashed
            && let Some(check) = known.files.get(&version)
        {
            let check = self.clone().check(Arc::clone(file), version, hashed, check.progress.clone());
            self.shared.tasks.spawn(check);
        }
        verdict
    }

    async fn check(
        self,
        file: Arc<File>,
        version: FileVersion,
        mut hashed: Hashed,
        progress: watch::Sender<Progress>,
    ) {
        loop {
            hashed = match self.hash_on(&file, &version, hashed, &progress).await {
                Ok(hashed) if hashed.offset < version.state.size_bytes => hashed,
                Ok(hashed) => return conclude(&version, hashed, &progress),
                // Not a verdict: whoever asks next has it checked anew.
                Err(error) => {
                    tracing::warn!(digest = %version.digest, %error, "could not check content");
                    return self.lock().forget(&version);
                }
            };
            let mut known = self.lock();
            // Whoever asks does so under this lock: either we see him, or he finds the check at rest.
            if progress.is_closed() {
                if let Some(check) = known.files.get_mut(&version) {
                    check.resting = Some(hashed);
                }
                return;
            }
        }
    }

    /// Hashes to the end, or until nobody waits any more.
    async fn hash_on(
        &self,
        file: &Arc<File>,
        version: &FileVersion,
        hashed: Hashed,
        progress: &watch::Sender<Progress>,
    ) -> io::Result<Hashed> {
        let is_small = version.state.size_bytes <= VERIFIED_WHOLE_BYTES_MAX;
        let slots = if is_small { &self.shared.slots_small } else { &self.shared.slots_large };
        let _slot = tokio::select! {
            slot = slots.acquire() => slot.expect("the semaphore is never closed"),
            () = progress.closed() => return Ok(hashed),
        };
        let (pool, stop) = (self.shared.pool.clone(), self.shared.stop.clone());
        let (file, size, progress) = (Arc::clone(file), version.state.size_bytes, progress.clone());
        let hashing = move || hash(&file, size, hashed, &pool, &stop, &progress);
        tokio::task::spawn_blocking(hashing).await.map_err(io::Error::other)?
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Both collections are whole after any panic; at worst an entry is evicted late.
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn insert(&mut self, version: FileVersion, check: Check) {
        if self.order.len() >= VERIFIED_FILES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.files.remove(&oldest);
        }
        self.order.push_back(version.clone());
        self.files.insert(version, check);
    }

    fn forget(&mut self, version: &FileVersion) {
        self.files.remove(version);
        self.order.retain(|known| known != version);
    }
}

fn conclude(version: &FileVersion, hashed: Hashed, progress: &watch::Sender<Progress>) {
    let found = hashed.hasher.finish();
    let right = found == version.digest;
    if !right {
        tracing::error!(digest = %version.digest, %found, "content on this node is damaged, not serving it");
    }
    progress.send_replace(Progress { hashed_bytes: version.state.size_bytes, right: Some(right) });
}

fn hash(
    file: &File,
    size: u64,
    hashed: Hashed,
    pool: &BufferPool,
    stop: &Stop,
    progress: &watch::Sender<Progress>,
) -> io::Result<Hashed> {
    let Hashed { mut hasher, mut offset } = hashed;
    while offset < size && !progress.is_closed() {
        if stop.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the agent is stopping"));
        }
        let length = usize::try_from(size - offset).unwrap_or(FILE_CHUNK_BYTES).min(FILE_CHUNK_BYTES);
        hasher.update(&pool.read_at(file, offset, length)?);
        offset += length as u64;
        progress.send_modify(|progress| progress.hashed_bytes = offset);
    }
    Ok(Hashed { hasher, offset })
}

/// A check that ends when a test says so.
#[cfg(test)]
pub(crate) mod testing {
    use super::{Progress, Verdict, watch};

    pub(crate) struct ManualCheck(watch::Sender<Progress>);

    pub(crate) fn manual() -> (ManualCheck, Verdict) {
        let (sender, receiver) = watch::channel(Progress::default());
        (ManualCheck(sender), Verdict(receiver))
    }

    impl ManualCheck {
        pub(crate) fn hashed(&self, bytes: u64) {
            self.0.send_modify(|progress| progress.hashed_bytes = bytes);
        }

        pub(crate) fn ended(&self, right: bool) {
            self.0.send_modify(|progress| progress.right = Some(right));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{SOON, until};
    use std::io::Write;
    use std::time::Duration;

    fn verifier() -> Verifier {
        Verifier::new(BufferPool::default(), Stop::new())
    }

    fn ask(verifier: &Verifier, file: &Arc<File>, digest: &Digest) -> Verdict {
        let (state, _) = FileState::of(file).unwrap();
        verifier.verdict(file, state, digest)
    }

    #[tokio::test]
    async fn a_file_is_hashed_once_for_all_who_ask() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let (file, digest, verifier) = (Arc::new(file), Digest::of(b"content"), verifier());
        let mut first = ask(&verifier, &file, &digest);
        let mut second = ask(&verifier, &file, &digest);
        assert!(first.wait().await && second.wait().await);
        assert_eq!(ask(&verifier, &file, &digest).now(), Some(true));
        assert_eq!(verifier.lock().files.len(), 1);
    }

    #[tokio::test]
    async fn a_changed_file_is_hashed_again_and_found_out() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let digest = Digest::of(b"content");
        let verifier = verifier();
        let writable = file.try_clone().unwrap();
        let file = Arc::new(file);
        assert!(ask(&verifier, &file, &digest).wait().await);
        (&writable).write_all(b", and more").unwrap();
        assert!(!ask(&verifier, &file, &digest).wait().await);
    }

    /// A file of zeros that takes no room.
    fn zeros(size_bytes: u64) -> Arc<File> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size_bytes).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn small_content_does_not_wait_for_large() {
        let verifier = verifier();
        let _all_large = verifier.shared.slots_large.acquire_many(VERIFICATIONS_MAX as u32).await.unwrap();
        let mut large = ask(&verifier, &zeros(VERIFIED_WHOLE_BYTES_MAX + 1), &Digest::of(b"x"));
        let mut small = ask(&verifier, &zeros(1_000), &Digest::of(&[0; 1_000]));
        assert!(tokio::time::timeout(SOON, small.wait()).await.expect("a verdict on the small one"));
        assert!(tokio::time::timeout(Duration::from_millis(50), large.wait()).await.is_err());
    }

    #[tokio::test]
    async fn a_check_rests_while_nobody_waits_and_then_goes_on() {
        let verifier = verifier();
        let size_bytes = 8 * VERIFIED_WHOLE_BYTES_MAX;
        let (file, digest) = (zeros(size_bytes), Digest::of(b"x"));
        let mut first = ask(&verifier, &file, &digest);
        first.wait_hashed(FILE_CHUNK_BYTES as u64).await;
        drop(first);
        let resting = || {
            let known = verifier.lock();
            known.files.values().find_map(|check| check.resting.as_ref().map(|hashed| hashed.offset))
        };
        until("it rests", || resting().is_some()).await;
        let offset = resting().unwrap();
        assert!((1..size_bytes).contains(&offset), "{offset}");
        assert_eq!(verifier.shared.slots_large.available_permits(), VERIFICATIONS_MAX);
        let mut second = ask(&verifier, &file, &digest);
        assert!(resting().is_none() && second.0.borrow().hashed_bytes >= offset, "it starts anew");
        second.wait_hashed(offset + 1).await;
        assert!(second.0.borrow().hashed_bytes > offset);
    }

    #[tokio::test]
    async fn a_check_that_could_not_be_made_is_made_anew() {
        let (stop, digest) = (Stop::new(), Digest::of(b"content"));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let verifier = Verifier::new(BufferPool::default(), stop.clone());
        stop.cancel();
        assert!(!ask(&verifier, &Arc::new(file), &digest).wait().await);
        assert!(verifier.lock().files.is_empty() && verifier.lock().order.is_empty());
    }
}
