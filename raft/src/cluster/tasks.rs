//! The background tasks of a node. Each has a name and a watcher: one that fails, panics, or ends although the node
//! goes on, ends the node (see [`Node::failed`]), because a node without one of its tasks would go on without
//! purges, or without a look at its disk, and nobody would notice.

use std::fmt::Display;

use crate::task::caught;

use super::{Inner, Node, NodeFailure, bootstrap, standing};

/// When a task may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// As soon as its work is done.
    WhenDone,
    /// Only when the node stops.
    WithNode,
}

impl Node {
    /// Starts all of them.
    pub(super) fn spawn_tasks(&self) {
        let node = self.clone();
        self.watch_task("bootstrap", Ends::WhenDone, async move {
            let result = bootstrap::run(&node.inner).await;
            node.inner.unless_stopping(result)
        });
        let node = self.clone();
        self.watch_task("standing", Ends::WithNode, async move { standing::run(&node.inner).await });
        let node = self.clone();
        self.watch_task("flusher", Ends::WithNode, async move {
            let inner = &node.inner;
            let (interval, stop) = (inner.env.timing.flush_interval, inner.stop.clone());
            let result = inner.index.run_flusher(interval, stop, || inner.guard.room_to_flush()).await;
            inner.unless_stopping(result)
        });
        let node = self.clone();
        self.watch_task("compaction", Ends::WithNode, async move {
            node.inner.run_compaction().await;
            Ok(())
        });
        let node = self.clone();
        self.watch_task("disk watch", Ends::WithNode, async move {
            let result = node.inner.watch_space().await;
            node.inner.unless_stopping(result)
        });
        let node = self.clone();
        self.watch_task("disks of members", Ends::WithNode, async move {
            node.lead_with_room().await;
            Ok(())
        });
        let node = self.clone();
        self.watch_task("levels", Ends::WithNode, async move {
            node.lead_to_next_level().await;
            Ok(())
        });
        let node = self.clone();
        self.watch_task("reach", Ends::WithNode, async move {
            node.keep_in_reach().await;
            Ok(())
        });
    }

    /// Starts the task `name`. How it ends decides whether the node goes on.
    pub(super) fn watch_task(
        &self,
        name: &'static str,
        ends: Ends,
        work: impl Future<Output = Result<(), NodeFailure>> + Send + 'static,
    ) {
        let node = self.clone();
        self.inner.tasks.spawn(async move {
            let inner = &node.inner;
            match caught(name, work).await {
                Ok(Ok(())) if ends == Ends::WhenDone || inner.stop.is_cancelled() => {}
                Ok(Ok(())) => inner.end(NodeFailure::TaskEnded { name }),
                Ok(Err(failure)) => inner.end(failure),
                Err(_) => inner.end(NodeFailure::TaskPanicked { name }),
            }
        });
    }
}

impl Inner {
    /// What an error means for the node: nothing while it is stopping, its end otherwise.
    pub(super) fn unless_stopping<E: Display>(&self, result: Result<(), E>) -> Result<(), NodeFailure> {
        match result {
            Err(error) if !self.stop.is_cancelled() => Err(self.broken(error)),
            _ => Ok(()),
        }
    }

    /// The node ends: see [`Node::failed`].
    pub(super) fn end(&self, failure: NodeFailure) {
        tracing::error!(%failure, "the node ends");
        self.failure.set(Some(failure));
    }
}
