//! Tests of the tables, and of what a store shows under them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::*;
use crate::agent::content::store::memory::MemoryStore;
use crate::agent::content::store::{Store, StoreEvent, WatchEvent, conformance};
use crate::agent::testing::{SOON, noise};
use crate::oci::ApiPath;

const PRIVATE: &str = "private.test:5000";

fn policies(tables: &[(&str, RegistryPolicy)]) -> Arc<Policies> {
    Arc::new(Policies::new(
        tables.iter().map(|(name, policy)| ((*name).to_owned(), policy.clone())).collect(),
    ))
}

fn filter(patterns: &[&str]) -> RegistryPolicy {
    let filter = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
    RegistryPolicy { filter, ..RegistryPolicy::default() }
}

fn manifests_origin() -> RegistryPolicy {
    RegistryPolicy { manifests: Sharing::Origin, ..RegistryPolicy::default() }
}

fn path(target: &str) -> ContentPath {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    match ApiPath::parse(path, query) {
        Ok(ApiPath::Content(path)) => path,
        other => panic!("{target}: {other:?}"),
    }
}

#[test]
fn a_registry_without_a_table_has_that_of_the_others() {
    let tags = |tags| RegistryPolicy { tags, ..RegistryPolicy::default() };
    let policies = policies(&[("a.b:5000", tags(TagPolicy::Off)), (DEFAULT, tags(TagPolicy::Peers))]);
    assert!(!policies.serves_tags(Some("a.b:5000")));
    assert!(!policies.advertises_tag("a.b:5000/c:d") && policies.advertises_tag("a.b/c:d"));
    assert_eq!(policies.of(Some("a.b")).tags, TagPolicy::Peers);
    assert_eq!(policies.of(Some("A.b:5000")).tags, TagPolicy::Off, "host names have no case");
    assert_eq!(policies.of(None).tags, TagPolicy::Peers);
    assert_eq!(Policies::default().of(Some("x.y")).tags, TagPolicy::OriginFirst);
    assert!(!policies.restricts() && !Policies::default().restricts());
}

/// A client chooses the spelling. A filter or a table that another spelling avoids would be useless.
#[test]
fn tables_and_filters_hold_for_a_registry_however_it_is_spelled() {
    let secret =
        |pattern: &str| RegistryPolicy { filter: vec![pattern.parse().unwrap()], ..manifests_origin() };
    let policies = policies(&[
        ("registry.example:443", secret("^registry\\.example:443/secret/")),
        ("registry-1.docker.io", secret("^docker\\.io/secret/")),
        ("Upper.Example:5000", secret("^upper\\.example:5000/secret/")),
    ]);
    let digest = Digest::of(b"x");
    for spelled in [
        "registry.example",
        "registry.example:443",
        "Registry.EXAMPLE:443",
        "docker.io",
        "Docker.io",
        "index.docker.io",
        "registry-1.docker.io",
        "registry-1.docker.io:443",
        "upper.example:5000",
        "UPPER.example:5000",
    ] {
        let ask = |route: String| policies.admits(&path(&format!("/v2/{route}?ns={spelled}")));
        assert_eq!(ask(format!("secret/app/blobs/{digest}")), Err(NotOurs::Filtered), "{spelled}");
        assert_eq!(ask("app/manifests/v1".to_owned()), Err(NotOurs::Manifests), "{spelled}");
        assert_eq!(ask(format!("app/blobs/{digest}")), Ok(()), "{spelled}");
        let in_path = path(&format!("/v2/{spelled}/app/manifests/v1"));
        assert_eq!(policies.admits(&in_path), Err(NotOurs::Manifests), "{spelled} in the path");
        assert!(!policies.advertises_tag(&format!("{spelled}/app:v1")), "{spelled}");
        assert_eq!(policies.of_name(&format!("{spelled}/secret/app:v1")), Restriction::ALL, "{spelled}");
        assert!(policies.of_name(&format!("{spelled}/app@{digest}")).forbids(Some(true)), "{spelled}");
    }
    for other in ["registry.example:5000", "upper.example", "docker.io.example"] {
        assert_eq!(
            policies.admits(&path(&format!("/v2/secret/app/manifests/v1?ns={other}"))),
            Ok(()),
            "{other}"
        );
    }
}

