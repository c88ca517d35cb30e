//! The containerd store with a real containerd.

#[path = "support/containerd.rs"]
mod containerd;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use containerd::Containerd;
use containerd_client::services::v1 as api;
use containerd_client::types::Descriptor;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use piccolo::agent::content::store::conformance::{self, Subject, read_all};
use piccolo::agent::content::store::{ContainerdStore, Content, Store, StoreError, StoreEvent, WatchEvent};
use piccolo::oci::Digest;
use tokio::sync::{mpsc, oneshot};
use tonic::Request;

const NAMESPACE: &str = "k8s.io";
/// Time for expected events; long, because tests share the machine.
const SOON: Duration = Duration::from_secs(60);

fn store(containerd: &Containerd) -> ContainerdStore {
    ContainerdStore::new(&containerd.socket(), NAMESPACE, None).expect("a valid namespace")
}

/// Content of the namespace, changed like by another client of containerd.
struct Daemon {
    containerd: Containerd,
    store: Arc<ContainerdStore>,
}

fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", NAMESPACE.parse().expect("a header value"));
    request
}

async fn connect(socket: &Path) -> containerd_client::Client {
    containerd_client::Client::from_path(socket).await.expect("containerd serves")
}

/// Writes content, and commits it if `commit`.
async fn write(socket: &Path, reference: &str, bytes: &[u8], commit: bool) -> Digest {
    let digest = Digest::of(bytes);
    let action = if commit { api::WriteAction::Commit } else { api::WriteAction::Write };
    let message = api::WriteContentRequest {
        action: action as i32,
        r#ref: reference.to_owned(),
        total: bytes.len() as i64 + i64::from(!commit),
        expected: digest.to_string(),
        offset: 0,
        data: bytes.to_vec(),
        labels: [("containerd.io/gc.root".to_owned(), "test".to_owned())].into(),
    };
    let stream = futures_util::stream::iter([message]);
    let mut answers = connect(socket)
        .await
        .content()
        .write(in_namespace(stream))
        .await
        .expect("containerd does it")
        .into_inner();
    while answers.message().await.expect("containerd does it").is_some() {}
    digest
}

impl Subject for Daemon {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn put<'a>(&'a self, bytes: &'a [u8]) -> BoxFuture<'a, Digest> {
        let socket = self.containerd.socket();
        async move { write(&socket, &format!("layer-{}", Digest::of(bytes)), bytes, true).await }.boxed()
    }

    fn remove<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, ()> {
        async move {
            let request = in_namespace(api::DeleteContentRequest { digest: digest.to_string() });
            connect(&self.containerd.socket())
                .await
                .content()
                .delete(request)
                .await
                .expect("containerd does it");
        }
        .boxed()
    }

    fn tag<'a>(&'a self, name: &'a str, digest: &'a Digest) -> BoxFuture<'a, ()> {
        async move {
            let target = Descriptor {
                media_type: "application/vnd.oci.image.manifest.v1+json".into(),
                digest: digest.to_string(),
                size: 1,
                annotations: Default::default(),
            };
            let image = api::Image { name: name.to_owned(), target: Some(target), ..Default::default() };
            let mut images = connect(&self.containerd.socket()).await.images();
            let create = api::CreateImageRequest { image: Some(image.clone()), ..Default::default() };
            if images.create(in_namespace(create)).await.is_err() {
                let update = api::UpdateImageRequest { image: Some(image), ..Default::default() };
                images.update(in_namespace(update)).await.expect("containerd does it");
            }
        }
        .boxed()
    }

    fn untag<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        async move {
            let request = api::DeleteImageRequest { name: name.to_owned(), sync: true, ..Default::default() };
            connect(&self.containerd.socket())
                .await
                .images()
                .delete(in_namespace(request))
                .await
                .expect("containerd does it");
        }
        .boxed()
    }

    /// Labels like those of containerd's own fetch.
    fn fetched<'a>(&'a self, digest: &'a Digest, name: &'a str) -> BoxFuture<'a, bool> {
        async move {
            let (registry, repository) = name.split_once('/').expect("registry/repository");
            let label = (format!("containerd.io/distribution.source.{registry}"), repository.to_owned());
            let update_mask = Some(prost_types::FieldMask { paths: vec![format!("labels.{}", label.0)] });
            let info = api::Info { digest: digest.to_string(), labels: [label].into(), ..Default::default() };
            let request = in_namespace(api::UpdateRequest { info: Some(info), update_mask });
            connect(&self.containerd.socket())
                .await
                .content()
                .update(request)
                .await
                .expect("containerd does it");
            true
        }
        .boxed()
    }
}

