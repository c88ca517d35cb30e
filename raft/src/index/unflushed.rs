//! What is applied in memory and not on the disk yet. The log has it all; here stands which rows the next flush
//! must write. Hosts and keys are named only, because their rows are in memory. Inventories are on the disk
//! alone, so their changes are kept: readers put them on top of what is stored.

use std::collections::{BTreeMap, BTreeSet};

/// How one inventory differs from the stored one: key ids, ascending, and whether they are held. To apply it
/// twice is to apply it once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta(Vec<(u32, bool)>);

/// Rows that are to be written.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(super) hosts: BTreeSet<u32>,
    pub(super) keys: BTreeSet<u32>,
    pub(super) inventories: BTreeMap<u32, Delta>,
    pub(super) tombstones: bool,
    pub(super) membership: bool,
    pub(super) levels: bool,
    #[cfg(any(test, feature = "next-format"))]
    pub(super) noted: bool,
    /// Keys that were added to inventories or taken out.
    pub(super) moved: usize,
}

/// The changes since the last flush, and those that are being flushed.
#[derive(Debug, Default)]
pub(crate) struct Unflushed {
    pub(super) changes: Changes,
    flushing: Option<BTreeMap<u32, Delta>>,
}

impl Delta {
    /// These ids, ascending and distinct, are held from now on, or no longer.
    fn put(&mut self, ids: &[u32], held: bool) {
        if let [id] = ids {
            match self.0.binary_search_by_key(id, |(id, _)| *id) {
                Ok(at) => self.0[at].1 = held,
                Err(at) => self.0.insert(at, (*id, held)),
            }
            return;
        }
        let newer = Self(ids.iter().map(|id| (*id, held)).collect());
        self.put_all(&newer);
    }

    /// The changes of `newer` come after those that are here.
    fn put_all(&mut self, newer: &Delta) {
        let mut merged = Vec::with_capacity(self.0.len() + newer.0.len());
        let mut old = self.0.iter().copied().peekable();
        for &(id, held) in &newer.0 {
            while let Some(before) = old.next_if(|(old, _)| *old < id) {
                merged.push(before);
            }
            old.next_if(|(old, _)| *old == id);
            merged.push((id, held));
        }
        merged.extend(old);
        self.0 = merged;
    }

    /// `stored` (ascending) with these changes.
    pub(super) fn on(&self, stored: Vec<u32>) -> Vec<u32> {
        if self.0.is_empty() {
            return stored;
        }
        let mut ids = Vec::with_capacity(stored.len() + self.0.len());
        let mut stored = stored.into_iter().peekable();
        for &(id, held) in &self.0 {
            while let Some(before) = stored.next_if(|stored| *stored < id) {
                ids.push(before);
            }
            stored.next_if(|stored| *stored == id);
            if held {
                ids.push(id);
            }
        }
        ids.extend(stored);
        ids
    }
}

impl Unflushed {
    /// The inventory of `host` has these keys from now on, or no longer; ascending and distinct. Also without
    /// keys the row is to be written.
    pub(super) fn put(&mut self, host: u32, keys: &[u32], held: bool) {
        self.changes.inventories.entry(host).or_default().put(keys, held);
        self.changes.moved += keys.len();
    }

    /// What readers put on top of the stored inventory of `host`.
    pub(super) fn delta_of(&self, host: u32) -> Delta {
        let flushing = self.flushing.as_ref().and_then(|flushing| flushing.get(&host));
        let mut delta = flushing.cloned().unwrap_or_default();
        if let Some(newer) = self.changes.inventories.get(&host) {
            delta.put_all(newer);
        }
        delta
    }

    /// Keys that were moved since the last flush began.
    pub(super) fn moved(&self) -> usize {
        self.changes.moved
    }

    /// What a flush has to write; readers see it until [`Unflushed::flushed`]. Nobody flushes after a flush that
    /// failed.
    pub(super) fn begin_flush(&mut self) -> Changes {
        let changes = std::mem::take(&mut self.changes);
        self.flushing = Some(changes.inventories.clone());
        changes
    }

    /// The changes of [`Unflushed::begin_flush`] are stored.
    pub(super) fn flushed(&mut self) {
        self.flushing = None;
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn readers_see_the_same_before_a_flush_while_it_runs_and_after_it() {
        let mut random = StdRng::seed_from_u64(7);
        let (mut unflushed, mut stored, mut model) = (Unflushed::default(), Vec::new(), BTreeSet::new());
        for round in 0..2_000 {
            let mut ids: Vec<u32> =
                (0..random.random_range(0..4)).map(|_| random.random_range(0..40)).collect();
            ids.sort_unstable();
            ids.dedup();
            let held = random.random();
            unflushed.put(1, &ids, held);
            for id in ids {
                if held {
                    model.insert(id)
                } else {
                    model.remove(&id)
                };
            }
            let shown = |unflushed: &Unflushed, stored: &[u32]| unflushed.delta_of(1).on(stored.to_vec());
            let expected: Vec<u32> = model.iter().copied().collect();
            assert_eq!(shown(&unflushed, &stored), expected, "round {round}");
            if round % 5 == 0 {
                let changes = unflushed.begin_flush();
                assert_eq!(shown(&unflushed, &stored), expected, "while the flush runs");
                let written = changes.inventories[&1].on(stored.clone());
                assert_eq!(shown(&unflushed, &written), expected, "the row is written, and nobody knows yet");
                unflushed.put(1, &[99], true);
                unflushed.put(1, &[99], false);
                unflushed.flushed();
                stored = written;
                assert_eq!(shown(&unflushed, &stored), expected, "after the flush");
            }
        }
    }

    #[test]
    fn what_is_moved_counts_until_it_is_flushed() {
        let mut unflushed = Unflushed::default();
        unflushed.put(1, &[7, 9], true);
        assert_eq!(unflushed.moved(), 2);
        unflushed.begin_flush();
        assert_eq!((unflushed.moved(), unflushed.delta_of(1).on(vec![8])), (0, vec![7, 8, 9]));
    }
}
