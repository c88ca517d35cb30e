//! A bounded set whose entries expire: what went wrong lately, and with whom.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Keys that were inserted within the last `ttl`, at most `capacity` of them.
#[derive(Debug)]
pub(crate) struct ExpiringSet<K> {
    ttl: Duration,
    capacity: usize,
    since: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash + Clone> ExpiringSet<K> {
    pub(crate) fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity, since: Mutex::new(HashMap::new()) }
    }

    /// Inserts `key`, or renews it. A full set drops its oldest entry.
    pub(crate) fn insert(&self, key: K) {
        let mut since = self.lock();
        let now = Instant::now();
        if since.len() >= self.capacity && !since.contains_key(&key) {
            since.retain(|_, seen| now - *seen < self.ttl);
        }
        if since.len() >= self.capacity && !since.contains_key(&key) {
            let oldest = since.iter().min_by_key(|(_, seen)| **seen).map(|(key, _)| key.clone());
            oldest.map(|oldest| since.remove(&oldest));
        }
        since.insert(key, now);
    }

    /// Whether `key` was inserted within the last `ttl`.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.lock().get(key).is_some_and(|seen| seen.elapsed() < self.ttl)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Instant>> {
        // No panic can leave a map of instants half changed.
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn entries_end_after_their_time() {
        let recent = ExpiringSet::new(Duration::from_secs(60), 8);
        recent.insert("a");
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(recent.contains(&"a"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!recent.contains(&"a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_memory_drops_the_oldest() {
        let recent = ExpiringSet::new(Duration::from_secs(60), 2);
        for key in ["a", "b", "c"] {
            recent.insert(key);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(!recent.contains(&"a") && recent.contains(&"b") && recent.contains(&"c"));
    }
}
