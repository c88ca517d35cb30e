//! What containerd has of a blob while it is being pulled: the length that it expects, the bytes that
//! it has written, and their end if they are wrong.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::ingest_hash::Follower;
use super::{Fetcher, Wanted};
use crate::agent::content::store::Ingest;
use crate::limits::ABORT_AGAIN_AFTER;
use crate::oci::Digest;

/// How long a look at the ingests may take, and how long containerd waits for their abort.
const INGESTS_TIMEOUT: Duration = Duration::from_millis(250);

impl Fetcher {
    /// The length that containerd expects: it stands beside the bytes that it has of the blob.
    pub(super) async fn expected_total(&self, wanted: &Wanted) -> Option<u64> {
        if wanted.path.is_manifest() || wanted.head_only {
            return None;
        }
        let ingests = self.ingests(&wanted.digest).await;
        let mut totals = ingests.iter().filter_map(|ingest| ingest.total_bytes);
        let total = totals.next()?;
        totals.all(|other| other == total).then_some(total)
    }

    /// Follows what containerd writes of `digest`, if that can be seen.
    pub(super) async fn follower(&self, digest: &Digest) -> Option<Arc<Follower>> {
        if let Some(follower) = self.lately.follower(digest) {
            return Some(follower);
        }
        // Of several it cannot be told which is the one that asks.
        let mut ingests = self.ingests(digest).await;
        let data = ingests.pop().filter(|_| ingests.is_empty())?.data?;
        let follower = Arc::new(Follower::start(data, digest, self.pool.clone(), &self.tasks));
        self.lately.follow(digest, Arc::clone(&follower));
        Some(follower)
    }

    pub(super) async fn ingests(&self, digest: &Digest) -> Vec<Ingest> {
        match timeout(INGESTS_TIMEOUT, self.store.ingests(digest)).await {
            Ok(Ok(ingests)) => ingests,
            Ok(Err(error)) => {
                tracing::debug!(%digest, %error, "could not look at ingests");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    /// A large blob was passed on before its bytes turned out wrong; the connection to containerd will
    /// be reset. What containerd has of it would fail every later pull: away with it, before containerd
    /// knows and pulls again, and once more, because it may still have been writing. What it begins
    /// after this is none of that.
    pub(super) async fn wrong_bytes_passed_on(self: &Arc<Self>, digest: Digest) {
        let (begun_by, fetcher) = (SystemTime::now(), Arc::clone(self));
        let (aborted, is_aborted) = oneshot::channel();
        self.tasks.spawn(async move {
            fetcher.abort(&digest, begun_by).await;
            _ = aborted.send(());
            _ = fetcher.stop.run_until_cancelled(tokio::time::sleep(ABORT_AGAIN_AFTER)).await;
            fetcher.abort(&digest, begun_by).await;
        });
        _ = timeout(INGESTS_TIMEOUT, is_aborted).await;
    }

    async fn abort(&self, digest: &Digest, begun_by: SystemTime) {
        match self.store.abort_ingests(digest, begun_by).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(%digest, count, "aborted ingests of bad bytes"),
            Err(error) => tracing::error!(%digest, %error, "could not abort ingests of bad bytes"),
        }
    }
}
