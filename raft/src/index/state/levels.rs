//! The level of the cluster, in the state of each replica.

use super::IndexState;
use crate::format::Levels;
use crate::index::hash;

impl IndexState {
    /// Changes the levels. At another version of the checksum all of it is summed up anew.
    pub(in crate::index) fn set_levels(&mut self, levels: Levels) {
        if self.levels == levels {
            return;
        }
        self.unflushed.changes.levels = true;
        self.checksum = self.checksum.wrapping_sub(self.checksum_of_levels());
        let before = self.levels.active.versions().hash;
        self.levels = levels;
        if levels.active.versions().hash != before {
            self.sum_up_anew();
        }
        self.checksum = self.checksum.wrapping_add(self.checksum_of_levels());
    }

    /// What the levels add to the checksum; nothing, before the first of their commands.
    pub(super) fn checksum_of_levels(&self) -> u128 {
        let sum = match self.levels {
            levels if levels == Levels::default() => 0,
            levels => hash::levels(levels),
        };
        #[cfg(any(test, feature = "next-format"))]
        let sum =
            sum.wrapping_add(if self.noted == 0 { 0 } else { hash::noted(self.levels.active, self.noted) });
        sum
    }

    /// Without what the levels add.
    fn sum_up_anew(&mut self) {
        let level = self.levels.active;
        self.checksum = 0;
        for slot in self.hosts.values_mut() {
            slot.hash = hash::host(level, &slot.record);
            self.checksum = self.checksum.wrapping_add(slot.hash);
        }
        for &node_id in &self.tombstones {
            self.checksum = self.checksum.wrapping_add(hash::tombstone(level, node_id));
        }
    }

    #[cfg(any(test, feature = "next-format"))]
    pub(in crate::index) fn note(&mut self) {
        self.unflushed.changes.noted = true;
        self.checksum = self.checksum.wrapping_sub(self.checksum_of_levels());
        self.noted += 1;
        self.checksum = self.checksum.wrapping_add(self.checksum_of_levels());
    }
}
