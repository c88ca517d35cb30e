//! Verification of content at its source. A file is hashed when it is served for the first time, and again
//! when its [`FileState`] changes. Requests that come meanwhile share the same check. While no request waits
//! for it, a check rests and gives its slot to others; the next request continues it where it stopped.
//!
//! Checks of large files take turns on their slots in slices, so that each of them makes progress. [`keep`]
//! saves the results for the next start of the agent.

mod file_state;
mod keep;
mod verdicts;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::buffer_pool::BufferPool;
use crate::limits::{
    FILE_CHUNK_BYTES, VERDICT_KEPT_BYTES_MIN, VERIFICATION_SLICE_BYTES, VERIFICATIONS_MAX,
    VERIFIED_FILES_MAX, VERIFIED_WHOLE_BYTES_MAX,
};
use crate::oci::{Digest, Hasher};
use crate::task::Stop;

pub(crate) use file_state::FileState;
use file_state::FileVersion;

/// Files that were checked, and checks that run. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Verifier {
    shared: Arc<Checks>,
}

#[derive(Debug)]
struct Checks {
    known: Mutex<Known>,
    slots_small: Semaphore,
    slots_large: Semaphore,
    pool: BufferPool,
    tasks: TaskTracker,
    stop: Stop,
    /// Notified when there is a result that the next start should know.
    worth_keeping: Notify,
    /// Limit of the read rate of a check, in tests.
    #[cfg(test)]
    bytes_per_second: Option<u64>,
}

/// At most [`VERIFIED_FILES_MAX`] checks; the oldest is dropped first.
#[derive(Debug, Default)]
struct Known {
    files: HashMap<FileVersion, Check>,
    order: VecDeque<FileVersion>,
    /// Files that an earlier run of the agent verified, and that no request has needed since.
    right_before: Vec<FileVersion>,
}

/// A check that is done, runs, or rests.
#[derive(Debug)]
struct Check {
    progress: watch::Sender<Progress>,
    /// When the first request asked for the check. Resting does not move it: consecutive ranges have a rest
    /// between each two, and only the first range should wait.
    begun: Instant,
    /// What was hashed before the check began to rest.
    resting: Option<Hashed>,
}

/// The hash of everything before `offset`.
#[derive(Debug)]
struct Hashed {
    hasher: Hasher,
    offset: u64,
}

/// How far a check has come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    hashed_bytes: u64,
    right: Option<bool>,
}

/// A handle on the check of one file: whether its bytes have their digest, once that is known.
#[derive(Clone, Debug)]
pub(crate) struct Verification {
    progress: watch::Receiver<Progress>,
    begun: Instant,
}

impl Verification {
    /// The result, if it is known already.
    pub(crate) fn now(&self) -> Option<bool> {
        self.progress.borrow().right
    }

    /// When the check began: the time to wait for it counts from then, not from each request.
    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    /// Waits for the result. A check that could not be made proves nothing: false.
    pub(crate) async fn wait(&mut self) -> bool {
        self.progress
            .wait_for(|progress| progress.right.is_some())
            .await
            .is_ok_and(|progress| progress.right == Some(true))
    }

    /// Waits until this many bytes have been hashed, or until there is a result.
    pub(crate) async fn wait_hashed(&mut self, bytes: u64) {
        let far_enough = |progress: &Progress| progress.hashed_bytes >= bytes || progress.right.is_some();
        // `wait` finds out about a check that ended without a result.
        _ = self.progress.wait_for(far_enough).await;
    }
}

impl Verifier {
    /// Creates a verifier that knows no files. Its checks end at `stop`.
    pub(crate) fn new(pool: BufferPool, stop: Stop) -> Self {
        let shared = Checks {
            known: Mutex::default(),
            slots_small: Semaphore::new(VERIFICATIONS_MAX),
            slots_large: Semaphore::new(VERIFICATIONS_MAX),
            pool,
            tasks: TaskTracker::new(),
            stop,
            worth_keeping: Notify::new(),
            #[cfg(test)]
            bytes_per_second: None,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Like [`Self::new`], with checks that read at this rate.
    #[cfg(test)]
    pub(crate) fn throttled(pool: BufferPool, stop: Stop, bytes_per_second: u64) -> Self {
        let mut verifier = Self::new(pool, stop);
        let shared = Arc::get_mut(&mut verifier.shared).expect("it is not shared yet");
        shared.bytes_per_second = Some(bytes_per_second);
        verifier
    }

    /// The signal that ends the checks.
    pub(crate) fn stop(&self) -> &Stop {
        &self.shared.stop
    }

    /// The check of an open file in its present `state`. It runs in the background if the result is not
    /// known.
    pub(crate) fn verify(&self, file: &Arc<File>, state: FileState, digest: &Digest) -> Verification {
        let version = FileVersion { state, digest: digest.clone() };
        let mut known = self.lock();
        let (verdict, hashed) = match known.files.get_mut(&version) {
            Some(check) => check.asked_again(),
            None => known.ask_first(&version),
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
                Ok(hashed) => return self.conclude(&version, hashed, &progress),
                // No result: the next request starts a new check.
                Err(error) => {
                    tracing::warn!(digest = %version.digest, %error, "could not check content");
                    return self.lock().forget(&version);
                }
            };
            let mut known = self.lock();
            // Requests come in under this lock: either this sees the new request, or the request finds the
            // check at rest.
            if progress.is_closed() {
                if let Some(check) = known.files.get_mut(&version) {
                    check.resting = Some(hashed);
                }
                return;
            }
        }
    }

    /// Hashes one slice, or less if nobody waits any more.
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
        let (file, progress) = (Arc::clone(file), progress.clone());
        let end = version.state.size_bytes.min(hashed.offset + VERIFICATION_SLICE_BYTES);
        #[cfg(test)]
        let bytes_per_second = self.shared.bytes_per_second;
        let hashing = move || {
            let mut hashed = hashed;
            while hashed.offset < end && !progress.is_closed() {
                if stop.is_cancelled() {
                    return Err(io::Error::new(io::ErrorKind::Interrupted, "the agent is stopping"));
                }
                hashed.chunk(&file, end, &pool)?;
                #[cfg(test)]
                testing::pause_after_chunk(bytes_per_second);
                progress.send_modify(|progress| progress.hashed_bytes = hashed.offset);
            }
            Ok(hashed)
        };
        tokio::task::spawn_blocking(hashing).await.map_err(io::Error::other)?
    }

