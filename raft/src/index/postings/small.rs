//! A short posting list: one slice, exactly as long as it is full, because a million of these have no
//! room to spare.

use super::super::order::Labels;

/// In front of ids of four bytes. No list of two-byte ids begins so: ids are distinct.
const WIDE: [u16; 2] = [0, 0];

/// Host ids, distinct, by ascending label. Each takes one word as long as all of them fit into one, and
/// two words (the lower half first) behind [`WIDE`] otherwise. One slice for both, because the lists of a
/// site with few hosts should not pay for a tag that tells them apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Small(Box<[u16]>);

fn halves(id: u32) -> [u16; 2] {
    [id as u16, (id >> 16) as u16]
}

fn is_narrow(id: u32) -> bool {
    u16::try_from(id).is_ok()
}

impl Small {
    /// The slice of ids that are distinct and in order.
    pub(super) fn from_sorted(ids: impl Iterator<Item = u32> + Clone) -> Self {
        if ids.clone().all(is_narrow) {
            return Self(ids.map(|id| id as u16).collect());
        }
        let mut words = Vec::with_capacity(WIDE.len() + 2 * ids.clone().count());
        words.extend(WIDE);
        words.extend(ids.flat_map(halves));
        Self(words.into_boxed_slice())
    }

    fn is_wide(&self) -> bool {
        self.0.starts_with(&WIDE)
    }

    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        if self.is_wide() { (self.0.len() - WIDE.len()) / 2 } else { self.0.len() }
    }

    /// The id at a position below `len`.
    pub(super) fn get(&self, position: usize) -> u32 {
        if !self.is_wide() {
            return self.0[position].into();
        }
        let at = WIDE.len() + 2 * position;
        u32::from(self.0[at]) | u32::from(self.0[at + 1]) << 16
    }

    /// All ids in order.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> + Clone {
        (0..self.len()).map(|position| self.get(position))
    }

    /// How many ids have a label below `label`.
    pub(super) fn count_below(&self, labels: &Labels, label: u64) -> usize {
        let (mut below, mut end) = (0, self.len());
        while below < end {
            let middle = usize::midpoint(below, end);
            if labels.of(self.get(middle)) < label {
                below = middle + 1;
            } else {
                end = middle;
            }
        }
        below
    }

    /// Adds `id`, which has a label and is not there.
    pub(super) fn insert(&mut self, labels: &Labels, id: u32) {
        if !is_narrow(id) && !self.is_wide() {
            let words = WIDE.into_iter().chain(self.ids().flat_map(halves));
            self.0 = words.collect();
        }
        let position = self.count_below(labels, labels.of(id));
        let is_wide = self.is_wide();
        let mut words = std::mem::take(&mut self.0).into_vec();
        if is_wide {
            let at = WIDE.len() + 2 * position;
            words.reserve_exact(2);
            words.splice(at..at, halves(id));
        } else {
            words.reserve_exact(1);
            words.insert(position, id as u16);
        }
        self.0 = words.into_boxed_slice();
    }

    /// Takes `id` away, found by its label; false if it is not there.
    pub(super) fn remove(&mut self, labels: &Labels, id: u32) -> bool {
        let position = self.count_below(labels, labels.of(id));
        if position == self.len() || self.get(position) != id {
            return false;
        }
        let is_wide = self.is_wide();
        let mut words = std::mem::take(&mut self.0).into_vec();
        if is_wide {
            let at = WIDE.len() + 2 * position;
            words.drain(at..at + 2);
        } else {
            words.remove(position);
        }
        self.0 = words.into_boxed_slice();
        // The last wide one may be gone.
        if !is_narrow(id) && self.ids().all(is_narrow) {
            *self = Self::from_sorted(self.ids());
        }
        true
    }
}

#[cfg(test)]
mod checks;