#[tokio::test]
async fn conforms() {
    let containerd = Containerd::start();
    let store = Arc::new(store(&containerd));
    conformance::run(&Daemon { containerd, store }).await;
}

#[tokio::test]
async fn conforms_where_the_content_folder_is_not_visible() {
    let containerd = Containerd::start();
    let elsewhere = containerd.scratch().join("not-here");
    let store = ContainerdStore::new(&containerd.socket(), NAMESPACE, Some(elsewhere)).unwrap();
    conformance::run(&Daemon { containerd, store: Arc::new(store) }).await;
}

#[tokio::test]
async fn conforms_where_the_system_does_not_notify() {
    let containerd = Containerd::start();
    let store = store(&containerd).polled(Duration::from_secs(1));
    conformance::run(&Daemon { containerd, store: Arc::new(store) }).await;
}

/// A watch and its events. It runs in its own task, so that the time of each event is correct.
struct Watching {
    events: mpsc::Receiver<StoreEvent>,
    task: tokio::task::JoinSet<StoreError>,
}

impl Watching {
    async fn set(store: &Arc<ContainerdStore>) -> Self {
        let (sender, events) = mpsc::channel(1024);
        let (ready, is_ready) = oneshot::channel();
        let mut task = tokio::task::JoinSet::new();
        let store = Arc::clone(store);
        task.spawn(async move {
            let mut ready = Some(ready);
            let mut watch = store.watch();
            loop {
                match watch.next().await.expect("a watch ends with a reason") {
                    Ok(WatchEvent::Set) => {
                        ready.take().expect("a watch is set once").send(()).expect("the test waits for it")
                    }
                    Ok(WatchEvent::Changed(event)) => _ = sender.send(event).await,
                    Err(ended) => return ended,
                }
            }
        });
        tokio::time::timeout(SOON, is_ready).await.expect("ready in time").expect("the watch is set");
        Self { events, task }
    }

    /// Waits until all of these have been reported as added (or removed).
    async fn expect_all(&mut self, added: bool, digests: &[Digest]) {
        let mut missing: BTreeSet<&Digest> = digests.iter().collect();
        let deadline = tokio::time::Instant::now() + SOON;
        while !missing.is_empty() {
            let event = tokio::time::timeout_at(deadline, self.events.recv()).await;
            match event.unwrap_or_else(|_| panic!("not reported: {missing:?}")).expect("the watch goes on") {
                StoreEvent::Added { digest, .. } if added => _ = missing.remove(&digest),
                StoreEvent::Removed { digest } if !added => _ = missing.remove(&digest),
                _ => {}
            }
        }
    }

    /// Asserts that nothing is reported about these for a stated time.
    async fn expect_silence_about(&mut self, digests: &[Digest], time: Duration) {
        let until = tokio::time::Instant::now() + time;
        while let Ok(event) = tokio::time::timeout_at(until, self.events.recv()).await {
            if let StoreEvent::Added { digest, .. } = event.expect("the watch goes on") {
                assert!(!digests.contains(&digest), "{digest} was reported");
            }
        }
    }
}

#[tokio::test]
async fn every_blob_of_an_imported_image_is_reported_and_taken_back_after_its_removal() {
    let containerd = Containerd::start();
    let store = Arc::new(store(&containerd));
    let mut watching = Watching::set(&store).await;
    let image =
        containerd.import(NAMESPACE, "registry.example/app:1", &[b"layer one", b"layer two", b"layer three"]);
    watching.expect_all(true, &image.content()).await;
    let scan = store.scan().await.unwrap();
    assert_eq!(scan.tags.get(&image.name), Some(&image.manifest));
    assert!(image.content().iter().all(|digest| scan.content.contains_key(digest)), "{scan:?}");
    containerd.ctr(&["-n", NAMESPACE, "images", "rm", "--sync", &image.name]);
    watching.expect_all(false, &image.content()).await;
    assert_eq!(store.scan().await.unwrap(), Default::default());
}

/// The goal is 100 ms, which `piccolo-bench pull` measures. This machine runs other tests: the assertion is
/// that layers are not reported by the next scan of the folder, 5 s later.
#[tokio::test]
async fn a_layer_is_reported_when_it_is_committed_and_not_at_the_next_look() {
    let containerd = Containerd::start();
    let store = Arc::new(store(&containerd));
    write(&containerd.socket(), "first", b"makes the folders", true).await;
    let mut watching = Watching::set(&store).await;
    let mut times = Vec::new();
    for i in 0..9_u8 {
        let digest = write(&containerd.socket(), &format!("layer-{i}"), &[i; 4096], true).await;
        let committed = Instant::now();
        watching.expect_all(true, &[digest]).await;
        times.push(committed.elapsed());
    }
    times.sort();
    println!("{times:?}");
    assert!(times[4] < Duration::from_secs(1), "{times:?}");
}

