//! The posting lists of one key, by group. Nearly every key is held in one group only, so that one
//! list stands beside the key itself: finding the key has brought it into the cache.

use std::collections::BTreeMap;

use super::order::Labels;
use super::postings::PostingList;

/// By group id; visible hosts only, no empty lists.
#[derive(Debug)]
pub(super) enum Lists {
    /// The holders of one group; an empty list stands for no holder at all.
    One { group: u32, list: PostingList },
    /// The holders of several groups.
    #[expect(clippy::box_collection, reason = "it is rare, and unboxed it would widen every key's slot")]
    Many(Box<BTreeMap<u32, PostingList>>),
}

impl Default for Lists {
    fn default() -> Self {
        Self::One { group: 0, list: PostingList::default() }
    }
}

impl Lists {
    /// The list of `group`, not empty.
    pub(super) fn get(&self, wanted: u32) -> Option<&PostingList> {
        match self {
            Self::One { group, list } => Some(list).filter(|list| *group == wanted && list.len() > 0),
            Self::Many(lists) => lists.get(&wanted),
        }
    }

    /// Host `id` of group `wanted` is in the list from now on; it is not yet.
    pub(super) fn insert(&mut self, labels: &Labels, wanted: u32, id: u32) {
        self.of(wanted).insert(labels, id);
    }

    /// Host `id` of group `wanted` is out of the list, if it was in it.
    pub(super) fn remove(&mut self, labels: &Labels, wanted: u32, id: u32) {
        match self {
            Self::One { group, list } if *group == wanted => drop(list.remove(labels, id)),
            Self::One { .. } => {}
            Self::Many(lists) => {
                let Some(list) = lists.get_mut(&wanted) else { return };
                list.remove(labels, id);
                if list.len() == 0 {
                    lists.remove(&wanted);
                }
                if lists.len() <= 1 {
                    let last = lists.pop_first();
                    *self = last.map_or_else(Self::default, |(group, list)| Self::One { group, list });
                }
            }
        }
    }

    /// The list of a group that has none yet, as it is built from disk.
    pub(super) fn restore(&mut self, group: u32, list: PostingList) {
        *self.of(group) = list;
    }

    fn of(&mut self, wanted: u32) -> &mut PostingList {
        if let Self::One { group, list } = self
            && *group != wanted
        {
            let (group, list) = (*group, std::mem::take(list));
            *self = if list.len() == 0 {
                Self::One { group: wanted, list }
            } else {
                Self::Many(Box::new(BTreeMap::from([(group, list)])))
            };
        }
        match self {
            Self::One { list, .. } => list,
            Self::Many(lists) => lists.entry(wanted).or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::Order;
    use super::*;

    #[test]
    fn a_list_for_each_group_and_none_that_is_empty() {
        let (mut order, mut labels) = (Order::default(), Labels::default());
        for id in 0..4 {
            labels.settle(id, ([10, 0, 0, 1], id as u16).into());
            order.insert(&mut labels, "", (u128::from(id), 0), id);
        }
        let mut lists = Lists::default();
        let lengths = |lists: &Lists| [0, 7, 9].map(|group| lists.get(group).map(PostingList::len));
        lists.insert(&labels, 7, 1);
        assert_eq!(lengths(&lists), [None, Some(1), None]);
        lists.insert(&labels, 9, 2);
        lists.insert(&labels, 9, 3);
        assert_eq!(lengths(&lists), [None, Some(1), Some(2)]);
        lists.remove(&labels, 9, 0);
        lists.remove(&labels, 0, 0);
        lists.remove(&labels, 7, 1);
        assert_eq!(lengths(&lists), [None, None, Some(2)]);
        assert!(matches!(lists, Lists::One { .. }));
        lists.remove(&labels, 9, 2);
        lists.remove(&labels, 9, 3);
        lists.insert(&labels, 0, 1);
        assert_eq!(lengths(&lists), [Some(1), None, None]);
    }
}
