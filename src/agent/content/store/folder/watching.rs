//! Watches a folder where the system has the resources for that, and lists it from time to time where it has
//! not. Nodes with many pods run out of them: every `kubectl logs -f` takes an inotify instance.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

use super::{BlobFolder, Change, FolderWatch};
use crate::agent::notices::{Notices, Topic};
use crate::limits::{
    STORE_POLL_COST_SHARE, STORE_POLL_INTERVAL_MAX, STORE_POLL_INTERVAL_MIN, WATCH_RETRY_INTERVAL,
};

/// A folder that is watched, or listed until it can be watched.
pub(in crate::agent::content::store) struct Watching {
    folder: BlobFolder,
    notices: Notices,
    watch: Option<FolderWatch>,
    /// When to try again; `None` if there is a watch, or none is wanted.
    again_at: Option<Instant>,
}

impl Watching {
    /// Tries to set a watch. If it [`is_set`](Self::is_set), everything that happens after the return is
    /// reported. Must be called within a tokio runtime.
    pub(in crate::agent::content::store) fn set(folder: &BlobFolder, notices: &Notices) -> Self {
        let mut watching =
            Self { folder: folder.clone(), notices: notices.clone(), watch: None, again_at: None };
        watching.try_to_set();
        watching
    }

    pub(in crate::agent::content::store) fn is_set(&self) -> bool {
        self.watch.is_some()
    }

    /// Waits for the next change, for ever if there is no watch.
    pub(in crate::agent::content::store) async fn next(&mut self) -> Change {
        match &mut self.watch {
            Some(watch) => watch.next().await,
            None => std::future::pending().await,
        }
    }

    /// When [`Self::try_to_set`] is due.
    pub(in crate::agent::content::store) fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// Tries to watch the folder, and sets a notice if that fails. If it succeeds, the caller has to look for
    /// what happened before.
    pub(in crate::agent::content::store) fn try_to_set(&mut self) {
        match FolderWatch::set(&self.folder) {
            Ok(watch) => {
                self.watch = Some(watch);
                self.again_at = None;
                self.notices.clear(Topic::Store, &self.subject());
            }
            Err(error) => {
                self.notices.set(Topic::Store, &self.subject(), advice(self.folder.root(), &error));
                self.again_at = Some(Instant::now() + WATCH_RETRY_INTERVAL);
            }
        }
    }
}

impl Watching {
    fn subject(&self) -> String {
        format!("watch {}", self.folder.root().display())
    }
}

impl Drop for Watching {
    /// Clears the notice, because another folder may be watched next, or none.
    fn drop(&mut self) {
        self.notices.clear(Topic::Store, &self.subject());
    }
}

/// The pause after a list that took `cost`.
pub(in crate::agent::content::store) fn poll_pause(cost: Duration) -> Duration {
    (cost * STORE_POLL_COST_SHARE).clamp(STORE_POLL_INTERVAL_MIN, STORE_POLL_INTERVAL_MAX)
}

/// Text of the notice: what is wrong, and what to do.
fn advice(root: &Path, error: &io::Error) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let raise = match errno {
        Some(Errno::NOSPC) => ": raise fs.inotify.max_user_watches",
        Some(Errno::MFILE) => ": raise fs.inotify.max_user_instances, or this process's limit of open files",
        _ => "",
    };
    format!(
        "could not watch {} for new blobs ({error}){raise}. Until that succeeds, the folder is listed every \
         {} to {} s, and new blobs are shared so much later",
        root.display(),
        STORE_POLL_INTERVAL_MIN.as_secs(),
        STORE_POLL_INTERVAL_MAX.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_takes_a_hundredth_of_the_time_at_most() {
        for (cost_ms, pause) in [
            (0, STORE_POLL_INTERVAL_MIN),
            (50, STORE_POLL_INTERVAL_MIN),
            (200, Duration::from_secs(20)),
            (5_000, STORE_POLL_INTERVAL_MAX),
        ] {
            assert_eq!(poll_pause(Duration::from_millis(cost_ms)), pause, "{cost_ms} ms");
        }
    }

    #[test]
    fn what_has_run_out_is_named() {
        for (errno, what) in
            [(Errno::NOSPC, "fs.inotify.max_user_watches"), (Errno::MFILE, "fs.inotify.max_user_instances")]
        {
            let text = advice(Path::new("/store"), &io::Error::from_raw_os_error(errno.raw_os_error()));
            assert!(text.contains(what) && text.contains("/store"), "{text}");
        }
    }
}