#[tokio::test]
async fn content_of_another_namespace_is_neither_scanned_nor_opened_nor_reported() {
    let containerd = Containerd::start();
    let store = Arc::new(store(&containerd));
    let mut watching = Watching::set(&store).await;
    let theirs = containerd.import("buildkit", "registry.example/secret:1", &[b"their layer"]);
    for digest in theirs.content() {
        let path = containerd.content_path().join("blobs/sha256").join(digest.hex());
        assert!(path.exists(), "the folder knows no namespaces");
    }
    // Longer than the store asks about a file that its namespace does not know.
    watching.expect_silence_about(&theirs.content(), Duration::from_secs(4)).await;
    assert_eq!(store.scan().await.unwrap(), Default::default());
    for digest in theirs.content() {
        assert!(store.open(&digest).await.unwrap().is_none());
    }
    assert_eq!(store.resolve(&theirs.name).await.unwrap(), None);
    // The same image in our namespace: its files exist already, and no new ones are made.
    let ours = containerd.import(NAMESPACE, "registry.example/secret:1", &[b"their layer"]);
    watching.expect_all(true, &ours.content()).await;
    // Only ours is removed: its files stay.
    containerd.ctr(&["-n", NAMESPACE, "images", "rm", "--sync", &ours.name]);
    watching.expect_all(false, &ours.content()).await;
}

#[tokio::test]
async fn after_a_restart_of_containerd_the_watch_ends_and_a_scan_misses_nothing() {
    let mut containerd = Containerd::start();
    let store = Arc::new(store(&containerd));
    let before = containerd.import(NAMESPACE, "registry.example/before:1", &[b"before"]);
    let mut watching = Watching::set(&store).await;
    containerd.kill();
    let ended = tokio::time::timeout(SOON, watching.task.join_next()).await.expect("the watch notices");
    ended.unwrap().unwrap();
    assert!(matches!(store.scan().await, Err(StoreError::Unreachable { .. })), "no empty scan (I3)");
    assert!(matches!(store.open(&before.manifest).await, Err(StoreError::Unreachable { .. })));
    containerd.run();
    let after = containerd.import(NAMESPACE, "registry.example/after:1", &[b"after"]);
    let _watching = Watching::set(&store).await;
    let scan = store.scan().await.unwrap();
    for digest in before.content().iter().chain(&after.content()) {
        assert!(scan.content.contains_key(digest), "{digest} is missing");
    }
    assert_eq!(scan.tags.len(), 2);
}

#[tokio::test]
async fn a_socket_that_is_not_there_yet_is_unreachable_and_works_once_it_is() {
    let mut containerd = Containerd::prepare();
    let store = Arc::new(store(&containerd));
    let first = store.watch().next().await.expect("a watch reports that it is set, or why not");
    let error = first.expect_err("never set");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    let cause = std::error::Error::source(&error).expect("it says why").to_string();
    assert!(cause.contains("No such file"), "{cause}");
    containerd.run();
    let image = containerd.import(NAMESPACE, "registry.example/app:1", &[b"layer"]);
    let _watching = Watching::set(&store).await;
    assert!(store.scan().await.unwrap().content.contains_key(&image.manifest));
}

#[tokio::test]
async fn over_grpc_the_bytes_are_those_of_the_file() {
    let containerd = Containerd::start();
    let layer: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let image = containerd.import(NAMESPACE, "registry.example/big:1", &[&layer]);
    let near = store(&containerd);
    let far = ContainerdStore::new(&containerd.socket(), NAMESPACE, Some("/nonexistent".into())).unwrap();
    let file = near.open(&image.layers[0]).await.unwrap().unwrap();
    let remote = far.open(&image.layers[0]).await.unwrap().unwrap();
    assert!(matches!((&file, &remote), (Content::File { .. }, Content::Remote { .. })));
    assert!(read_all(&near, &image.layers[0], file).await == layer);
    assert!(read_all(&far, &image.layers[0], remote).await == layer);
    // containerd's garbage collector may remove the archive's own index between the two scans.
    let (mut near, mut far) = (near.scan().await.unwrap(), far.scan().await.unwrap());
    near.content.retain(|digest, _| image.content().contains(digest));
    far.content.retain(|digest, _| image.content().contains(digest));
    assert_eq!(near.content.len(), image.content().len());
    assert_eq!(near, far);
}