/// Fault B36 of the Go version: it took a port for the tag, so that its filter missed registries with a port.
#[test]
fn the_latest_filter_refuses_that_tag_of_registries_with_a_port_too_and_no_content() {
    let latest = RegistryPolicy { filter: vec![Filter::latest()], ..RegistryPolicy::default() };
    let policies = policies(&[(DEFAULT, latest)]);
    for (target, is_ours) in [
        ("/v2/team/app/manifests/latest?ns=r.test:5000", false),
        ("/v2/team/app/manifests/latest?ns=r.test", false),
        ("/v2/r.test:5000/team/app/manifests/latest", false),
        ("/v2/team/app/manifests/latest", false),
        ("/v2/team/latest/manifests/v1?ns=r.test:5000", true),
        ("/v2/team/app/manifests/latest-1?ns=r.test:5000", true),
    ] {
        assert_eq!(policies.admits(&path(target)).is_ok(), is_ours, "{target}");
    }
    assert!(!policies.advertises_tag("r.test:5000/team/app:latest"));
    assert!(policies.advertises_tag("r.test:5000/team/app:v1"));
    assert!(policies.of_name("r.test:5000/team/app:latest").is_none(), "its content is not refused");
    assert!(!policies.restricts(), "nothing about content need be found out");
}

#[test]
fn a_filter_sees_the_whole_name_and_refuses_content_by_its_repository() {
    let policies = policies(&[("r.test:5000", filter(&["^r\\.test:5000/secret/", "/app:v[0-9]+-rc"]))]);
    assert!(policies.restricts());
    let digest = Digest::of(b"x");
    for (target, is_ours) in [
        (format!("/v2/secret/app/blobs/{digest}?ns=r.test:5000"), false),
        (format!("/v2/secret/app/manifests/{digest}?ns=r.test:5000"), false),
        (format!("/v2/r.test:5000/secret/app/blobs/{digest}"), false),
        ("/v2/secret/app/manifests/v1?ns=r.test:5000".to_owned(), false),
        ("/v2/open/app/manifests/v1-rc2?ns=r.test:5000".to_owned(), false),
        (format!("/v2/open/app/blobs/{digest}?ns=r.test:5000"), true),
        (format!("/v2/open/secret/app/blobs/{digest}?ns=r.test:5000"), true),
        (format!("/v2/secret/app/blobs/{digest}?ns=other.test"), true),
    ] {
        let admitted = policies.admits(&path(&target));
        assert_eq!(admitted, if is_ours { Ok(()) } else { Err(NotOurs::Filtered) }, "{target}");
    }
    for name in ["r.test:5000/secret/app:v1", "r.test:5000/secret/app", "r.test:5000/secret/app@sha256:1"] {
        assert_eq!(policies.of_name(name), Restriction::ALL, "{name}");
    }
    assert!(policies.of_name("r.test:5000/open/app:v1-rc1").is_none(), "a tag's filter refuses the tag");
}

#[test]
fn manifests_and_blobs_are_kept_back_by_route_and_by_kind() {
    let blobs = RegistryPolicy { blobs: Sharing::Origin, ..RegistryPolicy::default() };
    let policies = policies(&[(PRIVATE, manifests_origin()), ("blobs.test", blobs)]);
    let digest = Digest::of(b"x");
    let ask = |route: &str, ns: &str| policies.admits(&path(&format!("/v2/a/{route}{ns}"))).err();
    let (manifest, blob) = (format!("manifests/{digest}"), format!("blobs/{digest}"));
    assert_eq!(ask("manifests/v1", "?ns=private.test:5000"), Some(NotOurs::Manifests));
    assert_eq!(ask(&manifest, "?ns=private.test:5000"), Some(NotOurs::Manifests));
    assert_eq!(ask(&blob, "?ns=private.test:5000"), None);
    assert_eq!(ask(&blob, "?ns=blobs.test"), Some(NotOurs::Blobs));
    assert_eq!(ask(&manifest, "?ns=blobs.test"), None);
    assert_eq!(ask(&manifest, ""), None);
    let may_give = |ns: &str, is_manifest| policies.may_give(Some(ns), &digest, is_manifest);
    assert!(!may_give(PRIVATE, true) && may_give(PRIVATE, false) && may_give("open.test", true));
    policies.remember_asked(&path(&format!("/v2/a/{manifest}?ns=private.test:5000")));
    assert!(!may_give("open.test", true) && may_give("open.test", false), "known from a stricter one");
    assert!(!policies.advertises_tag("private.test:5000/a:1"), "a tag without its manifest is of no use");
}

