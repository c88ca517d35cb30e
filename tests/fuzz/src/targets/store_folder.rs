//! A folder of images that others write: `index.json`, and containerd's ingests with `ref` and `total`.
//!
//! An input consists of rows as in [`super::stored`]: the table selects the file, the key is the ingest's id.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use futures_util::TryStreamExt;
use piccolo::agent::content::store::layout::LayoutStore;
use piccolo::agent::content::store::name::ImageName;
use piccolo::agent::content::store::{Ingest, Store};
use piccolo::oci::Digest;
use tempfile::TempDir;

use super::stored::rows_of;

/// Number of different ingests.
const INGESTS_MAX: u64 = 4;

pub(super) fn run(input: &[u8]) {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("there is a place for temporary files"));
    let root = folder.path().join("layout");
    let mut written = BTreeMap::new();
    for row in rows_of(input) {
        written.insert(place(&root, row.table, row.key, row.value), row.value);
    }
    let digest = Digest::of(b"layer");
    written.insert(root.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
    fs::remove_dir_all(&root).ok();
    fs::create_dir_all(root.join("blobs/sha256")).expect("a folder");
    for (path, bytes) in &written {
        fs::create_dir_all(path.parent().expect("below the root")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = LayoutStore::new(&root);
        if let Ok(scan) = store.scan().await {
            for (name, digest) in &scan.tags {
                assert!(ImageName::parse(name).tag().is_some(), "{name}");
                assert!(scan.content.contains_key(digest), "a tag of what is not there: {name}");
                assert_eq!(store.resolve(name).await.expect("it was just read").as_ref(), Some(digest));
            }
        }
        store.sources().try_for_each(|_page| std::future::ready(Ok(()))).await.ok();
        store.fetched_from(&digest).await.ok();
        for Ingest { total_bytes, .. } in store.ingests(&digest).await.expect("a folder can be read") {
            assert_ne!(total_bytes, Some(0), "0 is not known");
        }
        store.complete_ingests().await.expect("a folder can be read");
    });
}

fn place(root: &Path, table: u8, key: u64, value: &[u8]) -> PathBuf {
    let ingest = root.join("ingest").join((key % INGESTS_MAX).to_string());
    match table % 5 {
        0 => root.join("index.json"),
        1 => ingest.join("ref"),
        2 => ingest.join("total"),
        3 => ingest.join("data"),
        _ => root.join("blobs/sha256").join(Digest::of(value).hex()),
    }
}
