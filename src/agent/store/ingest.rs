//! Transfers into a store of containerd's form: `ingest/<id>/{ref,total,data,…}` beside `blobs`. `ref`
//! ends in the digest, `total` is the length that the blob will have, `data` grows.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::{Ingest, StoreError};
use crate::oci::Digest;

/// What a `ref` or `total` may have, bytes: they are a line.
const LINE_BYTES_MAX: u64 = 4096;

/// The ingests of `digest` below `root`, the one written to last first. None without such a folder.
pub(super) async fn find(root: &Path, digest: &Digest) -> Result<Vec<Ingest>, StoreError> {
    let (folder, digest) = (root.join("ingest"), digest.clone());
    let found = tokio::task::spawn_blocking(move || find_blocking(&folder, &digest)).await;
    found
        .unwrap_or_else(|ended| Err(io::Error::other(ended)))
        .map_err(|source| StoreError::Io { action: "look at the ingests", source })
}

fn find_blocking(folder: &Path, digest: &Digest) -> io::Result<Vec<Ingest>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // Committed or aborted while we look.
        let Ok(name) = line(&path.join("ref")) else { continue };
        if !name.ends_with(digest.as_str()) {
            continue;
        }
        let data = File::open(path.join("data")).ok();
        let written = data.as_ref().and_then(|data| data.metadata().ok()?.modified().ok());
        let total_bytes = line(&path.join("total")).ok().and_then(|total| total.parse().ok());
        // 0 is what containerd writes for "not known".
        let total_bytes = total_bytes.filter(|total| *total > 0);
        found.push((written.unwrap_or(SystemTime::UNIX_EPOCH), Ingest { total_bytes, data }));
    }
    found.sort_by_key(|(written, _)| std::cmp::Reverse(*written));
    Ok(found.into_iter().map(|(_, ingest)| ingest).collect())
}

fn line(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(File::open(path)?, LINE_BYTES_MAX), &mut text)?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ingests_are_found_by_the_end_of_their_ref() {
        let root = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"layer");
        assert!(find(root.path(), &digest).await.unwrap().is_empty(), "no folder yet");
        let ingest = |id: &str, name: String, total: &str, data: &str| {
            let folder = root.path().join("ingest").join(id);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("ref"), name).unwrap();
            std::fs::write(folder.join("total"), total).unwrap();
            std::fs::write(folder.join("data"), data).unwrap();
        };
        ingest("a", format!("k8s.io/1/layer-{digest}"), "5", "lay");
        ingest("b", format!("k8s.io/2/layer-{}", Digest::of(b"other")), "7", "");
        ingest("c", format!("other/3/{digest}"), "0", "");
        let found = find(root.path(), &digest).await.unwrap();
        let mut totals: Vec<_> = found.iter().map(|ingest| ingest.total_bytes).collect();
        totals.sort();
        assert_eq!(totals, [None, Some(5)]);
        assert!(found.iter().all(|ingest| ingest.data.is_some()));
    }
}