/// An image of one layer, including its config.
struct Image {
    manifest: Digest,
    config: Digest,
    layer: Digest,
}

fn image(store: &MemoryStore, seed: usize) -> Image {
    let layer = store.add(noise(1_000 + seed));
    let config = store.add(format!(r#"{{"architecture":"amd64","config":{{"n":{seed}}}}}"#).into_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":1}},"layers":[{{"digest":"{layer}","size":1}}]}}"#
    );
    Image { manifest: store.add(manifest.into_bytes()), config, layer }
}

async fn opens(store: &dyn Store, digest: &Digest) -> bool {
    store.open(digest).await.unwrap().is_some()
}

/// Which of an image's three parts a store gives, after checking that its scan agrees.
async fn given(store: &dyn Store, image: &Image) -> [bool; 3] {
    let parts = [&image.manifest, &image.config, &image.layer];
    let scan = store.scan().await.unwrap();
    let mut given = [false; 3];
    for (is_given, digest) in given.iter_mut().zip(parts) {
        *is_given = opens(store, digest).await;
        assert_eq!(scan.content.contains_key(digest), *is_given, "scan and open differ about {digest}");
    }
    given
}

#[tokio::test]
async fn without_restrictions_a_store_is_left_as_it_is() {
    let store = Arc::new(MemoryStore::new()) as Arc<dyn Store>;
    assert!(Arc::ptr_eq(&guarded(Arc::clone(&store), &policies(&[])), &store));
}

#[tokio::test]
async fn the_manifest_of_an_image_is_held_back_and_its_parts_are_given() {
    for memory in [MemoryStore::new(), MemoryStore::remote()] {
        let memory = Arc::new(memory);
        let store = guarded(memory.clone(), &policies(&[(PRIVATE, manifests_origin())]));
        let (open, kept) = (image(&memory, 1), image(&memory, 2));
        let index = memory.add(format!(r#"{{"manifests":[{{"digest":"{}"}}]}}"#, kept.manifest).into_bytes());
        memory.tag("open.test/app:1", &open.manifest);
        memory.tag("private.test:5000/team/app:1", &index);
        assert_eq!(given(&*store, &open).await, [true, true, true]);
        assert_eq!(given(&*store, &kept).await, [false, true, true]);
        assert!(!opens(&*store, &index).await);
        let tags: Vec<String> = store.scan().await.unwrap().tags.into_keys().collect();
        assert_eq!(tags, ["open.test/app:1"]);
    }
}

#[tokio::test]
async fn the_record_of_a_fetch_counts_from_the_moment_it_is_there() {
    let memory = Arc::new(MemoryStore::new());
    let blobs = RegistryPolicy { blobs: Sharing::Origin, ..RegistryPolicy::default() };
    let store = guarded(memory.clone(), &policies(&[(PRIVATE, manifests_origin()), ("blobs.test", blobs)]));
    let image = image(&memory, 1);
    assert_eq!(given(&*store, &image).await, [true, true, true]);
    for digest in [&image.manifest, &image.config, &image.layer] {
        memory.fetched(digest, "open.test/app");
        memory.fetched(digest, "private.test:5000/team/app");
    }
    assert!(!opens(&*store, &image.manifest).await && opens(&*store, &image.layer).await);
    memory.fetched(&image.layer, "blobs.test/x");
    assert!(!opens(&*store, &image.layer).await, "known from several registries: the strictest");
    assert_eq!(given(&*store, &image).await, [false, true, false]);
}

#[tokio::test]
async fn what_the_mirror_was_asked_for_is_known_before_it_arrives() {
    let memory = Arc::new(MemoryStore::new());
    let policies = policies(&[(PRIVATE, manifests_origin()), ("secret.test", filter(&["."]))]);
    let store = guarded(memory.clone(), &policies);
    let [kept, open] = [image(&memory, 1), image(&memory, 2)];
    let ask =
        |digest: &Digest, ns: &str| policies.remember_asked(&path(&format!("/v2/a/blobs/{digest}?ns={ns}")));
    for digest in [&kept.manifest, &kept.layer, &open.layer] {
        ask(digest, PRIVATE);
    }
    ask(&kept.config, "secret.test");
    ask(&open.manifest, "open.test");
    assert_eq!(given(&*store, &kept).await, [false, false, true]);
    assert_eq!(given(&*store, &open).await, [true, true, true]);
}

#[tokio::test]
async fn content_without_a_name_is_the_table_of_all_others_and_named_content_is_not() {
    let memory = Arc::new(MemoryStore::new());
    let tables = [(DEFAULT, manifests_origin()), ("open.test", RegistryPolicy::default())];
    let store = guarded(memory.clone(), &policies(&tables));
    let (nameless, named, recorded) = (image(&memory, 1), image(&memory, 2), image(&memory, 3));
    memory.tag("open.test/app:1", &named.manifest);
    // A name that containerd's CRI plugin makes says nothing about sources.
    memory.tag("sha256:12", &named.manifest);
    memory.fetched(&recorded.manifest, "open.test/app");
    assert_eq!(given(&*store, &nameless).await, [false, true, true]);
    assert_eq!(given(&*store, &named).await, [true, true, true]);
    assert_eq!(given(&*store, &recorded).await, [true, true, true]);
}

#[tokio::test]
async fn a_look_that_fails_withholds_and_deletes_nothing() {
    let memory = Arc::new(MemoryStore::new());
    let store = guarded(memory.clone(), &policies(&[(PRIVATE, manifests_origin())]));
    let image = image(&memory, 1);
    memory.fail_scans(Some("a test"));
    assert!(store.open(&image.layer).await.is_err(), "before the first look nothing is given");
    assert!(store.scan().await.is_err());
    memory.fail_scans(None);
    assert!(opens(&*store, &image.layer).await);
    memory.fail_scans(Some("a test"));
    assert!(opens(&*store, &image.layer).await && store.scan().await.is_err());
}

/// A running watch, with its events.
struct Watched {
    events: mpsc::Receiver<WatchEvent>,
    stop: tokio_util::sync::CancellationToken,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Watched {
    async fn start(store: &Arc<dyn Store>) -> Self {
        let (sender, events) = mpsc::channel(1_000);
        let (store, stop) = (Arc::clone(store), tokio_util::sync::CancellationToken::new());
        let stopped = stop.clone();
        let pass_on = async move {
            let mut watch = store.watch();
            while let Some(Ok(event)) = watch.next().await {
                _ = sender.send(event).await;
            }
        };
        let watch = async move { stopped.run_until_cancelled(pass_on).await };
        tokio_util::task::TaskTracker::new().spawn(watch);
        let mut watched = Self { events, stop };
        assert_eq!(watched.events.recv().await, Some(WatchEvent::Set));
        watched
    }

    /// Waits for the next event about `digest`.
    async fn next_of(&mut self, digest: &Digest) -> StoreEvent {
        let next = async {
            loop {
                let Some(WatchEvent::Changed(event)) = self.events.recv().await else {
                    panic!("the watch has ended");
                };
                match &event {
                    StoreEvent::Added { digest: of, .. } | StoreEvent::Removed { digest: of }
                        if of == digest =>
                    {
                        return event;
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(SOON, next).await.expect("an event in time")
    }
}

#[tokio::test]
async fn what_becomes_known_from_a_stricter_registry_is_withdrawn_and_comes_back() {
    let memory = Arc::new(MemoryStore::new());
    let store = guarded(memory.clone(), &policies(&[(PRIVATE, manifests_origin())]));
    store.scan().await.unwrap();
    let mut watched = Watched::start(&store).await;
    let image = image(&memory, 1);
    let added = |digest: &Digest, event: &StoreEvent| matches!(event, StoreEvent::Added { digest: of, .. } if of == digest);
    assert!(added(&image.manifest, &watched.next_of(&image.manifest).await));
    memory.tag("private.test:5000/team/app:1", &image.manifest);
    let event = watched.next_of(&image.manifest).await;
    assert_eq!(event, StoreEvent::Removed { digest: image.manifest.clone() });
    assert!(!opens(&*store, &image.manifest).await && opens(&*store, &image.layer).await);
    memory.untag("private.test:5000/team/app:1");
    assert!(
        added(&image.manifest, &watched.next_of(&image.manifest).await),
        "nothing keeps it back any more"
    );
    memory.fetched(&image.manifest, "private.test:5000/other");
    let event = watched.next_of(&image.manifest).await;
    assert_eq!(event, StoreEvent::Removed { digest: image.manifest.clone() });
}

#[tokio::test]
async fn new_content_is_reported_when_it_is_known_where_it_is_from() {
    let memory = Arc::new(MemoryStore::new());
    let store = guarded(memory.clone(), &policies(&[(PRIVATE, manifests_origin())]));
    let mut watched = Watched::start(&store).await;
    let content = |n: u8| format!(r#"{{"layers":[{n}]}}"#).into_bytes();
    let (kept, open) = (memory.add_unrecorded(content(1)), memory.add_unrecorded(content(2)));
    let early = tokio::time::timeout(Duration::from_millis(300), watched.next_of(&open)).await;
    assert!(early.is_err(), "reported before: {early:?}");
    assert!(!opens(&*store, &open).await, "nor is it given");
    memory.fetched(&kept, "private.test:5000/a");
    memory.fetched(&open, "open.test/a");
    assert!(matches!(watched.next_of(&open).await, StoreEvent::Added { .. }));
    assert!(opens(&*store, &open).await && !opens(&*store, &kept).await);
    let scan = store.scan().await.unwrap();
    assert!(scan.content.contains_key(&open) && !scan.content.contains_key(&kept));
}

struct Guarded(Arc<MemoryStore>, Arc<dyn Store>);

impl conformance::Subject for Guarded {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.1)
    }

    fn put<'a>(&'a self, bytes: &'a [u8]) -> futures_util::future::BoxFuture<'a, Digest> {
        Box::pin(std::future::ready(self.0.add(bytes.to_vec())))
    }

    fn remove<'a>(&'a self, digest: &'a Digest) -> futures_util::future::BoxFuture<'a, ()> {
        Box::pin(async move { self.0.remove(digest) })
    }

    fn tag<'a>(&'a self, name: &'a str, digest: &'a Digest) -> futures_util::future::BoxFuture<'a, ()> {
        Box::pin(async move { self.0.tag(name, digest) })
    }

    fn untag<'a>(&'a self, name: &'a str) -> futures_util::future::BoxFuture<'a, ()> {
        Box::pin(async move { self.0.untag(name) })
    }

    fn fetched<'a>(&'a self, digest: &'a Digest, name: &'a str) -> futures_util::future::BoxFuture<'a, bool> {
        self.0.fetched(digest, name);
        Box::pin(std::future::ready(true))
    }
}

/// For content that it does not hold back, it is a store like any other.
#[tokio::test]
async fn a_guarded_store_conforms() {
    for memory in [MemoryStore::new(), MemoryStore::remote()] {
        let memory = Arc::new(memory);
        let store = guarded(memory.clone(), &policies(&[(PRIVATE, manifests_origin())]));
        conformance::run(&Guarded(memory, store)).await;
    }
}

/// A host without a dot looks like the first part of a repository of docker.io.
#[test]
fn a_registry_with_a_table_is_one_whatever_its_name_looks_like() {
    let table = RegistryPolicy { manifests: Sharing::Origin, ..RegistryPolicy::default() };
    let policies = Policies::new([("harbor".to_owned(), table)].into());
    assert!(policies.of_name("harbor/app:v1").manifests);
    assert!(!policies.of_name("library/app:v1").manifests);
}
