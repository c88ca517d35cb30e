//! Which hosts changed since a log index: how a leader's leases follow the index without a channel
//! that could fill up or lose something.

use std::collections::{BTreeSet, VecDeque};

use super::host::HostRecord;
use crate::command::Holder;

/// Forgotten hosts remembered; who asks for older ones is given all hosts.
const GONE_MAX: usize = 4_096;

/// Hosts by the log index of their last change.
#[derive(Debug, Default)]
pub(super) struct Changes {
    by_index: BTreeSet<(u64, u32)>,
    gone: VecDeque<(u64, Holder)>,
    /// What was forgotten up to here is not remembered.
    floor: u64,
}

/// Answer of [`super::Index::hosts_changed_since`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostChanges {
    /// The applied log index that the answer shows; ask the next time from here.
    pub index: u64,
    /// True: `changed` lists every host there is, and hosts not in it are gone. It happens when the
    /// caller is far behind, or after a snapshot was installed.
    pub all: bool,
    /// Hosts that were created, written, hidden, shown or reconfigured.
    pub changed: Vec<HostRecord>,
    /// Hosts that were forgotten; one that came back since is in `changed` only.
    pub gone: Vec<Holder>,
}

impl Changes {
    /// Nothing is known of the time up to `floor`.
    pub(super) fn starting_at(floor: u64) -> Self {
        Self { floor, ..Self::default() }
    }

    /// Host `id` changed at log index `now`, before that at `before`.
    pub(super) fn touch(&mut self, id: u32, before: u64, now: u64) {
        self.by_index.remove(&(before, id));
        self.by_index.insert((now, id));
    }

    /// Host `id`, last changed at `before`, was forgotten at `now`.
    pub(super) fn forget(&mut self, id: u32, before: u64, now: u64, holder: Holder) {
        self.by_index.remove(&(before, id));
        self.gone.push_back((now, holder));
        if self.gone.len() > GONE_MAX
            && let Some((lost, _)) = self.gone.pop_front()
        {
            self.floor = self.floor.max(lost);
        }
    }

    /// Ids and forgotten holders with a change after `index`; `None` if that is not known any more.
    pub(super) fn since(
        &self,
        index: u64,
    ) -> Option<(impl Iterator<Item = u32>, impl Iterator<Item = &Holder>)> {
        if index < self.floor {
            return None;
        }
        let first = (index.saturating_add(1), 0);
        let ids = self.by_index.range(first..).map(|&(_, id)| id);
        let gone = self.gone.iter().filter(move |(at, _)| *at > index).map(|(_, holder)| holder);
        Some((ids, gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(port: u16) -> Holder {
        Holder { group: "g".into(), address: ([10, 0, 0, 1], port).into() }
    }

    #[test]
    fn only_the_last_change_of_a_host_counts() {
        let mut changes = Changes::default();
        changes.touch(7, 0, 3);
        changes.touch(8, 0, 4);
        changes.touch(7, 3, 5);
        let ids = |since| changes.since(since).unwrap().0.collect::<Vec<_>>();
        assert_eq!(ids(0), [8, 7]);
        assert_eq!(ids(4), [7]);
        assert_eq!(ids(5), [] as [u32; 0]);
    }

    #[test]
    fn who_is_further_behind_than_what_is_remembered_must_take_all() {
        let mut changes = Changes::starting_at(10);
        assert!(changes.since(9).is_none());
        assert!(changes.since(10).is_some());
        for index in 0..=GONE_MAX as u64 {
            changes.forget(0, 0, 11 + index, holder(index as u16));
        }
        assert!(changes.since(10).is_none(), "the one forgotten at 11 is lost");
        assert_eq!(changes.since(11).unwrap().1.count(), GONE_MAX);
    }
}
