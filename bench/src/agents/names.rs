//! Keys as text, with their share in a fingerprint. They are made once, so that the load does not spend CPU
//! time on hashing.

use anyhow::{Result, anyhow};
use piccolo_raft::model::{Key, key_fingerprint};

use crate::fleet::Fleet;

/// Bytes of `sha256:` and 64 hex digits.
const NAME_BYTES: usize = 71;

/// Names of the first keys of a fleet.
pub(crate) struct Names {
    text: Vec<u8>,
    fingerprints: Vec<u128>,
}

impl Names {
    pub(crate) fn of(fleet: Fleet, count: u32) -> Result<Self> {
        let mut text = Vec::with_capacity(count as usize * NAME_BYTES);
        let mut fingerprints = Vec::with_capacity(count as usize);
        for number in 0..count {
            let name = fleet.key(number);
            let key: Key = name.parse().map_err(|error| anyhow!("could not read {name}: {error}"))?;
            fingerprints.push(key_fingerprint(&key));
            text.extend_from_slice(name.as_bytes());
        }
        Ok(Self { text, fingerprints })
    }

    pub(crate) fn text(&self, key: u32) -> &[u8] {
        let start = key as usize * NAME_BYTES;
        &self.text[start..start + NAME_BYTES]
    }

    pub(crate) fn fingerprint(&self, key: u32) -> u128 {
        self.fingerprints[key as usize]
    }
}
