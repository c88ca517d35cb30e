//! What containerd has of a blob while it is being pulled: the length that it expects, the bytes that
//! it has written, and their end if they are wrong.

pub(crate) mod follower;

use std::sync::Arc;
use std::time::SystemTime;

use piccolo_raft::errors::chain;
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::follower::Follower;
use super::background::Background;
use crate::agent::content::buffer_pool::BufferPool;
use crate::agent::content::store::{Ingest, Store};
use crate::limits::{ABORT_AGAIN_AFTER, INGESTS_TIMEOUT};
use crate::oci::Digest;

/// The ingests of this node's containerd.
pub(crate) struct Ingests {
    store: Arc<dyn Store>,
    pool: BufferPool,
    background: Background,
}

impl Ingests {
    /// The ingests of `store`.
    pub(crate) fn new(store: Arc<dyn Store>, pool: BufferPool, background: Background) -> Self {
        Self { store, pool, background }
    }

    /// The length that containerd expects of `digest`, which is noted beside the bytes that it has of the blob.
    pub(crate) async fn expected_total(&self, digest: &Digest) -> Option<u64> {
        let ingests = self.of(digest).await;
        let mut totals = ingests.iter().filter_map(|ingest| ingest.total_bytes);
        let total = totals.next()?;
        totals.all(|other| other == total).then_some(total)
    }

    /// Follows what containerd writes of `digest`, if that can be seen.
    pub(crate) async fn follow(&self, digest: &Digest) -> Option<Follower> {
        // Of several ingests it cannot be told which one is for the request.
        let mut ingests = self.of(digest).await;
        let data = ingests.pop().filter(|_| ingests.is_empty())?.data?;
        Some(Follower::start(data, digest, self.pool.clone(), &self.background))
    }

    /// The ingests of `digest`; none if containerd does not list them in time.
    pub(crate) async fn of(&self, digest: &Digest) -> Vec<Ingest> {
        match timeout(INGESTS_TIMEOUT, self.store.ingests(digest)).await {
            Ok(Ok(ingests)) => ingests,
            Ok(Err(error)) => {
                tracing::debug!(%digest, error = chain(&error), "could not look at ingests");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    /// Aborts the ingests of a large blob that was passed on before its bytes turned out wrong. The connection
    /// to containerd will be reset; what containerd has of the blob would fail every later pull. So it is
    /// aborted before containerd knows and pulls again, and once more, because containerd may still have been
    /// writing. An ingest that begins after this call stays.
    pub(crate) async fn abort_wrong_bytes(self: &Arc<Self>, digest: Digest) {
        let (begun_by, ingests) = (SystemTime::now(), Arc::clone(self));
        let (aborted, is_aborted) = oneshot::channel();
        self.background.spawn(async move {
            ingests.abort(&digest, begun_by).await;
            _ = aborted.send(());
            _ = ingests.background.until_stop(tokio::time::sleep(ABORT_AGAIN_AFTER)).await;
            ingests.abort(&digest, begun_by).await;
        });
        _ = timeout(INGESTS_TIMEOUT, is_aborted).await;
    }

    async fn abort(&self, digest: &Digest, begun_by: SystemTime) {
        match self.store.abort_ingests(digest, begun_by).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(%digest, count, "aborted ingests of bad bytes"),
            Err(error) => {
                tracing::error!(%digest, error = chain(&error), "could not abort ingests of bad bytes");
            }
        }
    }
}
