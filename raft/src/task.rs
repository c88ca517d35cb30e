//! Tasks with an owner, a name and a stop signal. A task that panics is an error with the task's name: its owner
//! hears of it, and a process never goes on without one of its tasks.

use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The signal to stop, handed to every task.
pub type Stop = CancellationToken;

/// The tasks of one process or subsystem. A task that ends before the stop signal, or panics, is a
/// defect: [`Tasks::run`] returns it and the process ends, for a supervisor to start it again.
#[derive(Debug)]
pub struct Tasks {
    stop: Stop,
    set: JoinSet<(&'static str, Result<(), TaskError>)>,
}

/// How a task ended that should have gone on.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The task returned an error.
    #[error("task {name} failed")]
    Failed {
        /// Name of the task.
        name: &'static str,
        /// Error of the task.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The task returned although nobody asked it to stop.
    #[error("task {name} ended early")]
    EndedEarly {
        /// Name of the task.
        name: &'static str,
    },
    /// The task panicked; the panic hook has logged where.
    #[error("task {name} panicked; the log line before says where")]
    Panicked {
        /// Name of the task.
        name: &'static str,
    },
    /// The task was aborted by its runtime, which is going away.
    #[error("a task was aborted")]
    Aborted,
    /// Still running when the time to stop was over.
    #[error("{count} tasks did not stop within {seconds} s")]
    DidNotStop {
        /// Number of tasks that did not end.
        count: usize,
        /// Time that the tasks had to end, seconds.
        seconds: u64,
    },
}

/// Runs the task `name` to its end.
///
/// # Errors
/// [`TaskError::Panicked`] if it panics.
pub async fn caught<T>(name: &'static str, task: impl Future<Output = T>) -> Result<T, TaskError> {
    // What the task leaves behind is not looked at: its owner ends with it.
    AssertUnwindSafe(task).catch_unwind().await.map_err(|_| TaskError::Panicked { name })
}

impl Tasks {
    /// No tasks yet; they stop when `stop` is cancelled.
    pub fn new(stop: Stop) -> Self {
        Self { stop, set: JoinSet::new() }
    }

    /// The signal that the tasks obey.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Starts a task. It must watch the stop signal and return soon after.
    pub fn spawn<E: Into<Box<dyn Error + Send + Sync>>>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.set.spawn(async move {
            let result = caught(name, task).await;
            let failed = |error: E| TaskError::Failed { name, source: error.into() };
            (name, result.and_then(|result| result.map_err(failed)))
        });
    }

    /// Waits until the stop signal, or until a task fails or ends early; then stops the rest and
    /// waits for them, `deadline` at most.
    pub async fn run(mut self, deadline: Duration) -> Result<(), TaskError> {
        let early = tokio::select! {
            () = self.stop.cancelled() => None,
            Some(ended) = self.set.join_next() => match ended {
                Ok((_, Err(error))) => Some(error),
                Ok((_, Ok(()))) if self.stop.is_cancelled() => None,
                Ok((name, Ok(()))) => Some(TaskError::EndedEarly { name }),
                Err(_) => Some(TaskError::Aborted),
            },
        };
        self.stop.cancel();
        let stopped = self.join(deadline).await;
        early.map_or(stopped, Err)
    }

    async fn join(&mut self, deadline: Duration) -> Result<(), TaskError> {
        let mut first = Ok(());
        let joined = tokio::time::timeout(deadline, async {
            while let Some(ended) = self.set.join_next().await {
                match ended {
                    Ok((name, Ok(()))) => tracing::debug!(task = name, "stopped"),
                    Ok((_, Err(error))) => first = Err(error),
                    Err(_) => first = Err(TaskError::Aborted),
                }
            }
        });
        if joined.await.is_err() {
            let count = self.set.len();
            self.set.abort_all();
            return Err(TaskError::DidNotStop { count, seconds: deadline.as_secs() });
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_early_stops_the_others_and_is_named() {
        let mut tasks = Tasks::new(Stop::new());
        let stop = tasks.stop().clone();
        tasks.spawn("waits", async move {
            stop.cancelled().await;
            Ok::<(), TaskError>(())
        });
        tasks.spawn("leaves", async { Ok::<(), TaskError>(()) });
        let error = tasks.run(Duration::from_secs(5)).await.unwrap_err();
        assert!(error.to_string().contains("leaves"), "{error}");
    }

    #[tokio::test]
    async fn a_task_that_panics_or_fails_is_named_with_its_error() {
        let mut tasks = Tasks::new(Stop::new());
        tasks.spawn("breaks", async { panic!("as the test wants it") as Result<(), TaskError> });
        let error = tasks.run(Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, TaskError::Panicked { name: "breaks" }), "{error}");

        let mut tasks = Tasks::new(Stop::new());
        tasks.spawn("fails", async { Err("the disk is full") });
        let error = tasks.run(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "task fails failed");
        assert_eq!(error.source().unwrap().to_string(), "the disk is full");
    }

    #[tokio::test]
    async fn stopping_waits_for_all() {
        let stop = Stop::new();
        let mut tasks = Tasks::new(stop.clone());
        let inner = stop.clone();
        tasks.spawn("waits", async move {
            inner.cancelled().await;
            Ok::<(), TaskError>(())
        });
        stop.cancel();
        assert!(tasks.run(Duration::from_secs(5)).await.is_ok());
    }
}
