//! Work that outlives the request that began it: it ends by itself, or when the agent stops.

use tokio_util::task::TaskTracker;

use crate::task::Stop;

/// Owns the tasks of a fetcher. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Background {
    tasks: TaskTracker,
    stop: Stop,
}

impl Background {
    /// No tasks yet; they end soon after `stop`.
    pub(crate) fn new(stop: Stop) -> Self {
        Self { tasks: TaskTracker::new(), stop }
    }

    /// Starts a task. What it waits for for long, it waits for with [`Self::until_stop`].
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// The output of `future`; `None` if the agent stops before that.
    pub(crate) async fn until_stop<F: Future>(&self, future: F) -> Option<F::Output> {
        self.stop.run_until_cancelled(future).await
    }

    /// Waits until all tasks have ended.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
