//! The orderly end of a node.

use tokio::time::timeout;

use crate::limits::{STOP_MESSAGES_TIMEOUT, STOP_TASKS_TIMEOUT};

use super::{Inner, Node};

impl Node {
    /// Ends raft and the tasks, makes everything durable and closes both files: they can be opened
    /// again at once, whoever still holds a clone of the index. A leader should call
    /// [`Node::transfer_leader`] before.
    pub async fn shutdown(&self) {
        let Inner { lifetime, leadership, stores, permits, .. } = &*self.inner;
        lifetime.stop.cancel();
        if timeout(STOP_MESSAGES_TIMEOUT, permits.refuse()).await.is_err() {
            tracing::info!("a message of another server is still coming in");
        }
        lifetime.closing.cancel();
        if let Err(error) = leadership.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end cleanly");
        }
        lifetime.ended.cancel();
        lifetime.tasks.close();
        if timeout(STOP_TASKS_TIMEOUT, lifetime.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = lifetime.tasks.len(), "tasks of the node did not end");
        }
        if let Err(error) = stores.index.close().await {
            tracing::warn!(%error, "could not make the state durable");
        }
        stores.log.close().await;
    }
}
