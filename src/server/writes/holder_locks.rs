//! One queue a holder: the leader handles one write of a holder at a time, and on any server only so
//! many of one holder wait, so that it cannot take the places of all others. A queue exists while
//! somebody stands in it, so their number is bounded by the requests at hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use piccolo_raft::model::Holder;
use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// The queues that somebody stands in.
#[derive(Clone, Debug)]
pub struct HolderLocks {
    queues: Arc<Mutex<HashMap<Holder, Queue>>>,
    places_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    lock: Lock,
    places: usize,
}

/// A place in a holder's queue; left when dropped.
#[derive(Debug)]
pub struct Place {
    locks: HolderLocks,
    holder: Holder,
    lock: Lock,
}

/// A holder's turn; ends when dropped.
pub type Turn = OwnedMutexGuard<()>;

impl HolderLocks {
    /// Empty queues with so many places each.
    pub fn new(places_max: usize) -> Self {
        Self { queues: Arc::default(), places_max }
    }

    /// A place behind those that are there; `None` if all are taken.
    pub fn enter(&self, holder: &Holder) -> Option<Place> {
        let mut queues = self.queues();
        if queues.get(holder).is_some_and(|queue| queue.places >= self.places_max) {
            return None;
        }
        let queue = queues.entry(holder.clone()).or_default();
        queue.places += 1;
        Some(Place { locks: self.clone(), holder: holder.clone(), lock: Arc::clone(&queue.lock) })
    }

    /// How many queues there are.
    pub fn len(&self) -> usize {
        self.queues().len()
    }

    /// True if nobody waits or works.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<Holder, Queue>> {
        self.queues.lock().expect("nobody panics with the queues in hand")
    }
}

impl Place {
    /// Waits for the holder's turn. First come, first served.
    pub async fn turn(&self) -> Turn {
        Arc::clone(&self.lock).lock_owned().await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.locks.queues();
        let queue = queues.get_mut(&self.holder).expect("a queue stays while somebody stands in it");
        queue.places -= 1;
        if queue.places == 0 {
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
    async fn one_holder_has_one_turn_at_a_time_and_no_queue_stays_behind() {
        let locks = HolderLocks::new(100);
        let inside: Arc<Vec<AtomicUsize>> = Arc::new((0..4).map(|_| AtomicUsize::new(0)).collect());
        let mut tasks = JoinSet::new();
        for n in 0..400 {
            let (locks, inside) = (locks.clone(), Arc::clone(&inside));
            tasks.spawn(async move {
                let who = n % 4;
                let place = locks.enter(&holder(who as u8)).expect("there are as many places");
                let _turn = place.turn().await;
                assert_eq!(inside[who].fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside[who].fetch_sub(1, Ordering::SeqCst);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert!(locks.is_empty());
    }

    #[tokio::test]
    async fn others_do_not_wait_and_who_gives_up_leaves_nothing() {
        let locks = HolderLocks::new(2);
        let first = locks.enter(&holder(1)).unwrap();
        let turn = first.turn().await;
        let second = locks.enter(&holder(1)).unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(20), second.turn());
        assert!(waits.await.is_err(), "the turn is taken");
        locks.enter(&holder(2)).unwrap().turn().await;
        assert_eq!(locks.len(), 1);
        drop((turn, first, second));
        assert!(locks.is_empty());
    }

    #[test]
    fn a_holder_with_all_its_places_taken_is_refused_and_no_other_one() {
        let locks = HolderLocks::new(3);
        let mut places: Vec<_> = (0..3).map(|_| locks.enter(&holder(1)).unwrap()).collect();
        assert!(locks.enter(&holder(1)).is_none());
        assert!(locks.enter(&holder(2)).is_some());
        places.pop();
        assert!(locks.enter(&holder(1)).is_some(), "a place is free again");
    }
}
