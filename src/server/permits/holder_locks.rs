//! Permits and locks of holders. The leader handles one write of a holder at a time, and on any server only
//! so many requests of one holder wait, so that one holder cannot take the permits of all others.
//!
//! The queue of a holder exists while a request stands in it, so that there are no more queues than requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use piccolo_raft::model::Holder;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::server::error::ApiError;

/// Permits for one kind of request: so many in all, and so many of one holder. Clones share them.
#[derive(Clone, Debug)]
pub struct HolderPermits {
    all: Arc<Semaphore>,
    queues: HolderQueues,
}

/// A permit for one request of a holder; given back when dropped.
#[derive(Debug)]
pub struct HolderPermit {
    queued: Queued,
    _of_all: OwnedSemaphorePermit,
}

/// The lock of a holder: whoever has it handles the holder's only write. Released when dropped.
pub type HolderLock = OwnedMutexGuard<()>;

impl HolderPermits {
    /// `all_max` permits, of which one holder can have `holder_max`.
    pub fn new(all_max: usize, holder_max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all_max)), queues: HolderQueues::new(holder_max) }
    }

    /// Whether a permit is free now. One of a certain holder may still be refused.
    pub fn is_any_free(&self) -> bool {
        self.all.available_permits() > 0
    }

    /// A permit for a request of `holder`.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`] if all permits are taken, [`ApiError::HolderBusy`] if this holder has its
    /// share.
    pub fn take(&self, holder: &Holder) -> Result<HolderPermit, ApiError> {
        let of_all = Arc::clone(&self.all).try_acquire_owned().map_err(|_| ApiError::Overloaded)?;
        let queued = self.queues.enter(holder).ok_or(ApiError::HolderBusy)?;
        Ok(HolderPermit { queued, _of_all: of_all })
    }
}

impl HolderPermit {
    /// Waits for the lock of the holder, in the order of the calls.
    pub async fn lock(&self) -> HolderLock {
        self.queued.lock().await
    }
}

/// The queues that at least one request stands in.
#[derive(Clone, Debug)]
struct HolderQueues {
    queues: Arc<Mutex<HashMap<Holder, Queue>>>,
    length_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    lock: Arc<tokio::sync::Mutex<()>>,
    length: usize,
}

/// A request in the queue of its holder; it leaves the queue when dropped.
#[derive(Debug)]
struct Queued {
    queues: HolderQueues,
    holder: Holder,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl HolderQueues {
    fn new(length_max: usize) -> Self {
        Self { queues: Arc::default(), length_max }
    }

    /// Enters the queue of `holder`; `None` if it is full.
    fn enter(&self, holder: &Holder) -> Option<Queued> {
        let mut queues = self.queues();
        if queues.get(holder).is_some_and(|queue| queue.length >= self.length_max) {
            return None;
        }
        let queue = queues.entry(holder.clone()).or_default();
        queue.length += 1;
        Some(Queued { queues: self.clone(), holder: holder.clone(), lock: Arc::clone(&queue.lock) })
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<Holder, Queue>> {
        self.queues.lock().expect("no code panics while it holds the queues")
    }
}

impl Queued {
    async fn lock(&self) -> HolderLock {
        Arc::clone(&self.lock).lock_owned().await
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut queues = self.queues.queues();
        let queue = queues.get_mut(&self.holder).expect("a queue stays while a request stands in it");
        queue.length -= 1;
        if queue.length == 0 {
            queues.remove(&self.holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    fn holder(n: u8) -> Holder {
        Holder { group: "g".into(), address: ([10, 0, 0, n], 1).into() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_holder_has_one_lock_at_a_time_and_no_queue_stays_behind() {
        let queues = HolderQueues::new(100);
        let inside: Arc<Vec<AtomicUsize>> = Arc::new((0..4).map(|_| AtomicUsize::new(0)).collect());
        let mut tasks = JoinSet::new();
        for n in 0..400 {
            let (queues, inside) = (queues.clone(), Arc::clone(&inside));
            tasks.spawn(async move {
                let who = n % 4;
                let queued = queues.enter(&holder(who as u8)).expect("the queue is that long");
                let _lock = queued.lock().await;
                assert_eq!(inside[who].fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside[who].fetch_sub(1, Ordering::SeqCst);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert!(queues.queues().is_empty());
    }

    #[tokio::test]
    async fn other_holders_do_not_wait_and_a_request_that_gives_up_leaves_nothing() {
        let queues = HolderQueues::new(2);
        let first = queues.enter(&holder(1)).unwrap();
        let lock = first.lock().await;
        let second = queues.enter(&holder(1)).unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(20), second.lock());
        assert!(waits.await.is_err(), "the lock is taken");
        queues.enter(&holder(2)).unwrap().lock().await;
        assert_eq!(queues.queues().len(), 1);
        drop((lock, first, second));
        assert!(queues.queues().is_empty());
    }

    #[test]
    fn a_holder_with_all_its_permits_taken_is_refused_and_no_other_one() {
        let queues = HolderQueues::new(3);
        let mut queued: Vec<_> = (0..3).map(|_| queues.enter(&holder(1)).unwrap()).collect();
        assert!(queues.enter(&holder(1)).is_none());
        assert!(queues.enter(&holder(2)).is_some());
        queued.pop();
        assert!(queues.enter(&holder(1)).is_some(), "a permit is free again");
    }
}
