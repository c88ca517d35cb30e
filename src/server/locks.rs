//! One lock a holder: the leader handles one write of a holder at a time. A lock exists while
//! somebody holds or awaits it, so their number is bounded by the writes at hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use piccolo_raft::command::Holder;
use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// The locks that are in use.
#[derive(Clone, Debug, Default)]
pub struct HolderLocks {
    locks: Arc<Mutex<HashMap<Holder, Lock>>>,
}

/// A holder's turn; ends when dropped.
#[derive(Debug)]
pub struct Turn {
    guard: Option<OwnedMutexGuard<()>>,
    _place: Place,
}

/// A place in a holder's queue. The last one to leave takes the lock away.
#[derive(Debug)]
struct Place {
    locks: HolderLocks,
    holder: Holder,
    lock: Lock,
}

impl HolderLocks {
    /// Waits for the holder's turn. First come, first served.
    pub async fn lock(&self, holder: &Holder) -> Turn {
        let lock = Arc::clone(self.table().entry(holder.clone()).or_default());
        let place = Place { locks: self.clone(), holder: holder.clone(), lock };
        let guard = Arc::clone(&place.lock).lock_owned().await;
        Turn { guard: Some(guard), _place: place }
    }

    /// How many locks are in use.
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// True if none is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Holder, Lock>> {
        self.locks.lock().expect("nobody panics with the table in hand")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Before the place, whose drop counts who still refers to the lock.
        self.guard = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.locks.table();
        // Counted with the table in hand: the table, this place, and the places of others.
        if Arc::strong_count(&self.lock) == 2 {
            table.remove(&self.holder);
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
    async fn one_holder_has_one_turn_at_a_time_and_no_lock_stays_behind() {
        let locks = HolderLocks::default();
        let inside: Arc<Vec<AtomicUsize>> = Arc::new((0..4).map(|_| AtomicUsize::new(0)).collect());
        let mut tasks = JoinSet::new();
        for n in 0..400 {
            let (locks, inside) = (locks.clone(), Arc::clone(&inside));
            tasks.spawn(async move {
                let who = n % 4;
                let _turn = locks.lock(&holder(who as u8)).await;
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
        let locks = HolderLocks::default();
        let turn = locks.lock(&holder(1)).await;
        let taken = holder(1);
        let waits = tokio::time::timeout(Duration::from_millis(20), locks.lock(&taken));
        assert!(waits.await.is_err(), "the turn is taken");
        locks.lock(&holder(2)).await;
        assert_eq!(locks.len(), 1);
        drop(turn);
        assert!(locks.is_empty());
    }
}
