//! Keeps results of checks over a restart of the agent: they are read from the state folder at the start, and
//! written there some time after there is a new one. Nothing is written without a new result.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;

use super::file_state::FileVersion;
use super::{Verifier, verdicts};
use crate::agent::state_dir::StateDir;
use crate::limits::{VERDICT_KEPT_BYTES_MIN, VERDICTS_KEPT_AFTER};
use crate::task::Stop;

/// Name of the file in the state folder.
const NAME: &str = "verdicts";

impl Verifier {
    /// Loads what earlier runs verified. A file that cannot be used is ignored, and content is checked once
    /// more.
    pub(crate) fn recall(&self, state: &StateDir) {
        self.lock().right_before = stored(state);
    }

    /// Writes new results until `stop`, and then once more.
    pub(crate) async fn keep(self, state: StateDir, stop: Stop) -> Result<(), Infallible> {
        let mut unwritten = false;
        loop {
            let news = async {
                self.shared.worth_keeping.notified().await;
                unwritten = true;
                tokio::time::sleep(VERDICTS_KEPT_AFTER).await;
            };
            let stopped = stop.run_until_cancelled(news).await.is_none();
            if unwritten {
                unwritten = !self.write_down(&state).await;
            }
            if stopped {
                return Ok(());
            }
        }
    }

    /// Writes what is not there yet. Returns true if all of it is on disk.
    async fn write_down(&self, state: &StateDir) -> bool {
        let (right, state) = (self.right(), state.clone());
        let written = tokio::task::spawn_blocking(move || {
            let stored = stored(&state);
            let known: HashSet<&FileVersion> = stored.iter().collect();
            if right.iter().all(|version| known.contains(version)) {
                return Ok(true);
            }
            let text = verdicts::write(&verdicts::merge(stored, right));
            let is_writable = state.folder().is_some();
            state.replace(NAME, text.as_bytes()).map(|()| is_writable)
        });
        match written.await.map_err(io::Error::other).flatten() {
            Ok(written) => written,
            Err(error) => {
                tracing::warn!(%error, "could not write down which content was found right; it is checked again after a restart");
                false
            }
        }
    }

    /// The files that were found right, oldest knowledge first.
    fn right(&self) -> Vec<FileVersion> {
        let known = self.lock();
        let is_right = |version: &&FileVersion| {
            let check = known.files.get(*version);
            let is_right = check.is_some_and(|check| check.progress.borrow().right == Some(true));
            is_right && version.state.size_bytes >= VERDICT_KEPT_BYTES_MIN
        };
        known.right_before.iter().chain(known.order.iter().filter(is_right)).cloned().collect()
    }
}

