//! Tasks with an owner, a name and a stop signal. The only place that spawns.

use std::future::Future;
use std::time::Duration;

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
    /// Its own error.
    #[error("task {name} failed: {reason}")]
    Failed {
        /// Which task.
        name: &'static str,
        /// What it said.
        reason: String,
    },
    /// It returned although nobody asked it to stop.
    #[error("task {name} ended early")]
    EndedEarly {
        /// Which task.
        name: &'static str,
    },
    /// It panicked; the panic hook has logged where.
    #[error("a task panicked; the log line before says where")]
    Panicked,
    /// Still running when the time to stop was over.
    #[error("{count} tasks did not stop within {seconds} s")]
    DidNotStop {
        /// How many.
        count: usize,
        /// The time they had.
        seconds: u64,
    },
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
    pub fn spawn<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.set.spawn(async move {
            let result = task.await;
            (name, result.map_err(|error| TaskError::Failed { name, reason: error.to_string() }))
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
                Err(_) => Some(TaskError::Panicked),
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
                    Err(_) => first = Err(TaskError::Panicked),
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
