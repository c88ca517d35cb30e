//! Threads for work that waits for the disk: none of it is done where messages and timers wait for their turn.

use std::fmt::Debug;
use std::io;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::task::JoinError;

/// Where a node's work that waits for the disk is done.
pub trait Threads: Debug + Send + Sync + 'static {
    /// Does `work` off the threads of the caller's runtime and resolves when it is done. Work that has begun
    /// goes on when nobody waits for it any more.
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, Result<(), JoinError>>;

    /// Lets `worker` work until its end. `name` is that of its thread.
    ///
    /// # Errors
    /// If the system has no thread for it.
    fn start(&self, name: &'static str, worker: Box<dyn Worker>) -> io::Result<()>;
}

impl dyn Threads {
    /// [`Threads::run`], with what `work` comes to.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let (sender, mut done) = oneshot::channel();
        self.run(Box::new(move || drop(sender.send(work())))).await?;
        Ok(done.try_recv().expect("work that has ended has sent what it came to"))
    }
}

/// Work that comes in steps, each of which may wait for the disk.
pub trait Worker: Send + 'static {
    /// Blocks until there is a step to perform; false: there will be none.
    fn wait(&mut self) -> bool;

    /// The same without blocking a thread.
    fn poll_wait(&mut self, context: &mut Context<'_>) -> Poll<bool>;

    /// Performs the step that was waited for; false: it was the last.
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
