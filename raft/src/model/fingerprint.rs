//! Fingerprint of an inventory: the sum modulo 2^128 of the first 16 bytes (big endian) of
//! SHA-256(key as text), over the deduplicated accepted keys. Order does not matter, and one key is
//! added or taken away at a time.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Key;

/// Sum over an inventory; zero for an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(pub u128);

/// The part of a fingerprint that one key contributes.
pub fn key_fingerprint(key: &Key) -> u128 {
    let digest = Sha256::digest(key.to_string().as_bytes());
    let (first, _) = digest.split_first_chunk::<16>().expect("SHA-256 has 32 bytes");
    u128::from_be_bytes(*first)
}

impl Fingerprint {
    /// Adds a key to the set.
    pub fn add(&mut self, key: &Key) {
        self.0 = self.0.wrapping_add(key_fingerprint(key));
    }

    /// Takes a key out of the set.
    pub fn remove(&mut self, key: &Key) {
        self.0 = self.0.wrapping_sub(key_fingerprint(key));
    }
}

impl<'a> FromIterator<&'a Key> for Fingerprint {
    /// The fingerprint of keys, each of which comes once.
    fn from_iter<I: IntoIterator<Item = &'a Key>>(keys: I) -> Self {
        let mut sum = Self::default();
        keys.into_iter().for_each(|key| sum.add(key));
        sum
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = ParseIntError;

    fn from_str(hex: &str) -> Result<Self, ParseIntError> {
        u128::from_str_radix(hex, 16).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_does_not_depend_on_the_order_and_can_be_undone() {
        let keys: Vec<Key> = ["a/b:1", "a/b:2", "a/b:3"].iter().map(|k| k.parse().unwrap()).collect();
        let forward: Fingerprint = keys.iter().collect();
        let backward: Fingerprint = keys.iter().rev().collect();
        assert_eq!(forward, backward);
        let mut less = forward;
        less.remove(&keys[1]);
        assert_eq!(less, [&keys[0], &keys[2]].into_iter().collect());
        assert_eq!(forward.to_string().parse::<Fingerprint>().unwrap(), forward);
    }
}
