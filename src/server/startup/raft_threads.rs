//! Threads for raft. A leader with ten thousand requests a second has as many tasks that wait for the threads
//! of the API. A raft heartbeat that waits behind them comes too late, and the followers elect another leader
//! in the busiest moment. The kernel shares the CPUs between threads, however many tasks the other threads
//! have.

use std::convert::Infallible;
use std::future::Future;
use std::io;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::http::{self, Answer, ConnectionLimits, Guard, KnownAddresses};
use crate::limits::RAFT_THREADS;
use crate::task::Stop;

/// The threads of raft; they end when this is dropped.
pub struct RaftThreads(Option<Runtime>);

#[expect(clippy::disallowed_methods, reason = "both callers await the task that they start on these threads")]
impl RaftThreads {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start() -> io::Result<Self> {
        Builder::new_multi_thread()
            .worker_threads(RAFT_THREADS)
            .thread_name("raft")
            .enable_all()
            .build()
            .map(Some)
            .map(Self)
    }

    /// A handle to their runtime.
    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("taken by the drop only").handle()
    }

    /// Runs `work` on these threads, together with the tasks that it spawns.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.handle().spawn(work).await {
            Ok(done) => done,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }

    /// Serves `answers` on these threads to those that `guard` lets in, until `stop`; cancels `drained` once the last request is answered.
    pub fn serve<A: Answer>(
        &self,
        listener: TcpListener,
        answers: A,
        (limits, guard): (ConnectionLimits, Option<Guard>),
        known: KnownAddresses,
        (stop, drained): (Stop, Stop),
    ) -> impl Future<Output = io::Result<Infallible>> + Send + use<A> {
        let handle = self.handle().clone();
        async move {
            // A listener is registered with the runtime in which it was made.
            let listener = listener.into_std()?;
            let serving = handle.spawn(async move {
                let listener = TcpListener::from_std(listener)?;
                http::serve_guarded(listener, answers, limits, known, guard, stop).await;
                Ok::<(), io::Error>(())
            });
            serving.await.map_err(io::Error::other)??;
            drained.cancel();
            std::future::pending().await
        }
    }
}

impl Drop for RaftThreads {
    fn drop(&mut self) {
        // A runtime must not be waited for here; after a failure it may still have tasks.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
