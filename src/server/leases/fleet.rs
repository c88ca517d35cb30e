//! What agents say of their own use in their keepalives, summed over all of them. In the leader's
//! memory only: it begins anew with each term, and then has what each agent counted since its start.

use std::collections::HashMap;

use piccolo_raft::model::Holder;

/// Counters of one agent since its start, or their sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that its mirror has had from peers.
    pub bytes_from_peers: u64,
    /// Bytes that it has served to peers.
    pub bytes_served: u64,
    /// Requests that no peer could answer.
    pub misses: u64,
}

/// The sums, and of each holder what it said last.
#[derive(Debug, Default)]
pub struct Fleet {
    said: HashMap<Holder, Usage>,
    sums: Usage,
}

impl Fleet {
    /// A known holder says this.
    pub fn hear(&mut self, holder: &Holder, says: Usage) {
        let said = match self.said.get_mut(holder) {
            Some(said) => std::mem::replace(said, says),
            None => {
                self.said.insert(holder.clone(), says);
                Usage::default()
            }
        };
        let grow = |sum: &mut u64, said: u64, says: u64| {
            // A counter that went back began anew.
            *sum = sum.saturating_add(says.checked_sub(said).unwrap_or(says));
        };
        grow(&mut self.sums.bytes_from_peers, said.bytes_from_peers, says.bytes_from_peers);
        grow(&mut self.sums.bytes_served, said.bytes_served, says.bytes_served);
        grow(&mut self.sums.misses, said.misses, says.misses);
    }

    /// Holders that are no more; what they did stays in the sums.
    pub fn retain(&mut self, is_known: impl Fn(&Holder) -> bool) {
        self.said.retain(|holder, _| is_known(holder));
    }

    /// A holder that is no more.
    pub fn remove(&mut self, holder: &Holder) {
        self.said.remove(holder);
    }

    /// Over all holders.
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
        for (n, says) in [(1, 5), (2, 3), (1, 7), (1, 7)] {
            fleet.hear(&holder(n), usage(says));
        }
        assert_eq!(fleet.sums(), usage(10));
        fleet.hear(&holder(1), usage(2));
        assert_eq!(fleet.sums(), usage(12), "started again");
        fleet.remove(&holder(2));
        assert_eq!(fleet.sums(), usage(12), "what it did stays");
        fleet.hear(&holder(2), usage(1));
        assert_eq!(fleet.sums(), usage(13));
        fleet.hear(&holder(2), Usage { misses: u64::MAX, ..usage(1) });
        assert_eq!(fleet.sums().misses, u64::MAX, "and never begin anew");
        fleet.retain(|known| *known == holder(1));
        assert_eq!(fleet.said.len(), 1);
    }
}
