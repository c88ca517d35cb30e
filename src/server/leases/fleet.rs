//! Sums of the counters that agents send in their heartbeats. Only the leader has them, in memory: with each
//! term they begin anew, and then have what each agent has counted since its start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use piccolo_raft::model::Holder;

use crate::server::cluster::leadership::Leadership;

/// Counters of one agent since its start, or sums of those of all agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that its mirror received from peers.
    pub bytes_from_peers: u64,
    /// Bytes that it served to peers.
    pub bytes_served: u64,
    /// Requests that no peer could answer.
    pub misses: u64,
}

/// The sums, and the last counters of each holder.
#[derive(Debug, Default)]
pub struct Fleet {
    reported: HashMap<Holder, Usage>,
    sums: Usage,
}

/// The [`Fleet`] of one server; clones share it.
#[derive(Clone)]
pub struct FleetUsage {
    fleet: Arc<Mutex<Fleet>>,
    leadership: Leadership,
}

impl FleetUsage {
    /// A fleet without counters.
    pub fn new(leadership: Leadership) -> Self {
        Self { fleet: Arc::default(), leadership }
    }

    /// Locks the counters.
    pub fn lock(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().expect("no code panics while it holds this lock")
    }

    /// Sums over all agents; `None` on a server that does not lead.
    pub fn sums(&self) -> Option<Usage> {
        self.leadership.is_ready().then(|| self.lock().sums())
    }
}

impl Fleet {
    /// Adds to the sums by how much the counters of a known holder have grown.
    pub fn report(&mut self, holder: &Holder, usage: Usage) {
        let before = match self.reported.get_mut(holder) {
            Some(reported) => std::mem::replace(reported, usage),
            None => {
                self.reported.insert(holder.clone(), usage);
                Usage::default()
            }
        };
        let grow = |sum: &mut u64, before: u64, now: u64| {
            // A counter that is lower than before has begun anew.
            *sum = sum.saturating_add(now.checked_sub(before).unwrap_or(now));
        };
        grow(&mut self.sums.bytes_from_peers, before.bytes_from_peers, usage.bytes_from_peers);
        grow(&mut self.sums.bytes_served, before.bytes_served, usage.bytes_served);
        grow(&mut self.sums.misses, before.misses, usage.misses);
    }

    /// Forgets the holders that are not known any more; what they did stays in the sums.
    pub fn retain(&mut self, is_known: impl Fn(&Holder) -> bool) {
        self.reported.retain(|holder, _| is_known(holder));
    }

    /// Forgets a holder; what it did stays in the sums.
    pub fn remove(&mut self, holder: &Holder) {
        self.reported.remove(holder);
    }

    /// The sums over all holders since the term began.
    pub fn sums(&self) -> Usage {
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(n: u8) -> Holder {
        Holder { group: "default".into(), address: ([10, 0, 0, n], 7781).into() }
    }

    fn usage(n: u64) -> Usage {
        Usage { bytes_from_peers: n, bytes_served: 10 * n, misses: 100 * n }
    }

    #[test]
    fn sums_grow_by_what_each_holder_did_more_and_survive_its_restart() {
        let mut fleet = Fleet::default();
        for (n, counted) in [(1, 5), (2, 3), (1, 7), (1, 7)] {
            fleet.report(&holder(n), usage(counted));
        }
        assert_eq!(fleet.sums(), usage(10));
        fleet.report(&holder(1), usage(2));
        assert_eq!(fleet.sums(), usage(12), "started again");
        fleet.remove(&holder(2));
        assert_eq!(fleet.sums(), usage(12), "what it did stays");
        fleet.report(&holder(2), usage(1));
        assert_eq!(fleet.sums(), usage(13));
        fleet.report(&holder(2), Usage { misses: u64::MAX, ..usage(1) });
        assert_eq!(fleet.sums().misses, u64::MAX, "and never begin anew");
        fleet.retain(|known| *known == holder(1));
        assert_eq!(fleet.reported.len(), 1);
    }
}
