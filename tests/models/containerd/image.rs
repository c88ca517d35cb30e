//! The layers of an image: which of them are pulled at the same time.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Containerd, PullError};

impl Containerd {
    /// Pulls blobs of these digests and sizes as the layers of one image: 1.6.20 `images/handlers.go` `Dispatch`, where
    /// a limiter lets `slots` of them begin, and 2.1.4 `core/images/handlers.go` `Dispatch`, where all begin, and queue
    /// for the daemon's slots at each host. The first error cancels the others (`errgroup`).
    pub async fn pull_image(&self, layers: &[(String, u64)], slots: usize) -> Result<(), PullError> {
        let limiter = Arc::new(Semaphore::new(slots));
        let mut pulls = JoinSet::new();
        for (digest, size) in layers.iter().cloned() {
            let slot = match self.fetcher.slots {
                None => {
                    Some(Arc::clone(&limiter).acquire_owned().await.expect("the limiter is never closed"))
                }
                Some(_) => None,
            };
            let daemon = self.clone();
            pulls.spawn(async move {
                let _slot = slot;
                daemon.pull_blob(&digest, size).await
            });
            while let Some(ended) = pulls.try_join_next() {
                ended.expect("a pull does not panic")?;
            }
        }
        while let Some(ended) = pulls.join_next().await {
            ended.expect("a pull does not panic")?;
        }
        Ok(())
    }
}
