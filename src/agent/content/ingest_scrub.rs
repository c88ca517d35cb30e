//! Finds and aborts bad ingests, which other programs left behind. A transfer whose bytes are complete and
//! wrong fails at its commit, and every later pull of that image on this node fails again at once, without a
//! request. containerd does not clean that up. Complete ingests that nobody writes to any more are therefore
//! hashed, and aborted if they are wrong: at the start, and some time after a transfer that could not be
//! verified.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Notify;

use super::buffer_pool::BufferPool;
use super::store::Store;
use crate::limits::{FILE_CHUNK_BYTES, INGEST_UNTOUCHED_MIN};
use crate::oci::{Digest, Hasher};
use crate::task::Stop;
use piccolo_raft::errors::chain;

/// Looks for bad ingests on request. Cheap to clone.
#[derive(Clone)]
pub(crate) struct IngestScrubber {
    store: Arc<dyn Store>,
    pool: BufferPool,
    wanted: Arc<Notify>,
}

impl IngestScrubber {
    pub(crate) fn new(store: Arc<dyn Store>, pool: BufferPool) -> Self {
        Self { store, pool, wanted: Arc::default() }
    }

    /// Requests a look after a transfer that may have left a bad ingest. The look waits until nobody has
    /// written to the ingest for long enough.
    pub(crate) fn look(&self) {
        self.wanted.notify_one();
    }

    /// Looks at the start, and [`INGEST_UNTOUCHED_MIN`] after each call of [`Self::look`]. Several calls in
    /// that time lead to one look.
    pub(crate) async fn run(self, stop: Stop) -> Result<(), Infallible> {
        loop {
            if stop.run_until_cancelled(self.scrub(&stop)).await.is_none() {
                return Ok(());
            }
            let news = async {
                self.wanted.notified().await;
                // The ingest was written to a moment ago.
                tokio::time::sleep(INGEST_UNTOUCHED_MIN * 5 / 4).await;
            };
            if stop.run_until_cancelled(news).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn scrub(&self, stop: &Stop) {
        let looked = SystemTime::now();
        let ingests = match self.store.complete_ingests().await {
            Ok(ingests) => ingests,
            // The store may become reachable later, and a pull shows what is wrong there.
            Err(error) => return tracing::debug!(error = chain(&error), "could not look for bad ingests"),
        };
        for (digest, data) in ingests {
            let (pool, stop, wanted) = (self.pool.clone(), stop.clone(), digest.clone());
            let hashing = move || hash(&data, wanted, &pool, &stop);
            match tokio::task::spawn_blocking(hashing).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => self.abort(&digest, looked).await,
                Ok(Err(error)) => tracing::debug!(%digest, %error, "could not read an ingest"),
                Err(error) => tracing::error!(%digest, %error, "could not look at an ingest"),
            }
        }
    }

    async fn abort(&self, digest: &Digest, begun_by: SystemTime) {
        match self.store.abort_ingests(digest, begun_by).await {
            Ok(count) => tracing::warn!(%digest, count, "aborted a complete ingest of wrong bytes"),
            Err(error) => {
                tracing::error!(%digest, error = chain(&error), "could not abort an ingest of wrong bytes")
            }
        }
    }
}

/// Returns whether the bytes have the digest. Blocks.
fn hash(data: &File, digest: Digest, pool: &BufferPool, stop: &Stop) -> io::Result<bool> {
    let (mut hasher, mut offset) = (Hasher::new(digest.algorithm()), 0);
    let length = data.metadata()?.len();
    while offset < length {
        if stop.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the agent is stopping"));
        }
        let chunk = usize::try_from(length - offset).unwrap_or(FILE_CHUNK_BYTES).min(FILE_CHUNK_BYTES);
        hasher.update(&pool.read_at(data, offset, chunk)?);
        offset += chunk as u64;
    }
    Ok(hasher.finish() == digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::content::store::memory::MemoryStore;
    use crate::agent::testing::until;
    use std::io::Write;
    use tokio_util::task::TaskTracker;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[tokio::test]
    async fn complete_ingests_of_wrong_bytes_are_aborted_and_no_others() {
        let store = Arc::new(MemoryStore::new());
        let [right, wrong, half] = [b"right", b"wrong", b"a lot"].map(|bytes| Digest::of(bytes));
        store.add_partial(&right, 5, file(b"right"));
        store.add_partial(&wrong, 5, file(b"grown"));
        store.add_partial(&half, 5, file(b"a l"));
        let scrubber = IngestScrubber::new(Arc::clone(&store) as Arc<dyn Store>, BufferPool::default());
        let (stop, tasks) = (Stop::new(), TaskTracker::new());
        tasks.spawn(scrubber.run(stop.clone()));
        until("the wrong one is aborted", || store.ingests_of(&wrong) == 0).await;
        assert_eq!((store.ingests_of(&right), store.ingests_of(&half)), (1, 1));
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_transfer_left_is_looked_at_when_it_has_rested() {
        let store = Arc::new(MemoryStore::new());
        let scrubber = IngestScrubber::new(Arc::clone(&store) as Arc<dyn Store>, BufferPool::default());
        let (stop, tasks) = (Stop::new(), TaskTracker::new());
        tasks.spawn(scrubber.clone().run(stop.clone()));
        tokio::time::sleep(INGEST_UNTOUCHED_MIN * 3).await;
        let wrong = Digest::of(b"wrong");
        store.add_partial(&wrong, 5, file(b"grown"));
        tokio::time::sleep(INGEST_UNTOUCHED_MIN * 3).await;
        assert_eq!(store.ingests_of(&wrong), 1, "looked at although nobody asked for it");
        scrubber.look();
        tokio::time::sleep(INGEST_UNTOUCHED_MIN).await;
        assert_eq!(store.ingests_of(&wrong), 1, "too early");
        tokio::time::sleep(INGEST_UNTOUCHED_MIN).await;
        until("it is aborted", || store.ingests_of(&wrong) == 0).await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
