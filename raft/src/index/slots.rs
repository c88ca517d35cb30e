//! Values under small ids, the lowest free id first: ids are part of the replicated state, so every
//! replica must choose the same one.

use std::collections::BTreeSet;

/// A table of values by `u32` id.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Option<T>>,
    /// Every id below `slots.len()` without a value.
    free: BTreeSet<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: BTreeSet::new() }
    }
}

impl<T> Slots<T> {
    /// Puts `value` under the lowest free id.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(id) = self.free.pop_first() {
            self.slots[id as usize] = Some(value);
            return id;
        }
        let id = u32::try_from(self.slots.len()).expect("a u32 counts all values that fit in memory");
        self.slots.push(Some(value));
        id
    }

    /// Puts `value` under `id`, as stored; false if the id is taken.
    pub(super) fn restore(&mut self, id: u32, value: T) -> bool {
        let position = id as usize;
        while self.slots.len() <= position {
            self.free.insert(self.slots.len() as u32);
            self.slots.push(None);
        }
        self.slots[position] = Some(value);
        self.free.remove(&id)
    }

    /// Frees `id`.
    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.slots.get_mut(id as usize)?.take();
        if value.is_some() {
            self.free.insert(id);
        }
        value
    }

    /// The value under `id`.
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.slots.get(id as usize)?.as_ref()
    }

    /// What is under `id`, to change it.
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    /// All values, to change them.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }

    /// All ids in use with their values, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(id, slot)| Some((id as u32, slot.as_ref()?)))
    }

    /// One more than the highest id that was ever in use.
    pub(super) fn end(&self) -> usize {
        self.slots.len()
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_id_is_given_first() {
        let mut slots = Slots::default();
        assert_eq!([slots.insert('a'), slots.insert('b'), slots.insert('c')], [0, 1, 2]);
        slots.remove(1);
        slots.remove(0);
        assert_eq!([slots.insert('d'), slots.insert('e'), slots.insert('f')], [0, 1, 3]);
        assert_eq!(slots.len(), 4);
    }

    #[test]
    fn restored_ids_leave_the_gaps_free() {
        let mut slots = Slots::default();
        assert!(slots.restore(2, 'c'));
        assert!(!slots.restore(2, 'x'), "taken");
        assert!(slots.restore(0, 'a'));
        assert_eq!(slots.len(), 2);
        assert_eq!(slots.insert('b'), 1);
        assert_eq!(slots.insert('d'), 3);
    }
}