    fn conclude(&self, version: &FileVersion, hashed: Hashed, progress: &watch::Sender<Progress>) {
        let found = hashed.hasher.finish();
        let right = found == version.digest;
        if !right {
            tracing::error!(digest = %version.digest, %found, "content on this node is damaged, not serving it");
        }
        progress.send_replace(Progress { hashed_bytes: version.state.size_bytes, right: Some(right) });
        if right && version.state.size_bytes >= VERDICT_KEPT_BYTES_MIN {
            self.shared.worth_keeping.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic can at worst delay the eviction of an entry.
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The check of a file that this run has not checked, and where it begins, unless an earlier run made it.
    fn ask_first(&mut self, version: &FileVersion) -> (Verification, Option<Hashed>) {
        let before = self.right_before.iter().position(|right| right == version);
        let progress = match before {
            Some(_) => Progress { hashed_bytes: version.state.size_bytes, right: Some(true) },
            None => Progress::default(),
        };
        let hashed = Hashed { hasher: Hasher::new(version.digest.algorithm()), offset: 0 };
        let (progress, receiver) = watch::channel(progress);
        let begun = Instant::now();
        self.insert(version.clone(), Check { progress, begun, resting: None });
        before.map(|index| self.right_before.remove(index));
        (Verification { progress: receiver, begun }, before.is_none().then_some(hashed))
    }

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

impl Check {
    /// A handle for one more request, and where the check continues if it rested.
    fn asked_again(&mut self) -> (Verification, Option<Hashed>) {
        (Verification { progress: self.progress.subscribe(), begun: self.begun }, self.resting.take())
    }
}

impl Hashed {
    /// Reads and hashes the next chunk before `end`.
    fn chunk(&mut self, file: &File, end: u64, pool: &BufferPool) -> io::Result<()> {
        let left = end - self.offset;
        let length = usize::try_from(left).unwrap_or(FILE_CHUNK_BYTES).min(FILE_CHUNK_BYTES);
        self.hasher.update(&pool.read_at(file, self.offset, length)?);
        self.offset += length as u64;
        Ok(())
    }
}

/// A check that ends when a test ends it.
#[cfg(test)]
pub(crate) mod testing {
    use super::{FILE_CHUNK_BYTES, Instant, Progress, Verification, watch};
    use std::time::Duration;

    pub(crate) struct ManualCheck(watch::Sender<Progress>);

    pub(crate) fn manual() -> (ManualCheck, Verification) {
        let (sender, receiver) = watch::channel(Progress::default());
        (ManualCheck(sender), Verification { progress: receiver, begun: Instant::now() })
    }

    /// Sleeps for the time that a chunk takes at this rate.
    pub(super) fn pause_after_chunk(bytes_per_second: Option<u64>) {
        if let Some(rate) = bytes_per_second {
            std::thread::sleep(Duration::from_secs_f64(FILE_CHUNK_BYTES as f64 / rate as f64));
        }
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

    fn ask(verifier: &Verifier, file: &Arc<File>, digest: &Digest) -> Verification {
        let (state, _) = FileState::of(file).unwrap();
        verifier.verify(file, state, digest)
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

    /// A sparse file of zeros.
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
        assert!(resting().is_none() && second.progress.borrow().hashed_bytes >= offset, "it starts anew");
        second.wait_hashed(offset + 1).await;
        assert!(second.progress.borrow().hashed_bytes > offset);
    }

    /// Regression: a check kept its slot until it was done, so that the fifth large layer waited for one of
    /// the first four.
    #[tokio::test]
    async fn more_checks_than_slots_come_forward_together() {
        let verifier = Verifier::throttled(BufferPool::default(), Stop::new(), 64 << 20);
        let size_bytes = 100 * VERIFICATION_SLICE_BYTES;
        let mut all: Vec<Verification> = (0..=VERIFICATIONS_MAX)
            .map(|number| ask(&verifier, &zeros(size_bytes), &Digest::of(&[number as u8])))
            .collect();
        for (number, verdict) in all.iter_mut().enumerate() {
            let hashed = tokio::time::timeout(SOON, verdict.wait_hashed(1)).await;
            assert!(hashed.is_ok(), "check {number} has not begun");
            assert_eq!(verdict.now(), None, "check {number} is done");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_begin_of_a_check_is_that_of_its_first_request_also_after_a_rest() {
        let verifier = verifier();
        let _no_slot = verifier.shared.slots_large.acquire_many(VERIFICATIONS_MAX as u32).await.unwrap();
        let (file, digest) = (zeros(VERIFIED_WHOLE_BYTES_MAX + 1), Digest::of(b"x"));
        let first = ask(&verifier, &file, &digest);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = first.begun();
        assert_eq!(ask(&verifier, &file, &digest).begun(), begun);
        drop(first);
        until("it rests", || verifier.lock().files.values().any(|check| check.resting.is_some())).await;
        assert_eq!(ask(&verifier, &file, &digest).begun(), begun);
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
