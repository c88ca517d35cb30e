//! Keys by id and ids by key. A key is stored once; the map back holds ids only.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::slots::Slots;
use crate::command::Key;

/// A key and how many inventories have it.
#[derive(Debug)]
struct KeySlot {
    key: Key,
    uses: u32,
}

/// All keys that any holder has.
#[derive(Debug, Default)]
pub(super) struct KeyTable {
    slots: Slots<KeySlot>,
    ids: HashTable<u32>,
    /// Random per process, so that nobody can choose keys that collide; decides nothing.
    hasher: RandomState,
}

impl KeyTable {
    /// The id of `key`, if anybody has it.
    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.ids.find(hash, |&id| self.slots.get(id).is_some_and(|slot| slot.key == *key)).copied()
    }

    /// The key of `id`.
    pub(super) fn get(&self, id: u32) -> Option<&Key> {
        self.slots.get(id).map(|slot| &slot.key)
    }

    /// One more inventory has `key`: its id, allocated at the first use.
    pub(super) fn acquire(&mut self, key: &Key) -> u32 {
        if let Some(id) = self.find(key) {
            self.use_again(id);
            return id;
        }
        let id = self.slots.insert(KeySlot { key: key.clone(), uses: 1 });
        self.link(id);
        id
    }

    /// One inventory less has the key of `id`; true if it was the last and the id is free now.
    pub(super) fn release(&mut self, id: u32) -> bool {
        let slot = self.slots.get_mut(id).expect("an inventory holds ids in use only");
        slot.uses -= 1;
        if slot.uses > 0 {
            return false;
        }
        let hash = self.hasher.hash_one(&slot.key);
        if let Ok(entry) = self.ids.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        self.slots.remove(id);
        true
    }

    /// A stored key comes back under its id, in no inventory yet; false if id or key is taken.
    pub(super) fn restore(&mut self, id: u32, key: Key) -> bool {
        if self.find(&key).is_some() || !self.slots.restore(id, KeySlot { key, uses: 0 }) {
            return false;
        }
        self.link(id);
        true
    }

    /// One more inventory has the key of `id`, which is in the table.
    pub(super) fn use_again(&mut self, id: u32) {
        self.slots.get_mut(id).expect("the caller looked the id up").uses += 1;
    }

    /// A key that no inventory has.
    pub(super) fn unused(&self) -> Option<u32> {
        self.slots.iter().find(|(_, slot)| slot.uses == 0).map(|(id, _)| id)
    }

    /// All keys with their ids, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Key)> {
        self.slots.iter().map(|(id, slot)| (id, &slot.key))
    }

    /// Number of distinct keys.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn link(&mut self, id: u32) {
        let (slots, hasher) = (&self.slots, &self.hasher);
        let hash_of = |id: &u32| hasher.hash_one(&slots.get(*id).expect("linked ids are in use").key);
        self.ids.insert_unique(hash_of(&id), id, hash_of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_freed_with_the_last_use() {
        let mut keys = KeyTable::default();
        let [a, b]: [Key; 2] = ["r/a:1".parse().unwrap(), "r/b:1".parse().unwrap()];
        assert_eq!([keys.acquire(&a), keys.acquire(&a), keys.acquire(&b)], [0, 0, 1]);
        assert!(!keys.release(0));
        assert_eq!(keys.find(&a), Some(0));
        assert!(keys.release(0));
        assert_eq!(keys.find(&a), None);
        assert_eq!(keys.find(&b), Some(1));
        assert_eq!(keys.acquire(&a), 0);
    }
}
