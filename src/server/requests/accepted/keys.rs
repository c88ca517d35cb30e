//! The keys of a write, received one by one while its body is read.

use piccolo_raft::model::Key;

use crate::limits::{INDEX_KEYS_OF_A_HOLDER_MAX, REQUEST_KEYS_MAX};
use crate::server::error::FormatError;
use crate::server::requests::json::Texts;

/// The valid keys of one request. Has at most twice as many in memory as it keeps in the end.
#[derive(Debug)]
pub(super) struct KeyList {
    keys: Vec<Key>,
    /// Most distinct keys that are kept.
    kept_max: usize,
    /// Number of entries of the list.
    offered: u64,
    /// Number of entries that are keys.
    valid: u64,
    /// Position of the first entry that is not a key, and why it is not.
    bad: Option<(usize, String)>,
    named: bool,
    /// Whether there are too many keys, and no further one is kept.
    too_many: bool,
    #[cfg(test)]
    tidied: u32,
}

impl Default for KeyList {
    fn default() -> Self {
        // One more than any holder may have, so that the excess shows.
        Self::keeping(INDEX_KEYS_OF_A_HOLDER_MAX as usize + 1)
    }
}

impl Texts for KeyList {
    fn take(&mut self, position: usize, text: &str) {
        self.offered += 1;
        self.named |= !text.is_empty();
        match text.parse::<Key>() {
            Ok(key) => {
                self.valid += 1;
                self.keep(key);
            }
            Err(error) if self.bad.is_none() => self.bad = Some((position, error.to_string())),
            Err(_) => {}
        }
    }
}

impl KeyList {
    fn keeping(kept_max: usize) -> Self {
        Self {
            keys: Vec::new(),
            kept_max,
            offered: 0,
            valid: 0,
            bad: None,
            named: false,
            too_many: false,
            #[cfg(test)]
            tidied: 0,
        }
    }

    fn keep(&mut self, key: Key) {
        if self.too_many {
            return;
        }
        if self.keys.len() == 2 * self.kept_max {
            self.tidy();
            self.too_many = self.keys.len() >= self.kept_max;
        }
        if !self.too_many {
            self.keys.push(key);
        }
    }

    /// Sorts the keys and removes duplicates.
    fn tidy(&mut self) {
        #[cfg(test)]
        {
            self.tidied += 1;
        }
        // A stable sort, because it is fast on keys that are mostly sorted already.
        self.keys.sort();
        self.keys.dedup();
    }

    /// Whether the list was empty, or had only empty strings.
    pub(super) fn named_nothing(&self) -> bool {
        !self.named
    }

    /// Number of entries that are not keys.
    pub(super) fn skipped(&self) -> u64 {
        self.offered - self.valid
    }

    /// The keys of a native client, which is told which entry is not a key.
    pub(super) fn all_valid(self) -> Result<Vec<Key>, FormatError> {
        if self.offered > REQUEST_KEYS_MAX as u64 {
            let reason = format!("has {} entries, the limit is {REQUEST_KEYS_MAX}", self.offered);
            return Err(FormatError::value("keys", reason));
        }
        match self.bad {
            Some((position, reason)) => Err(FormatError::value(format!("keys[{position}]"), reason)),
            None => Ok(self.sorted()),
        }
    }

    /// The keys of another client: entries that are not keys are skipped, unless all are.
    pub(super) fn some_valid(self) -> Result<Vec<Key>, FormatError> {
        if self.valid == 0 && self.named {
            return Err(FormatError::value("keys", format!("has no valid key among {}", self.offered)));
        }
        Ok(self.sorted())
    }

    fn sorted(mut self) -> Vec<Key> {
        self.tidy();
        self.keys.truncate(self.kept_max);
        // The write may wait for long: no more than it needs.
        self.keys.shrink_to_fit();
        self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: usize = 1_000;

    fn list(texts: impl Iterator<Item = String>) -> KeyList {
        let mut list = KeyList::keeping(KEPT);
        texts.enumerate().for_each(|(position, text)| list.take(position, &text));
        assert!(list.keys.capacity() <= 4 * KEPT, "{}", list.keys.capacity());
        list
    }

    #[test]
    fn of_more_keys_than_a_holder_may_have_one_too_many_is_kept() {
        assert_eq!(KeyList::default().kept_max as u64, INDEX_KEYS_OF_A_HOLDER_MAX + 1);
        for distinct in [KEPT - 1, KEPT, KEPT + 1, 2 * KEPT, 2 * KEPT + 1, 50 * KEPT] {
            let list = list((0..distinct).map(|n| format!("a:{n}")));
            assert_eq!((list.offered, list.skipped()), (distinct as u64, 0));
            // Sorting once for each further key kept a thread for hours.
            assert!(list.tidied <= 1, "{distinct}: sorted {} times", list.tidied);
            assert_eq!(list.some_valid().unwrap().len(), distinct.min(KEPT), "{distinct}");
        }
    }

    #[test]
    fn keys_that_are_named_again_and_again_take_no_room() {
        let distinct = KEPT - 1;
        let keys = list((0..50 * KEPT).map(|n| format!("a:{}", n % distinct))).some_valid().unwrap();
        assert_eq!(keys.len(), distinct);
        assert!(keys.is_sorted());
    }

    #[test]
    fn what_is_no_key_is_counted_and_not_kept() {
        let list = list((0..50 * KEPT).map(|_| String::new()));
        assert_eq!(list.keys.capacity(), 0);
        assert!(list.named_nothing());
        assert_eq!(list.skipped(), 50 * KEPT as u64);
        assert_eq!(list.some_valid().unwrap(), []);
    }
}
