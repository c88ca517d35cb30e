//! Open files that were verified a moment ago. Requests that follow for the same blob (ranges of it, other
//! peers) take them from here instead of asking the store, the namespace and the verifier again.
//!
//! A file that was removed or changed is noticed at once. A change of names or of the namespace's record only
//! is noticed after [`OPENED_TTL`]: the entry is then dropped even if nobody asks for it, because an open
//! file keeps its space on the disk.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::agent::content::verifier::FileState;
use crate::limits::{OPENED_FILES_MAX, OPENED_TTL};
use crate::oci::Digest;
use crate::task::Stop;

/// A bounded cache of open files.
#[derive(Clone)]
pub(super) struct OpenFiles {
    shared: Arc<Cache>,
}

struct Cache {
    known: Mutex<Known>,
    tasks: TaskTracker,
    stop: Stop,
}

#[derive(Default)]
struct Known {
    files: HashMap<Digest, OpenFile>,
    /// Whether the task that drops expired files runs.
    swept: bool,
}

struct OpenFile {
    file: Arc<File>,
    state: FileState,
    until: Instant,
}

impl OpenFiles {
    /// Creates an empty cache. Its task ends at `stop`.
    pub(super) fn new(stop: Stop) -> Self {
        let shared = Cache { known: Mutex::default(), tasks: TaskTracker::new(), stop };
        Self { shared: Arc::new(shared) }
    }

    /// The file of a blob, if it was opened a moment ago and has not changed since.
    pub(super) fn get(&self, digest: &Digest) -> Option<(Arc<File>, FileState)> {
        let (file, state, until) = {
            let known = self.lock();
            let opened = known.files.get(digest)?;
            (Arc::clone(&opened.file), opened.state, opened.until)
        };
        let unchanged = FileState::of(&file).is_ok_and(|(now, names)| now == state && names > 0);
        if unchanged && Instant::now() < until {
            return Some((file, state));
        }
        self.lock().files.remove(digest);
        None
    }

    /// Keeps a file whose bytes were verified in `state`, and which the store opened at `since`. A full cache
    /// ([`OPENED_FILES_MAX`]) does not keep it.
    pub(super) fn keep(&self, digest: &Digest, file: &Arc<File>, state: FileState, since: Instant) {
        let mut known = self.lock();
        if known.files.len() >= OPENED_FILES_MAX {
            return;
        }
        let opened = OpenFile { file: Arc::clone(file), state, until: since + OPENED_TTL };
        known.files.insert(digest.clone(), opened);
        if !std::mem::replace(&mut known.swept, true) {
            self.shared.tasks.spawn(self.clone().sweep());
        }
    }

    /// Drops expired files, until none is left.
    async fn sweep(self) {
        loop {
            let stopped =
                self.shared.stop.run_until_cancelled(tokio::time::sleep(OPENED_TTL)).await.is_none();
            let mut known = self.lock();
            let now = Instant::now();
            known.files.retain(|_, opened| !stopped && now < opened.until);
            if known.files.is_empty() {
                known.swept = false;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic can at worst lose an entry.
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn opened(bytes: &[u8]) -> (tempfile::NamedTempFile, Arc<File>, FileState) {
        let mut named = tempfile::NamedTempFile::new().unwrap();
        named.write_all(bytes).unwrap();
        let file = Arc::new(named.reopen().unwrap());
        let (state, _) = FileState::of(&file).unwrap();
        (named, file, state)
    }

    #[tokio::test]
    async fn a_file_that_was_removed_or_changed_is_not_given_out_again() {
        let (files, digest) = (OpenFiles::new(Stop::new()), Digest::of(b"content"));
        let (mut named, file, state) = opened(b"content");
        files.keep(&digest, &file, state, Instant::now());
        assert!(files.get(&digest).is_some());
        named.write_all(b"more").unwrap();
        assert!(files.get(&digest).is_none(), "it has changed");
        let (state, _) = FileState::of(&file).unwrap();
        files.keep(&digest, &file, state, Instant::now());
        assert!(files.get(&digest).is_some());
        drop(named);
        assert!(files.get(&digest).is_none(), "it was removed");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_moment_the_store_is_asked_again_and_the_file_closed() {
        let (files, digest) = (OpenFiles::new(Stop::new()), Digest::of(b"content"));
        let (_named, file, state) = opened(b"content");
        files.keep(&digest, &file, state, Instant::now());
        tokio::time::sleep(OPENED_TTL - std::time::Duration::from_millis(1)).await;
        assert!(files.get(&digest).is_some(), "too early");
        tokio::time::sleep(OPENED_TTL * 2).await;
        assert_eq!(Arc::strong_count(&file), 1, "nobody asked, and it is still open");
        assert!(!files.lock().swept);
        files.keep(&digest, &file, state, Instant::now() - OPENED_TTL);
        assert!(files.get(&digest).is_none(), "its time counts from when the store opened it");
    }

    #[tokio::test]
    async fn files_over_the_limit_are_not_kept() {
        let files = OpenFiles::new(Stop::new());
        let (_named, file, state) = opened(b"content");
        for index in 0..=OPENED_FILES_MAX {
            files.keep(&Digest::of(index.to_string().as_bytes()), &file, state, Instant::now());
        }
        assert_eq!(files.lock().files.len(), OPENED_FILES_MAX);
    }
}
