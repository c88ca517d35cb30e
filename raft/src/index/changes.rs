//! Which hosts changed since a log index: how a leader's leases follow the index without a channel
//! that could fill up or lose something.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;

use super::host::HostRecord;
use crate::limits::GONE_HOSTS_MAX;
use crate::model::Holder;

/// The log index of a host's last change, and its id.
pub(super) type Change = (u64, u32);

/// Hosts by the log index of their last change.
#[derive(Debug, Default)]
pub(super) struct Changes {
    by_index: BTreeSet<Change>,
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
        if self.gone.len() > GONE_HOSTS_MAX
            && let Some((lost, _)) = self.gone.pop_front()
        {
            self.floor = self.floor.max(lost);
        }
    }

    /// Hosts whose last change is behind `after` and not behind log index `until`; `None` if not all of that
    /// is known any more.
    pub(super) fn after(&self, after: Change, until: u64) -> Option<impl Iterator<Item = Change>> {
        let behind = (Bound::Excluded(after), Bound::Included((until.max(after.0), u32::MAX)));
        (after.0 >= self.floor).then(|| self.by_index.range(behind).copied())
    }

    /// Holders that were forgotten after log index `index`; `None` if that is not known any more.
    pub(super) fn gone_since(&self, index: u64) -> Option<impl Iterator<Item = &Holder>> {
        let gone = self.gone.iter().filter(move |(at, _)| *at > index).map(|(_, holder)| holder);
        (index >= self.floor).then_some(gone)
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
        let all = |since| changes.after((since, u32::MAX), 9).unwrap().collect::<Vec<_>>();
        assert_eq!(all(0), [(4, 8), (5, 7)]);
        assert_eq!(all(4), [(5, 7)]);
        assert_eq!(all(5), []);
        assert_eq!(changes.after((0, u32::MAX), 4).unwrap().collect::<Vec<_>>(), [(4, 8)]);
        assert_eq!(changes.after((4, 7), 9).unwrap().collect::<Vec<_>>(), [(4, 8), (5, 7)]);
    }

    #[test]
    fn who_is_further_behind_than_what_is_remembered_must_take_all() {
        let mut changes = Changes::starting_at(10);
        let known = |changes: &Changes, since| {
            let gone = changes.gone_since(since).map(Iterator::count);
            assert_eq!(gone.is_some(), changes.after((since, u32::MAX), since).is_some());
            gone
        };
        assert_eq!((known(&changes, 9), known(&changes, 10)), (None, Some(0)));
        for index in 0..=GONE_HOSTS_MAX as u64 {
            changes.forget(0, 0, 11 + index, holder(index as u16));
        }
        assert_eq!(known(&changes, 10), None, "the one forgotten at 11 is lost");
        assert_eq!(known(&changes, 11), Some(GONE_HOSTS_MAX));
    }
}
