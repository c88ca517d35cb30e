//! Raft on threads of its own. A leader that is asked ten thousand things a second has as many tasks
//! waiting for its turn on the threads of the API; a heartbeat that waits behind them comes too late,
//! and the followers elect another leader, in the busiest moment. Between threads the kernel shares
//! the CPUs out, however much the others have to do.

use std::convert::Infallible;
use std::future::Future;
use std::io;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::http::{self, ConnectionLimits, KnownAddresses};
use crate::task::Stop;
use axum::Router;

/// One runs openraft's core, the others what it waits for: the state machine, messages, the disk.
const THREADS: usize = 3;

/// The threads; they end when this is dropped.
pub struct RaftThreads(Option<Runtime>);

impl RaftThreads {
    /// # Errors
    /// If the system refuses a thread.
    pub fn start() -> io::Result<Self> {
        Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("raft")
            .enable_all()
            .build()
            .map(Some)
            .map(Self)
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("taken by the drop only").handle()
    }

    /// Runs `work` there, and with it whatever it spawns.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.handle().spawn(work).await {
            Ok(done) => done,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }

    /// Serves `router` there until `stop`; then calls `drained`.
    pub fn serve(
        &self,
        listener: TcpListener,
        router: Router,
        limits: ConnectionLimits,
        known: KnownAddresses,
        (stop, drained): (Stop, Stop),
    ) -> impl Future<Output = io::Result<Infallible>> + Send + use<> {
        let handle = self.handle().clone();
        async move {
            // A listener belongs to the threads that it was made on.
            let listener = listener.into_std()?;
            let serving = handle.spawn(async move {
                http::serve_known(TcpListener::from_std(listener)?, router, limits, known, stop).await;
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
        // Waiting for their last tasks is not allowed here; after a failure there may be some.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
