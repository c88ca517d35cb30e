//! Tests of the layout store on real folders.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::agent::content::store::conformance::{self, Subject};

/// A layout that is written as skopeo does it: blobs are renamed into place, index.json is replaced.
struct Layout {
    root: tempfile::TempDir,
    store: Arc<LayoutStore>,
}

impl Layout {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        write_marker(root.path());
        write_index(root.path(), &BTreeMap::new());
        Self { store: Arc::new(LayoutStore::new(root.path())), root }
    }

    async fn change_names(&self, change: impl FnOnce(&mut BTreeMap<String, Digest>)) {
        let mut names = self.store.names().await.unwrap();
        change(&mut names);
        write_index(self.root.path(), &names);
    }
}

fn write_marker(root: &Path) {
    std::fs::create_dir_all(root.join("blobs/sha256")).unwrap();
    std::fs::write(root.join(MARKER), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn write_index(root: &Path, names: &BTreeMap<String, Digest>) {
    let manifests: Vec<_> = names
        .iter()
        .map(|(name, digest)| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.as_str(), "size": 1,
                "annotations": {"org.opencontainers.image.ref.name": name},
            })
        })
        .collect();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
    std::fs::write(root.join("index.json.new"), index.to_string()).unwrap();
    std::fs::rename(root.join("index.json.new"), root.join(INDEX)).unwrap();
}

fn write_blob(root: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    std::fs::write(root.join("put"), bytes).unwrap();
    std::fs::rename(root.join("put"), root.join("blobs/sha256").join(digest.hex())).unwrap();
    digest
}

impl Subject for Layout {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn put<'a>(&'a self, bytes: &'a [u8]) -> BoxFuture<'a, Digest> {
        std::future::ready(write_blob(self.root.path(), bytes)).boxed()
    }

    fn remove<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, ()> {
        std::fs::remove_file(self.root.path().join("blobs/sha256").join(digest.hex())).unwrap();
        std::future::ready(()).boxed()
    }

    fn tag<'a>(&'a self, name: &'a str, digest: &'a Digest) -> BoxFuture<'a, ()> {
        self.change_names(|names| _ = names.insert(name.to_owned(), digest.clone())).boxed()
    }

    fn untag<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        self.change_names(|names| _ = names.remove(name)).boxed()
    }

    fn fetched<'a>(&'a self, _digest: &'a Digest, _name: &'a str) -> BoxFuture<'a, bool> {
        std::future::ready(false).boxed()
    }
}

#[tokio::test]
async fn conforms() {
    conformance::run(&Layout::new()).await;
}

#[tokio::test]
async fn conforms_where_the_system_does_not_notify() {
    let mut layout = Layout::new();
    layout.store = Arc::new(LayoutStore::polled(layout.root.path(), Duration::from_millis(200)));
    conformance::run(&layout).await;
}

#[tokio::test]
async fn a_folder_that_is_no_layout_yet_is_an_error_and_wakes_the_watch_when_it_is_one() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("later");
    let store = LayoutStore::new(&root);
    assert!(matches!(store.scan().await, Err(StoreError::Unreachable { .. })));
    let mut watch = store.watch();
    assert_eq!(watch.next().await.unwrap().unwrap(), WatchEvent::Set);
    write_marker(&root);
    write_blob(&root, b"layer");
    write_index(&root, &BTreeMap::new());
    let woken = tokio::time::timeout(Duration::from_secs(60), watch.next());
    let woken = woken.await.expect("the watch ends when there is a layout");
    assert!(matches!(woken, Some(Err(_))), "{woken:?}");
    assert!(store.scan().await.unwrap().content.contains_key(&Digest::of(b"layer")));
}

#[tokio::test]
async fn bare_tags_and_tags_of_absent_content_are_skipped() {
    let layout = Layout::new();
    let digest = write_blob(layout.root.path(), b"manifest");
    let absent = Digest::of(b"absent");
    let names = BTreeMap::from([
        ("v1".to_owned(), digest.clone()),
        ("registry.example/a:1".to_owned(), digest.clone()),
        ("registry.example/b:1".to_owned(), absent),
    ]);
    write_index(layout.root.path(), &names);
    let scan = layout.store.scan().await.unwrap();
    assert_eq!(scan.tags, BTreeMap::from([("registry.example/a:1".to_owned(), digest)]));
}

#[tokio::test]
async fn names_without_a_registry_and_odd_entries_are_said_and_hide_nothing() {
    let mut layout = Layout::new();
    let notices = Notices::default();
    layout.store = Arc::new(LayoutStore::new(layout.root.path()).noticing(&notices));
    let digest = write_blob(layout.root.path(), b"manifest");
    let full = "registry.example/a:1";
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"digest": format!("sha384:{}", "0".repeat(96)), "size": 1},
        {"digest": digest.as_str(), "annotations": {"org.opencontainers.image.ref.name": full}},
        {"digest": digest.as_str(), "annotations": {"org.opencontainers.image.ref.name": "v1"}},
        {"digest": digest.as_str()},
    ]});
    std::fs::write(layout.root.path().join(INDEX), index.to_string()).unwrap();
    let scan = layout.store.scan().await.unwrap();
    assert_eq!(scan.tags.keys().collect::<Vec<_>>(), [full]);
    assert!(scan.content.contains_key(&digest));
    let texts = notices.texts().join("\n");
    let folder = layout.root.path().display().to_string();
    for part in ["without a registry", "\"v1\"", "skopeo copy", "entry 1: \"sha384:", &folder] {
        assert!(texts.contains(part), "{part}: {texts}");
    }
    write_index(layout.root.path(), &BTreeMap::from([(full.to_owned(), digest)]));
    layout.store.scan().await.unwrap();
    assert_eq!(notices.texts(), Vec::<String>::new(), "what was mended is not said any more");
}

#[tokio::test]
async fn an_index_that_cannot_be_read_fails_the_scan_and_deletes_nothing() {
    let layout = Layout::new();
    write_blob(layout.root.path(), b"layer");
    std::fs::write(layout.root.path().join(INDEX), r#"{"manifests":["#).unwrap();
    assert!(matches!(layout.store.scan().await, Err(StoreError::Failed { .. })));
}
