//! A source's own check: a file is hashed once before it is first served, and again when its inode,
//! size or time of modification change. All who ask meanwhile wait for the same check.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::buffers::BufferPool;
use crate::limits::{FILE_CHUNK_BYTES, VERIFICATIONS_MAX, VERIFIED_FILES_MAX};
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
    slots: Semaphore,
    pool: BufferPool,
    tasks: TaskTracker,
    stop: Stop,
}

/// At most [`VERIFIED_FILES_MAX`]; the one known longest goes first.
#[derive(Debug, Default)]
struct Known {
    files: HashMap<FileVersion, Verdict>,
    order: VecDeque<FileVersion>,
}

/// Content that has not changed as far as the file system can say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FileVersion {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
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
        let slots = Semaphore::new(VERIFICATIONS_MAX);
        let shared = Shared { known: Mutex::default(), slots, pool, tasks: TaskTracker::new(), stop };
        Self { shared: Arc::new(shared) }
    }

    /// The verdict on an open file, found out in the background if it is not known.
    pub(crate) fn verdict(&self, file: &Arc<File>, digest: &Digest) -> io::Result<Verdict> {
        let meta = file.metadata()?;
        let version = FileVersion {
            device: meta.dev(),
            inode: meta.ino(),
            size_bytes: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            digest: digest.clone(),
        };
        let mut known = self.lock();
        if let Some(verdict) = known.files.get(&version) {
            return Ok(verdict.clone());
        }
        let (sender, receiver) = watch::channel(Progress::default());
        let verdict = Verdict(receiver);
        known.insert(version.clone(), verdict.clone());
        drop(known);
        self.shared.tasks.spawn(self.clone().check(Arc::clone(file), version, sender));
        Ok(verdict)
    }

    async fn check(self, file: Arc<File>, version: FileVersion, verdict: watch::Sender<Progress>) {
        let _slot = self.shared.slots.acquire().await.expect("the semaphore is never closed");
        let (pool, stop) = (self.shared.pool.clone(), self.shared.stop.clone());
        let (size, digest, progress) = (version.size_bytes, version.digest.clone(), verdict.clone());
        let hashing = move || hash(&file, size, &digest, &pool, &stop, &progress);
        let hashed = tokio::task::spawn_blocking(hashing).await;
        match hashed {
            Ok(Ok(found)) => {
                let right = found == version.digest;
                if !right {
                    tracing::error!(digest = %version.digest, %found, "content on this node is damaged, not serving it");
                }
                verdict.send_replace(Progress { hashed_bytes: size, right: Some(right) });
            }
            // Not a verdict: whoever asks next has it checked anew.
            Ok(Err(error)) => {
                tracing::warn!(digest = %version.digest, %error, "could not check content");
                self.lock().forget(&version);
            }
            Err(_) => self.lock().forget(&version),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Both collections are whole after any panic; at worst an entry is evicted late.
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn insert(&mut self, version: FileVersion, verdict: Verdict) {
        if self.order.len() >= VERIFIED_FILES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.files.remove(&oldest);
        }
        self.order.push_back(version.clone());
        self.files.insert(version, verdict);
    }

    fn forget(&mut self, version: &FileVersion) {
        self.files.remove(version);
        self.order.retain(|known| known != version);
    }
}

fn hash(
    file: &File,
    size: u64,
    digest: &Digest,
    pool: &BufferPool,
    stop: &Stop,
    progress: &watch::Sender<Progress>,
) -> io::Result<Digest> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut offset = 0;
    while offset < size {
        if stop.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the agent is stopping"));
        }
        let length = usize::try_from(size - offset).unwrap_or(FILE_CHUNK_BYTES).min(FILE_CHUNK_BYTES);
        hasher.update(&pool.read_at(file, offset, length)?);
        offset += length as u64;
        progress.send_modify(|progress| progress.hashed_bytes = offset);
    }
    Ok(hasher.finish())
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
    use std::io::Write;

    fn verifier() -> Verifier {
        Verifier::new(BufferPool::default(), Stop::new())
    }

    #[tokio::test]
    async fn a_file_is_hashed_once_for_all_who_ask() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let (file, digest, verifier) = (Arc::new(file), Digest::of(b"content"), verifier());
        let mut first = verifier.verdict(&file, &digest).unwrap();
        let mut second = verifier.verdict(&file, &digest).unwrap();
        assert!(first.wait().await && second.wait().await);
        assert_eq!(verifier.verdict(&file, &digest).unwrap().now(), Some(true));
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
        assert!(verifier.verdict(&file, &digest).unwrap().wait().await);
        (&writable).write_all(b", and more").unwrap();
        assert!(!verifier.verdict(&file, &digest).unwrap().wait().await);
    }

    #[tokio::test]
    async fn a_check_that_could_not_be_made_is_made_anew() {
        let (stop, digest) = (Stop::new(), Digest::of(b"content"));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let verifier = Verifier::new(BufferPool::default(), stop.clone());
        stop.cancel();
        assert!(!verifier.verdict(&Arc::new(file), &digest).unwrap().wait().await);
        assert!(verifier.lock().files.is_empty() && verifier.lock().order.is_empty());
    }
}
