//! Checks whether bytes are a manifest with the right digest.

use std::io;

use bytes::Bytes;

use crate::limits::MANIFEST_INLINE_BYTES_MAX;
use crate::oci::{Digest, Hasher, media_type};

/// The result of a check of bytes that should be a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// A manifest or index of this media type, with the right digest.
    Manifest(&'static str),
    /// Bytes with the right digest that are no manifest.
    Other,
    /// Bytes with another digest.
    Damaged,
}

/// Checks all of `bytes`, on another thread if there are many.
pub(crate) async fn check(bytes: &Bytes, digest: &Digest) -> io::Result<Checked> {
    if bytes.len() <= MANIFEST_INLINE_BYTES_MAX {
        return Ok(check_here(bytes, digest));
    }
    let (bytes, digest) = (bytes.clone(), digest.clone());
    tokio::task::spawn_blocking(move || check_here(&bytes, &digest)).await.map_err(io::Error::other)
}

fn check_here(bytes: &[u8], digest: &Digest) -> Checked {
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(bytes);
    if hasher.finish() != *digest {
        return Checked::Damaged;
    }
    media_type::of_manifest(bytes).map_or(Checked::Other, Checked::Manifest)
}
