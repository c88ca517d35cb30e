//! Whether content is a manifest or index, by its bytes. A path or a header says nothing: `/blobs/`
//! gives a manifest too.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::agent::fetch::Whole;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::oci::media_type;

/// How much of content is looked at before all of it is read, bytes.
pub(super) const BEGINNING_BYTES: u64 = 512;

/// Whether verified content of this length may be a manifest or index.
pub(crate) async fn may_be_manifest(whole: &Whole, size_bytes: u64) -> io::Result<bool> {
    // Registries take none that is larger, nor does anyone here give it as one.
    if size_bytes > MANIFEST_BYTES_MAX {
        return Ok(false);
    }
    match whole {
        Whole::Memory(bytes) => Ok(media_type::may_be_manifest(bytes)),
        Whole::File(spooled) => file_may_be_manifest(Arc::clone(&spooled.file), size_bytes).await,
    }
}

/// The same of a file; its position stays.
pub(super) async fn file_may_be_manifest(file: Arc<File>, size_bytes: u64) -> io::Result<bool> {
    if size_bytes > MANIFEST_BYTES_MAX {
        return Ok(false);
    }
    let read = move |length: u64| {
        let mut bytes = vec![0; usize::try_from(length).expect("a manifest's size fits")];
        file.read_exact_at(&mut bytes, 0).map(|()| bytes)
    };
    let look = move || {
        let beginning = read(size_bytes.min(BEGINNING_BYTES))?;
        Ok(media_type::may_begin_manifest(&beginning) && media_type::may_be_manifest(&read(size_bytes)?))
    };
    tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
}
