//! Threads for connections that transfer bytes all the time. Each connection stays on one thread. In a
//! runtime that shares its tasks between threads, each ready socket would wake a second thread to look for
//! work, and move the connection's bytes from the cache of one CPU to that of another.
//!
//! Each thread keeps to its own part of the CPUs. Without that, the scheduler often puts all of them on one
//! CPU, together with the interrupts that wake them.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::{Builder, Handle};
use tokio_util::task::TaskTracker;

use crate::limits::SERVING_THREADS_MAX;
use crate::task::Stop;

/// As many threads as there are CPUs, up to [`SERVING_THREADS_MAX`]; they end when this is dropped.
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
        let all_cpus = sched_getaffinity(None)?;
        for index in 0..count {
            // The blocking pool's threads are children of the serving one, and not bound to its part.
            let runtime = Builder::new_current_thread()
                .enable_all()
                .on_thread_start(move || keep_to(&all_cpus))
                .build()?;
            let (handle, stop) = (runtime.handle().clone(), threads.stop.clone());
            let builder = std::thread::Builder::new().name(format!("{name}-{index}"));
            let thread = builder.spawn(move || {
                keep_to(&part(&all_cpus, index, count));
                runtime.block_on(stop.cancelled());
                runtime.shutdown_background();
            })?;
            threads.all.push(Serving { runtime: handle, connections: Arc::default(), thread: Some(thread) });
        }
        Ok(threads)
    }

    /// Runs `connection` on the thread with the fewest connections.
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

/// Every `count`th CPU of `cpus`, beginning with the one at `index`.
fn part(cpus: &CpuSet, index: usize, count: usize) -> CpuSet {
    let mut part = CpuSet::new();
    let set = (0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu));
    set.skip(index).step_by(count).for_each(|cpu| part.set(cpu));
    part
}

/// Keeps this thread to `cpus`. If the system refuses that, the thread is only slower.
fn keep_to(cpus: &CpuSet) {
    if let Err(error) = sched_setaffinity(None, cpus) {
        tracing::debug!(%error, "could not keep a thread to its CPUs");
    }
}

/// One connection, counted for its thread until this is dropped.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_cpus_are_disjoint_and_together_all() {
        let mut cpus = CpuSet::new();
        [0, 1, 4, 5, 9].into_iter().for_each(|cpu| cpus.set(cpu));
        let numbers = |set: &CpuSet| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect::<Vec<_>>();
        assert_eq!(numbers(&part(&cpus, 0, 2)), [0, 4, 9]);
        assert_eq!(numbers(&part(&cpus, 1, 2)), [1, 5]);
        assert_eq!(numbers(&part(&cpus, 0, 1)), [0, 1, 4, 5, 9]);
    }

    #[test]
    fn connections_are_spread_and_blocking_work_is_not_bound_to_one_part() {
        let threads = Threads::start("test").unwrap();
        let (tracker, (sender, receiver)) = (TaskTracker::new(), std::sync::mpsc::channel());
        for _ in 0..threads.all.len() {
            let sender = sender.clone();
            threads.spawn(&tracker, async move {
                let own = std::thread::current().name().map(str::to_owned);
                let blocking = tokio::task::spawn_blocking(|| sched_getaffinity(None).unwrap().count());
                sender.send((own, blocking.await.unwrap())).unwrap();
                std::future::pending::<()>().await;
            });
        }
        let seen: Vec<_> = receiver.iter().take(threads.all.len()).collect();
        let names: std::collections::BTreeSet<_> = seen.iter().map(|(own, _)| own).collect();
        assert_eq!(names.len(), threads.all.len(), "{names:?}");
        let all = sched_getaffinity(None).unwrap().count();
        assert!(seen.iter().all(|(_, cpus)| *cpus == all), "{seen:?} of {all}");
    }
}
