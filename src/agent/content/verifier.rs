//! A source's own check: a file is hashed once when it is first served, and again when its [`FileState`]
//! changes. All requests that come meanwhile wait for the same check. While no request waits for it, it
//! rests and leaves its slot to other checks; the next request lets it go on where it stopped.
//!
//! Checks of large files share their slots in slices, so that each of them makes progress however many
//! there are. [`keep`] writes the verdicts down for the next start of the agent.

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

/// Files that were checked, and checks that run.
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
    /// Notified when there is a verdict that the next start should know.
    worth_keeping: Notify,
    /// How fast a check may read, in tests.
    #[cfg(test)]
    bytes_per_second: Option<u64>,
}

/// At most [`VERIFIED_FILES_MAX`] checks; the oldest is dropped first.
#[derive(Debug, Default)]
struct Known {
    files: HashMap<FileVersion, Check>,
    order: VecDeque<FileVersion>,
    /// Files that an earlier run of the agent found right, and that nobody has asked for since.
    right_before: Vec<FileVersion>,
}

/// A check that is done, runs, or rests.
#[derive(Debug)]
struct Check {
    progress: watch::Sender<Progress>,
    /// When the first request asked for it. A rest does not count: ranges that are asked for one after
    /// the other have one between each two, and only the first of them should wait.
    begun: Instant,
    /// What was hashed before nobody waited any more.
    resting: Option<Hashed>,
}

/// Everything before `offset`.
#[derive(Debug)]
struct Hashed {
    hasher: Hasher,
    offset: u64,
}

/// How far a check is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    hashed_bytes: u64,
    right: Option<bool>,
}

/// Whether the bytes are what their digest says, now or once that has been found out.
#[derive(Clone, Debug)]
pub(crate) struct Verification {
    progress: watch::Receiver<Progress>,
    begun: Instant,
}

impl Verification {
    /// The verdict, if it is known already.
    pub(crate) fn now(&self) -> Option<bool> {
        self.progress.borrow().right
    }

    /// When the check was begun: waiting for it counts from then, not from each request.
    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    /// Waits for the verdict. A check that could not be made proves nothing: false.
    pub(crate) async fn wait(&mut self) -> bool {
        self.progress
            .wait_for(|progress| progress.right.is_some())
            .await
            .is_ok_and(|progress| progress.right == Some(true))
    }

    /// Waits until so many bytes have been hashed, or until there is a verdict.
    pub(crate) async fn wait_hashed(&mut self, bytes: u64) {
        let far_enough = |progress: &Progress| progress.hashed_bytes >= bytes || progress.right.is_some();
        // A check that ended without a verdict is found out by `wait`.
        _ = self.progress.wait_for(far_enough).await;
    }
}

impl Verifier {
    /// Nothing known yet. Checks end at `stop`.
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

    /// Like [`Self::new`], with checks that read so slowly.
    #[cfg(test)]
    pub(crate) fn throttled(pool: BufferPool, stop: Stop, bytes_per_second: u64) -> Self {
        let mut verifier = Self::new(pool, stop);
        let shared = Arc::get_mut(&mut verifier.shared).expect("it is not shared yet");
        shared.bytes_per_second = Some(bytes_per_second);
        verifier
    }

    /// What ends the checks.
    pub(crate) fn stop(&self) -> &Stop {
        &self.shared.stop
    }

    /// The verdict on an open file in its present `state`, found out in the background if it is not
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

    /// Hashes a slice, or less if nobody waits any more.
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
        // Both collections are whole after any panic; at worst an entry is evicted late.
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The verdict on a file that this run was not asked for before, and where its check begins unless
    /// an earlier run has made it.
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
    /// The verdict for one more request, and where the check has to go on if it rested.
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

/// A check that ends when a test says so.
#[cfg(test)]
pub(crate) mod testing {
    use super::{FILE_CHUNK_BYTES, Instant, Progress, Verification, watch};
    use std::time::Duration;

    pub(crate) struct ManualCheck(watch::Sender<Progress>);

    pub(crate) fn manual() -> (ManualCheck, Verification) {
        let (sender, receiver) = watch::channel(Progress::default());
        (ManualCheck(sender), Verification { progress: receiver, begun: Instant::now() })
    }

    /// The time that a chunk takes at this rate.
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
        assert!(resting().is_none() && second.progress.borrow().hashed_bytes >= offset, "it starts anew");
        second.wait_hashed(offset + 1).await;
        assert!(second.progress.borrow().hashed_bytes > offset);
    }

    /// What broke: a check kept its slot until it was done, so the fifth large layer that was asked for
    /// waited for one of the first four.
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
