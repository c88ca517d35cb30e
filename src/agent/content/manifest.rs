//! Whether bytes are a manifest, and the right ones.

use std::io;

use bytes::Bytes;

use crate::limits::MANIFEST_INLINE_BYTES_MAX;
use crate::oci::{Digest, Hasher, media_type};

/// What bytes are that should be a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// A manifest or index of this media type, with the right digest.
    Manifest(&'static str),
    /// The right bytes, and no manifest.
    Other,
    /// Their digest is another one.
    Damaged,
}

/// Looks at all of `bytes`; at many of them on another thread.
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
