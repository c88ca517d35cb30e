//! How long the parts of a node run: its tasks, and the signals that end them.
//!
//! A background task has a name and a watcher. One that fails, panics, or ends although the node goes on, ends the
//! node (see [`super::Node::failed`]): without it the node would go on without purges, or without a look at its
//! disk, and nobody would notice.

use std::error::Error;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::errors::chain;
use crate::task::caught;
use crate::watch;

use super::NodeFailure;
use super::stores::Stores;

/// When a task may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// The task may end as soon as its work is done.
    WhenDone,
    /// Only when the node stops.
    WithNode,
}

/// The tasks of a node, and the signals that end them; clones share them.
#[derive(Clone)]
pub(super) struct Lifetime {
    /// Where connections that are kept for messages are made, whoever needs them first.
    runtime: Handle,
    /// Background tasks, proposals in flight, connections to other servers.
    pub(super) tasks: TaskTracker,
    /// The background tasks stop; proposals and connections go on, to hand leadership over.
    pub(super) stop: CancellationToken,
    /// Calls that wait for a quorum end: openraft logs those that it has to break off as errors.
    pub(super) closing: CancellationToken,
    /// Cancelled when the connections to other servers are cut.
    pub(super) ended: CancellationToken,
    pub(super) failure: Arc<watch::Sender<Option<NodeFailure>>>,
}

impl Lifetime {
    /// That of a node whose tasks are in `tasks`, and run on `runtime` until `stop` or the end of the node.
    pub(super) fn new(
        runtime: Handle,
        tasks: TaskTracker,
        stop: &CancellationToken,
        ended: CancellationToken,
    ) -> Self {
        Self {
            runtime,
            tasks,
            stop: stop.child_token(),
            closing: CancellationToken::new(),
            ended,
            failure: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Starts the task `name`. How it ends decides whether the node goes on.
    pub(super) fn watch_task(
        &self,
        name: &'static str,
        ends: Ends,
        work: impl Future<Output = Result<(), NodeFailure>> + Send + 'static,
    ) {
        let lifetime = self.clone();
        self.tasks.spawn(async move {
            match caught(name, work).await {
                Ok(Ok(())) if ends == Ends::WhenDone || lifetime.stop.is_cancelled() => {}
                Ok(Ok(())) => lifetime.end(NodeFailure::TaskEnded { name }),
                Ok(Err(failure)) => lifetime.end(failure),
                Err(_) => lifetime.end(NodeFailure::TaskPanicked { name }),
            }
        });
    }

    /// Does `work` on the node's own runtime. A connection belongs to the threads that it was made on, and may
    /// later carry what is urgent.
    pub(super) fn spawn_on_runtime<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn_on(work, &self.runtime)
    }

    /// Runs a call that waits for a quorum; `None` if the node closes meanwhile, also where the call has just failed
    /// by that.
    pub(super) async fn unless_closing<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => None,
            done = call => Some(done),
        }
    }

    /// What an error means for the node: nothing while it is stopping, its end otherwise.
    pub(super) fn unless_stopping<E: Error + Send + Sync + 'static>(
        &self,
        stores: &Stores,
        result: Result<(), E>,
    ) -> Result<(), NodeFailure> {
        match result {
            Err(error) if !self.stop.is_cancelled() => Err(stores.failure(error)),
            _ => Ok(()),
        }
    }

    /// The node ends: see [`super::Node::failed`].
    pub(super) fn end(&self, failure: NodeFailure) {
        tracing::error!(failure = chain(&failure), "the node ends");
        self.failure.set(Some(failure));
    }
}
