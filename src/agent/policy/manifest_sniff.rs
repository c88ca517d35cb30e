//! Recognises manifests and indexes by their bytes. Path and headers prove nothing: `/blobs/` serves
//! manifests too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::limits::{CONTENT_BEGINNING_BYTES, MANIFEST_BYTES_MAX};
use crate::oci::media_type;

/// Whether a file with verified content of this length may be a manifest or index. Its position does not
/// move.
pub(crate) async fn file_may_be_manifest(file: Arc<File>, size_bytes: u64) -> io::Result<bool> {
    // Registries accept no larger manifest, and no peer serves one.
    if size_bytes > MANIFEST_BYTES_MAX {
        return Ok(false);
    }
    let read = move |length: u64| {
        let mut bytes = vec![0; usize::try_from(length).expect("a manifest's size fits")];
        file.read_exact_at(&mut bytes, 0).map(|()| bytes)
    };
    let look = move || {
        let beginning = read(size_bytes.min(CONTENT_BEGINNING_BYTES))?;
        Ok(media_type::may_begin_manifest(&beginning) && media_type::may_be_manifest(&read(size_bytes)?))
    };
    tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
}