/// The content of the file.
fn stored(state: &StateDir) -> Vec<FileVersion> {
    let bytes = match state.read(NAME) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Vec::new(),
        Err(error) => {
            tracing::warn!(file = %state.path_of(NAME).display(), %error, "could not read which content was found right before; it is checked again");
            return Vec::new();
        }
    };
    verdicts::read(&bytes).unwrap_or_else(|error| {
        tracing::warn!(file = %state.path_of(NAME).display(), %error, "ignoring which content was found right before; it is checked again");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::agent::content::buffer_pool::BufferPool;
    use crate::agent::content::verifier::{FileState, Verification};
    use crate::agent::notices::Notices;
    use crate::agent::testing::{noise, until};
    use crate::oci::Digest;

    const SIZE: usize = VERDICT_KEPT_BYTES_MIN as usize;

    /// One run of the agent: what it keeps, and until when.
    struct Run {
        verifier: Verifier,
        stop: Stop,
        tasks: TaskTracker,
    }

    fn start(state: &StateDir) -> Run {
        let (stop, tasks) = (Stop::new(), TaskTracker::new());
        let verifier = Verifier::new(BufferPool::default(), stop.clone());
        verifier.recall(state);
        tasks.spawn(verifier.clone().keep(state.clone(), stop.clone()));
        Run { verifier, stop, tasks }
    }

    impl Run {
        fn ask(&self, path: &Path, digest: &Digest) -> Verification {
            let file = Arc::new(File::open(path).unwrap());
            let (state, _) = FileState::of(&file).unwrap();
            self.verifier.verify(&file, state, digest)
        }

        async fn end(self) {
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
        }
    }

    /// The inode of the file, which changes with each write.
    fn written(folder: &Path) -> Option<u64> {
        fs::metadata(folder.join(NAME)).ok().map(|meta| meta.ino())
    }

    #[tokio::test]
    async fn a_verdict_survives_a_restart_as_long_as_the_file_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open_here(folder.path(), &Notices::default());
        let (bytes, path) = (noise(SIZE), folder.path().join("blob"));
        fs::write(&path, &bytes).unwrap();
        let digest = Digest::of(&bytes);
        let run = start(&state);
        assert!(run.ask(&path, &digest).wait().await);
        run.end().await;
        let run = start(&state);
        assert_eq!(run.ask(&path, &Digest::of(b"other")).now(), None, "for its digest only");
        assert_eq!(run.ask(&path, &digest).now(), Some(true), "it is known at once");
        run.end().await;
        // The same length and modification time, with other bytes.
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let mut damaged = bytes.clone();
        damaged[SIZE / 2] ^= 1;
        fs::write(&path, damaged).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let run = start(&state);
        assert!(!run.ask(&path, &digest).wait().await, "the damage is not noticed");
        // A new result that has to be written, together with everything else.
        let (news, other) = (noise(SIZE + 1), folder.path().join("other"));
        fs::write(&other, &news).unwrap();
        assert!(run.ask(&other, &Digest::of(&news)).wait().await);
        run.end().await;
        let run = start(&state);
        assert_eq!(run.ask(&other, &Digest::of(&news)).now(), Some(true));
        assert_eq!(run.ask(&path, &digest).now(), None, "only what is right is kept");
        run.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn verdicts_are_written_together_and_nothing_is_written_without_news() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open_here(folder.path(), &Notices::default());
        let run = start(&state);
        let put = |number: u8, size: usize| {
            let (bytes, path) = (vec![number; size], folder.path().join(number.to_string()));
            fs::write(&path, &bytes).unwrap();
            (path, Digest::of(&bytes))
        };
        let (path, digest) = put(1, SIZE - 1);
        assert!(run.ask(&path, &digest).wait().await);
        tokio::time::sleep(VERDICTS_KEPT_AFTER * 3).await;
        assert_eq!(written(folder.path()), None, "a small file");
        for number in [2, 3] {
            let (path, digest) = put(number, SIZE);
            assert!(run.ask(&path, &digest).wait().await);
        }
        tokio::time::sleep(VERDICTS_KEPT_AFTER / 2).await;
        assert_eq!(written(folder.path()), None, "too early");
        tokio::time::sleep(VERDICTS_KEPT_AFTER).await;
        until("it is written", || written(folder.path()).is_some()).await;
        assert_eq!(stored(&state).len(), 2);
        let before = (written(folder.path()), File::open(folder.path().join(NAME)).unwrap());
        tokio::time::sleep(VERDICTS_KEPT_AFTER * 100).await;
        run.end().await;
        assert_eq!(written(folder.path()), before.0, "written without news");
    }

    #[tokio::test]
    async fn a_damaged_or_newer_file_is_ignored_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open_here(folder.path(), &Notices::default());
        let (bytes, path) = (noise(SIZE), folder.path().join("blob"));
        fs::write(&path, &bytes).unwrap();
        for content in [&b"piccolo verdicts 2\nwho knows"[..], b"", &[0xff; 100]] {
            state.replace(NAME, content).unwrap();
            let run = start(&state);
            assert_eq!(run.ask(&path, &Digest::of(&bytes)).now(), None);
            assert!(run.ask(&path, &Digest::of(&bytes)).wait().await);
            run.end().await;
            assert_eq!(stored(&state).len(), 1);
        }
    }

    /// Two agents share a folder: each keeps what the other verified.
    #[tokio::test]
    async fn two_agents_do_not_take_each_others_verdicts_away() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open_here(folder.path(), &Notices::default());
        let runs = [start(&state), start(&state)];
        for (number, run) in (0_u8..).zip(runs) {
            let (bytes, path) = (vec![number; SIZE], folder.path().join(number.to_string()));
            fs::write(&path, &bytes).unwrap();
            assert!(run.ask(&path, &Digest::of(&bytes)).wait().await);
            run.end().await;
        }
        assert_eq!(stored(&state).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_folder_verdicts_are_not_kept_and_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        fs::write(&path, vec![1; SIZE]).unwrap();
        let run = start(&StateDir::unwritable());
        assert!(run.ask(&path, &Digest::of(&vec![1; SIZE])).wait().await);
        tokio::time::sleep(VERDICTS_KEPT_AFTER + Duration::from_secs(1)).await;
        run.end().await;
    }
}
