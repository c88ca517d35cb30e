//! Threads of their own for connections that move bytes all the time: each stays on the thread that
//! it was given to. In a runtime that shares its tasks between threads, every readiness of a socket
//! wakes a second thread to look for work, and moves the connection's bytes from one CPU's cache to
//! another's.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::task::TaskTracker;

use crate::limits::SERVING_THREADS_MAX;
use crate::task::Stop;

/// As many as there are CPUs, up to [`SERVING_THREADS_MAX`]; they end when this is dropped.
pub(super) struct Threads {
    all: Vec<Serving>,
    stop: Stop,
}

struct Serving {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, NonZero::get).min(SERVING_THREADS_MAX);
        let mut threads = Self { all: Vec::with_capacity(count), stop: Stop::new() };
        for index in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, stop) = (runtime.handle().clone(), threads.stop.clone());
            let builder = std::thread::Builder::new().name(format!("{name}-{index}"));
            let thread = builder.spawn(move || {
                runtime.block_on(stop.cancelled());
                runtime.shutdown_background();
            })?;
            threads.all.push(Serving { runtime: handle, connections: Arc::default(), thread: Some(thread) });
        }
        Ok(threads)
    }

    /// Runs `connection` on the thread that has the fewest.
    pub(super) fn spawn(&self, tracker: &TaskTracker, connection: impl Future<Output = ()> + Send + 'static) {
        let fewest = self.all.iter().min_by_key(|serving| serving.connections.load(Ordering::Relaxed));
        let serving = fewest.expect("there is at least one thread");
        let counted = Counted::one_more(&serving.connections);
        let connection = async move {
            let _as_long_as_it_runs = counted;
            connection.await;
        };
        tracker.spawn_on(connection, &serving.runtime);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.all.iter_mut().filter_map(|serving| serving.thread.take()) {
            if thread.join().is_err() {
                tracing::error!("a thread that served connections panicked");
            }
        }
    }
}

/// One connection in a thread's count.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one_more(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
