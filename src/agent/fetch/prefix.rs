//! What has been hashed of large blobs whose stream broke off. containerd resumes exactly where it
//! did; the hash goes on there, so that a bad prefix is found out before a good rest completes it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::limits::{PREFIX_TTL, PREFIXES_REMEMBERED_MAX};
use crate::oci::{Digest, Hasher};

/// The first bytes of a blob, as they were passed on.
#[derive(Debug)]
pub(super) struct Prefix {
    pub(super) hasher: Hasher,
    pub(super) length: u64,
    /// Who sent them.
    pub(super) holders: Vec<SocketAddr>,
}

/// The last one of each digest, for [`PREFIX_TTL`].
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    kept: Mutex<HashMap<Digest, (Instant, Prefix)>>,
}

impl Prefixes {
    /// Remembers `prefix`. If the memory is full, the oldest entry goes.
    pub(super) fn keep(&self, digest: Digest, prefix: Prefix) {
        // A map is whole after any panic.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= PREFIXES_REMEMBERED_MAX && !kept.contains_key(&digest) {
            let oldest = kept.iter().min_by_key(|(_, (since, _))| *since).map(|(digest, _)| digest.clone());
            oldest.map(|oldest| kept.remove(&oldest));
        }
        kept.insert(digest, (Instant::now(), prefix));
    }

    /// The prefix of exactly this length, which is forgotten.
    pub(super) fn take(&self, digest: &Digest, length: u64) -> Option<Prefix> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, prefix) = kept.get(digest)?;
        if since.elapsed() >= PREFIX_TTL || prefix.length != length {
            return None;
        }
        kept.remove(digest).map(|(_, prefix)| prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn prefix(length: u64) -> Prefix {
        Prefix { hasher: Hasher::new(Algorithm::Sha256), length, holders: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_prefix_is_given_once_at_its_length_and_within_its_time() {
        let (prefixes, digest) = (Prefixes::default(), Digest::of(b"x"));
        prefixes.keep(digest.clone(), prefix(10));
        assert!(prefixes.take(&digest, 9).is_none());
        assert!(prefixes.take(&digest, 10).is_some() && prefixes.take(&digest, 10).is_none());
        prefixes.keep(digest.clone(), prefix(10));
        tokio::time::advance(PREFIX_TTL).await;
        assert!(prefixes.take(&digest, 10).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_of_prefixes_is_bounded() {
        let prefixes = Prefixes::default();
        for number in 0..PREFIXES_REMEMBERED_MAX + 1 {
            prefixes.keep(Digest::of(&number.to_le_bytes()), prefix(1));
            tokio::time::advance(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(prefixes.kept.lock().unwrap().len(), PREFIXES_REMEMBERED_MAX);
        assert!(prefixes.take(&Digest::of(&0_usize.to_le_bytes()), 1).is_none(), "the oldest goes");
    }
}
