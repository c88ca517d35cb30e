//! Keys by id and ids by key, each with who holds it. A key is stored once; the map back holds ids
//! only, in many small tables, because a table that grows hashes all its keys anew while lookups wait.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::lists::Lists;
use super::slots::Slots;
use crate::model::{Key, key_fingerprint};

/// Tables of the map back; a power of two.
const SHARDS: usize = 256;

/// A key, and what belongs to it.
#[derive(Debug)]
struct KeySlot {
    key: Key,
    /// [`key_fingerprint`] in halves, which need no alignment of 16: every write of a holder adds it
    /// up, and hashing would cost more than the rest of the write.
    fingerprint: [u64; 2],
    /// How many inventories have it.
    uses: u32,
    lists: Lists,
}

// A million of them are a third of a server's memory.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Option<KeySlot>>() <= 88);

impl KeySlot {
    fn new(key: Key, uses: u32) -> Self {
        let fingerprint = key_fingerprint(&key);
        let fingerprint = [(fingerprint >> 64) as u64, fingerprint as u64];
        Self { key, fingerprint, uses, lists: Lists::default() }
    }
}

/// All keys that any holder has.
#[derive(Debug)]
pub(super) struct KeyTable {
    slots: Slots<KeySlot>,
    shards: Box<[HashTable<u32>]>,
    /// Random per process, so that nobody can choose keys that collide; decides nothing.
    hasher: RandomState,
}

impl Default for KeyTable {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| HashTable::new()).collect();
        Self { slots: Slots::default(), shards, hasher: RandomState::new() }
    }
}

/// The shard of a hash; not by its top bits, which tell the keys of one table apart.
fn shard(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

impl KeyTable {
    /// The id of `key`, if anybody has it.
    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        self.find_hashed(key, self.hasher.hash_one(key))
    }

    fn find_hashed(&self, key: &Key, hash: u64) -> Option<u32> {
        let is_it = |&id: &u32| self.slots.get(id).is_some_and(|slot| slot.key == *key);
        self.shards[shard(hash)].find(hash, is_it).copied()
    }

    /// The key of `id`.
    pub(super) fn get(&self, id: u32) -> Option<&Key> {
        self.slots.get(id).map(|slot| &slot.key)
    }

    /// [`key_fingerprint`] of the key of `id`.
    pub(super) fn fingerprint(&self, id: u32) -> Option<u128> {
        let [high, low] = self.slots.get(id)?.fingerprint;
        Some(u128::from(high) << 64 | u128::from(low))
    }

    /// Who holds the key of `id`, which is in the table.
    pub(super) fn lists(&self, id: u32) -> &Lists {
        &self.slots.get(id).expect("the caller looked the id up").lists
    }

    /// The holders of the key of `id`, which is in the table, to change them.
    pub(super) fn lists_mut(&mut self, id: u32) -> &mut Lists {
        &mut self.slots.get_mut(id).expect("the caller looked the id up").lists
    }

    /// The id of `key`, allocated if nobody has it yet; true if it was. No inventory has it by that.
    pub(super) fn intern(&mut self, key: &Key) -> (u32, bool) {
        let hash = self.hasher.hash_one(key);
        if let Some(id) = self.find_hashed(key, hash) {
            return (id, false);
        }
        let id = self.slots.insert(KeySlot::new(key.clone(), 0));
        self.link(id, hash);
        (id, true)
    }

    /// One inventory less has the key of `id`; true if it was the last and the id is free now.
    pub(super) fn release(&mut self, id: u32) -> bool {
        let slot = self.slots.get_mut(id).expect("an inventory holds ids in use only");
        slot.uses -= 1;
        if slot.uses > 0 {
            return false;
        }
        let hash = self.hasher.hash_one(&slot.key);
        if let Ok(entry) = self.shards[shard(hash)].find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        self.slots.remove(id);
        true
    }

    /// A stored key comes back under its id, in no inventory yet; false if id or key is taken.
    pub(super) fn restore(&mut self, id: u32, key: Key) -> bool {
        let hash = self.hasher.hash_one(&key);
        if self.find_hashed(&key, hash).is_some() || !self.slots.restore(id, KeySlot::new(key, 0)) {
            return false;
        }
        self.link(id, hash);
        true
    }

    /// More inventories have the key of `id`, which is in the table.
    pub(super) fn use_again(&mut self, id: u32, times: u32) {
        self.slots.get_mut(id).expect("the caller looked the id up").uses += times;
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

    /// One more than the highest id.
    pub(super) fn ids_end(&self) -> usize {
        self.slots.end()
    }

    fn link(&mut self, id: u32, hash: u64) {
        let (slots, hasher) = (&self.slots, &self.hasher);
        let hash_of = |id: &u32| hasher.hash_one(&slots.get(*id).expect("linked ids are in use").key);
        self.shards[shard(hash)].insert_unique(hash, id, hash_of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_freed_with_the_last_use() {
        let mut keys = KeyTable::default();
        let [a, b]: [Key; 2] = ["r/a:1".parse().unwrap(), "r/b:1".parse().unwrap()];
        assert_eq!([keys.intern(&a), keys.intern(&a), keys.intern(&b)], [(0, true), (0, false), (1, true)]);
        keys.use_again(0, 2);
        keys.use_again(1, 1);
        assert!(!keys.release(0));
        assert_eq!(keys.find(&a), Some(0));
        assert_eq!(keys.fingerprint(0), Some(key_fingerprint(&a)));
        assert!(keys.release(0));
        assert_eq!((keys.find(&a), keys.fingerprint(0)), (None, None));
        assert_eq!(keys.find(&b), Some(1));
        assert_eq!(keys.intern(&a), (0, true));
    }
}
