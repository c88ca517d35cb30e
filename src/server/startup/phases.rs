//! The tasks of a server, and the order in which they stop.

use std::convert::Infallible;

use piccolo_raft::cluster::Node;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::failure::Error;
use super::raft_threads::RaftThreads;
use crate::http::{self, Answer, ConnectionLimits, Guard, KnownAddresses};
use crate::limits::{
    DRAIN_TIMEOUT, RAFT_CONNECTIONS_MAX, RAFT_CONNECTIONS_OVER_LIMIT_MAX, RAFT_DRAIN_TIMEOUT,
    RAFT_SERVER_CONNECTIONS_MAX, SERVER_CONNECTIONS_MAX, TASKS_STOP_TIMEOUT,
};
use crate::task::{Stop, Tasks};

/// Every raft connection may have a message under way: none of them waits for another's.
const _: () =
    assert!(RAFT_CONNECTIONS_MAX + RAFT_CONNECTIONS_OVER_LIMIT_MAX < piccolo_raft::limits::MESSAGES_MAX);

/// The tasks of a server, with the signals that stop them one after the other.
pub struct Phases {
    /// The tasks that run until the server stops.
    pub tasks: Tasks,
    /// Addresses of the other servers, for both listeners.
    pub known: KnownAddresses,
    /// Stops all tasks other than the listeners.
    pub end: Stop,
    /// Stops the API listener.
    api: Stop,
    /// Cancelled once the API listener has answered its last request.
    api_drained: Stop,
    /// Stops the raft listener.
    raft: Stop,
    /// Cancelled once the raft listener has answered its last request.
    raft_drained: Stop,
}

impl Default for Phases {
    fn default() -> Self {
        Self::new()
    }
}

impl Phases {
    /// A server without tasks.
    pub fn new() -> Self {
        let end = Stop::new();
        Self {
            tasks: Tasks::new(end.clone()),
            known: KnownAddresses::default(),
            api: Stop::new(),
            api_drained: Stop::new(),
            raft: Stop::new(),
            raft_drained: Stop::new(),
            end,
        }
    }

    /// Serves raft on `threads` to those that `guard` lets in, in a task.
    pub fn serve_raft(
        &mut self,
        threads: &RaftThreads,
        listener: TcpListener,
        answers: impl Answer,
        guard: Option<Guard>,
    ) {
        let limits = ConnectionLimits {
            connections_max: RAFT_CONNECTIONS_MAX,
            over_limit_max: RAFT_CONNECTIONS_OVER_LIMIT_MAX,
            known_max: RAFT_SERVER_CONNECTIONS_MAX,
            drain_timeout: RAFT_DRAIN_TIMEOUT,
            ..ConnectionLimits::default()
        };
        let (stop, drained) = (self.raft.clone(), self.raft_drained.clone());
        let serving = threads.serve(listener, answers, (limits, guard), self.known.clone(), (stop, drained));
        let end = self.end.clone();
        self.tasks.spawn("raft", async move {
            let ended = end.run_until_cancelled(serving).await;
            ended.map_or(Ok(()), |failed| failed.map(|never| match never {}))
        });
    }

    /// Serves the discovery API, in a task.
    pub fn serve_api(&mut self, listener: TcpListener, service: impl Answer) {
        let limits = ConnectionLimits {
            known_max: SERVER_CONNECTIONS_MAX,
            drain_timeout: DRAIN_TIMEOUT,
            ..ConnectionLimits::default()
        };
        let known = self.known.clone();
        let (stop, drained) = (self.api.clone(), self.api_drained.clone());
        let end = self.end.clone();
        self.tasks.spawn("api", async move {
            http::serve_known(listener, service, limits, known, stop).await;
            drained.cancel();
            end.cancelled().await;
            Ok::<(), Infallible>(())
        });
    }

    /// Waits for `stop` or a failure, then stops in order: hands the leadership over, drains the API, waits
    /// for `writes`, closes the index, drains raft, ends the other tasks.
    ///
    /// # Errors
    /// Why the server did not go on.
    pub async fn run(self, node: &Node, writes: &TaskTracker, stop: Stop) -> Result<(), Error> {
        let Self { tasks, known: _, api, api_drained, raft, raft_drained, end } = self;
        let mut running = std::pin::pin!(tasks.run(TASKS_STOP_TIMEOUT));
        tokio::select! {
            () = stop.cancelled() => {}
            failure = node.failed() => return Err(failure.into()),
            ended = &mut running => return ended.map_err(Error::Task),
        }
        let handed_over = node.transfer_leader().await;
        tracing::info!(handed_over, "stopping: draining the discovery API");
        api.cancel();
        api_drained.cancelled().await;
        finish(writes).await;
        tracing::info!("stopping: closing the index");
        node.shutdown().await;
        raft.cancel();
        raft_drained.cancelled().await;
        end.cancel();
        running.await.map_err(Error::Task)
    }
}

/// Waits for writes under way, as long as for requests in flight: a write that hangs must not keep the server
/// from its end.
async fn finish(writes: &TaskTracker) {
    writes.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, writes.wait()).await.is_err() {
        tracing::warn!(
            left = writes.len(),
            "stopping although writes are under way: their clients send them again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_hangs_does_not_keep_a_server_from_its_end() {
        let writes = TaskTracker::new();
        let hangs = writes.spawn(std::future::pending::<()>());
        let start = tokio::time::Instant::now();
        finish(&writes).await;
        assert_eq!(start.elapsed(), DRAIN_TIMEOUT);
        hangs.abort();
        finish(&writes).await;
        assert_eq!(start.elapsed(), DRAIN_TIMEOUT, "without one it waits for nothing");
    }
}
