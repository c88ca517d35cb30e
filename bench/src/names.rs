//! The fleet's keys as text, made once: no measurement should contain the hashing and formatting of a million
//! keys.

use crate::fleet::Fleet;

/// Bytes of `sha256:` and 64 hex digits.
const KEY_BYTES: usize = 71;

/// All keys of a fleet in one string.
pub(crate) struct KeyNames(String);

impl KeyNames {
    /// All keys of `fleet`.
    pub(crate) fn of(fleet: Fleet) -> Self {
        Self((0..fleet.distinct_keys).map(|key| fleet.key(key)).collect())
    }

    /// The key with this number.
    pub(crate) fn get(&self, key: u32) -> &str {
        let start = key as usize * KEY_BYTES;
        &self.0[start..start + KEY_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_found_at_its_place() {
        let fleet = Fleet::FULL.with_hosts(10);
        let names = KeyNames::of(fleet);
        for key in [0, 1, fleet.distinct_keys - 1] {
            assert_eq!(names.get(key), fleet.key(key));
        }
    }
}