#[tokio::test]
async fn in_a_folder_that_is_not_containerds_nothing_is_looked_for() {
    let containerd = Containerd::start();
    let image = containerd.import(NAMESPACE, "registry.example/app:1", &[b"layer"]);
    let other = containerd.scratch().join("other");
    std::fs::create_dir_all(other.join("blobs/sha256")).unwrap();
    let store = ContainerdStore::new(&containerd.socket(), NAMESPACE, Some(other)).unwrap();
    let scan = store.scan().await.unwrap();
    assert!(image.content().iter().all(|digest| scan.content.contains_key(digest)), "{scan:?}");
    let content = store.open(&image.layers[0]).await.unwrap().unwrap();
    assert!(matches!(content, Content::Remote { .. }));
}

/// Each check took the folder for containerd's at first, and every blob was gone for that moment. The second
/// folder is that of another containerd, with a common base layer.
#[tokio::test]
async fn a_wrong_content_path_is_found_out_once_and_no_look_hides_content() {
    let containerd = Containerd::start();
    let image = containerd.import(NAMESPACE, "registry.example/app:1", &[b"layer", b"base"]);
    for common in [None, Some(&image.layers[1])] {
        let other = containerd.scratch().join(format!("other-{}", common.is_some()));
        std::fs::create_dir_all(other.join("blobs/sha256")).unwrap();
        if let Some(digest) = common {
            let file = |root: &Path| root.join("blobs/sha256").join(digest.hex());
            std::fs::copy(file(&containerd.content_path()), file(&other)).unwrap();
        }
        let store = ContainerdStore::new(&containerd.socket(), NAMESPACE, Some(other)).unwrap();
        let store = Arc::new(store.polled(Duration::from_millis(50)));
        let mut watching = Watching::set(&store).await;
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            let content = store.open(&image.layers[0]).await.unwrap();
            assert!(matches!(content, Some(Content::Remote { .. })), "{content:?}");
        }
        assert!(watching.task.try_join_next().is_none(), "the watch goes on");
    }
}

/// An image event and the collection after it could find all content known and no file, which was taken for a
/// foreign folder; now containerd is asked for a byte.
#[tokio::test]
async fn blobs_whose_files_are_lost_are_neither_scanned_nor_opened() {
    let containerd = Containerd::start();
    let image = containerd.import(NAMESPACE, "registry.example/app:1", &[b"layer"]);
    let store = store(&containerd);
    std::fs::remove_dir_all(containerd.content_path().join("blobs/sha256")).unwrap();
    assert_eq!(store.scan().await.unwrap(), Default::default());
    assert!(store.open(&image.layers[0]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_half_written_ingest_is_aborted_unless_it_was_begun_later() {
    let containerd = Containerd::start();
    let store = store(&containerd);
    let digest = Digest::of(b"half of a layer");
    let reference = format!("layer-{digest}");
    write(&containerd.socket(), &reference, b"half of a layer", false).await;
    write(&containerd.socket(), "layer-other", b"other", false).await;
    assert!(containerd.ctr(&["-n", NAMESPACE, "content", "active"]).contains(&reference[..20]));
    let long_ago = SystemTime::now() - Duration::from_secs(60);
    assert_eq!(store.abort_ingests(&digest, long_ago).await.unwrap(), 0, "begun since");
    assert_eq!(store.abort_ingests(&digest, SystemTime::now()).await.unwrap(), 1);
    assert_eq!(store.abort_ingests(&digest, SystemTime::now()).await.unwrap(), 0);
    let active = containerd.ctr(&["-n", NAMESPACE, "content", "active"]);
    assert!(active.contains("layer-other") && !active.contains("layer-sha256"), "{active}");
}

#[tokio::test]
async fn one_strange_image_name_hides_no_other() {
    let containerd = Containerd::start();
    let store = Arc::new(store(&containerd));
    let image = containerd.import(NAMESPACE, "registry.example/app:1", &[b"layer"]);
    let daemon = Daemon { containerd, store: store.clone() };
    let pinned = format!("registry.example/app@{}", image.manifest);
    for name in [image.config.as_str(), "not a reference \u{fffd}!!", &pinned, "bare"] {
        daemon.tag(name, &image.manifest).await;
    }
    daemon.tag("registry.example/gone:1", &Digest::of(b"no such content")).await;
    let scan = store.scan().await.unwrap();
    assert_eq!(scan.tags.into_iter().collect::<Vec<_>>(), [(image.name, image.manifest)]);
}
