//! Threads for work that waits for the disk. It never runs on the threads of the runtime, where it would delay
//! messages and timers.

use std::fmt::Debug;
use std::io;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::task::JoinError;

/// Does the work of a node that waits for the disk.
pub trait Threads: Debug + Send + Sync + 'static {
    /// Does `work` off the threads of the caller's runtime and resolves when it is done. Work that has begun is
    /// finished even if the future is dropped.
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, Result<(), JoinError>>;

    /// Runs `worker` to its end, on a thread called `name`.
    ///
    /// # Errors
    /// If the system has no thread for it.
    fn start(&self, name: &'static str, worker: Box<dyn Worker>) -> io::Result<()>;
}

impl dyn Threads {
    /// Like [`Threads::run`], for work with a result.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let (sender, mut done) = oneshot::channel();
        self.run(Box::new(move || drop(sender.send(work())))).await?;
        Ok(done.try_recv().expect("work that has ended has sent its result"))
    }
}

/// Work that comes in steps, each of which may wait for the disk.
pub trait Worker: Send + 'static {
    /// Blocks until there is a step to perform; false if there will be none.
    fn wait(&mut self) -> bool;

    /// [`Worker::wait`] without blocking a thread.
    fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<bool>;

    /// Performs the step that was waited for; false if it was the last.
    fn step(&mut self) -> bool;
}

/// The pool of blocking threads of the caller's tokio runtime, and a thread for each worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemThreads;

impl Threads for SystemThreads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, Result<(), JoinError>> {
        Box::pin(async move { tokio::task::spawn_blocking(work).await })
    }

    fn start(&self, name: &'static str, mut worker: Box<dyn Worker>) -> io::Result<()> {
        let work = move || while worker.wait() && worker.step() {};
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
    }
}
