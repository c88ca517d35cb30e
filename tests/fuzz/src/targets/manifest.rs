//! Manifests and indexes of any origin.

use piccolo::oci::index::Index;
use piccolo::oci::{Children, media_type};

/// Shortest text of a digest, bytes.
const DIGEST_BYTES_MIN: usize = "sha256:".len() + 64;

pub(super) fn run(content: &[u8]) {
    let kind = media_type::of_manifest(content);
    if kind.is_some() {
        assert!(media_type::may_be_manifest(content), "what is a manifest may be one");
    }
    if media_type::may_be_manifest(content) {
        assert!(media_type::may_begin_manifest(content), "its beginning does not rule it out");
    }
    let children = Children::of(content);
    let count = children.manifests.len() + children.blobs.len();
    assert!(count * DIGEST_BYTES_MIN <= content.len(), "{count} children in {} bytes", content.len());
    if let Ok(index) = Index::parse(content) {
        assert!(index.manifests.len() * DIGEST_BYTES_MIN <= content.len());
    }
}
