//! Requirements on every store. Each implementation runs [`run`] on itself; the assertions say what a caller
//! relies on.

use std::collections::{BTreeSet, VecDeque};
use std::io::Read;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};

use super::{Content, Fetched, Source, Store, StoreError, StoreEvent, WatchEvent};
use crate::oci::Digest;

/// Deadline of an event in these tests. The promise of 100 ms is measured where the machine is not shared
/// with other tests.
const EVENT_TIMEOUT: Duration = Duration::from_secs(10);

/// A store, with the means to change what it holds as another program would.
pub trait Subject: Send + Sync {
    /// Returns the store under test.
    fn store(&self) -> Arc<dyn Store>;
    /// Commits content to the store.
    fn put<'a>(&'a self, bytes: &'a [u8]) -> BoxFuture<'a, Digest>;
    /// Removes content that no name points to.
    fn remove<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, ()>;
    /// Sets a name, which may exist already.
    fn tag<'a>(&'a self, name: &'a str, digest: &'a Digest) -> BoxFuture<'a, ()>;
    /// Removes a name, and keeps its content.
    fn untag<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()>;
    /// Records that content was fetched from `registry/repository`. False if the store keeps no such record.
    fn fetched<'a>(&'a self, digest: &'a Digest, name: &'a str) -> BoxFuture<'a, bool>;
}

/// Runs every check, one after the other, on a store that is empty at first.
///
/// # Panics
/// If the store does not conform.
pub async fn run(subject: &dyn Subject) {
    content_is_opened_as_it_was_put(subject).await;
    absent_content_is_none_and_no_error(subject).await;
    a_name_resolves_while_its_target_is_present(subject).await;
    changes_are_reported(subject).await;
    it_is_told_where_content_is_from(subject).await;
    what_is_put_between_watch_and_scan_is_missed_by_neither(subject).await;
    an_opened_blob_is_read_to_its_end_after_its_removal(subject).await;
}

async fn content_is_opened_as_it_was_put(subject: &dyn Subject) {
    let store = subject.store();
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let digest = subject.put(&bytes).await;
    let content = open(&*store, &digest).await.expect("content that was put is there");
    assert_eq!(content.size_bytes(), bytes.len() as u64);
    assert!(read_all(&*store, &digest, content).await == bytes, "the bytes read are those put");
    let scan = store.scan().await.expect("a scan of a sound store succeeds");
    assert_eq!(scan.content.get(&digest), Some(&(bytes.len() as u64)));
    if let Some(Content::Remote { .. }) = open(&*store, &digest).await {
        let middle = collect(store.read(&digest, 70_000, 60_001)).await;
        assert!(middle == bytes[70_000..130_001], "a part is read at its offset");
        assert!(collect(store.read(&digest, 5, 0)).await.is_empty(), "no bytes asked, none given");
    }
    subject.remove(&digest).await;
}

async fn absent_content_is_none_and_no_error(subject: &dyn Subject) {
    let store = subject.store();
    let absent = Digest::of(b"never put");
    assert!(open(&*store, &absent).await.is_none());
    assert_eq!(store.abort_ingests(&absent, SystemTime::now()).await.expect("no ingest is no error"), 0);
    assert_eq!(resolve(&*store, "registry.example/never/put:1").await, None);
}

async fn a_name_resolves_while_its_target_is_present(subject: &dyn Subject) {
    let store = subject.store();
    let (first, second) = (subject.put(b"{\"first\":1}").await, subject.put(b"{\"second\":2}").await);
    let name = "registry.example:5000/team/app:v1";
    let before = SystemTime::now();
    subject.tag(name, &first).await;
    assert_eq!(resolve(&*store, name).await, Some(first.clone()));
    subject.tag(name, &second).await;
    assert_eq!(resolve(&*store, name).await, Some(second.clone()), "a moved tag");
    let tag = store.tag(name).await.expect("a sound store resolves without an error").expect("it is there");
    let set_at = tag.set_at.expect("each store records when a tag was set");
    let distance = set_at.duration_since(before).unwrap_or_else(|early| early.duration());
    assert!(distance < EVENT_TIMEOUT * 6, "the tag was set {distance:?} from the time it was set at");
    let scan = store.scan().await.expect("a scan of a sound store succeeds");
    assert_eq!(scan.tags.get(name), Some(&second));
    subject.untag(name).await;
    assert_eq!(resolve(&*store, name).await, None);
    let scan = store.scan().await.expect("a scan of a sound store succeeds");
    assert!(!scan.tags.contains_key(name), "{scan:?}");
    subject.remove(&first).await;
    subject.remove(&second).await;
}

async fn changes_are_reported(subject: &dyn Subject) {
    let store = subject.store();
    let mut watch = Watch::set(&*store).await;
    let digest = subject.put(b"{\"layer\":3}").await;
    let size_bytes = b"{\"layer\":3}".len() as u64;
    watch.expect(&StoreEvent::Added { digest: digest.clone(), size_bytes }).await;
    let name = "registry.example/team/app:v2".to_owned();
    subject.tag(&name, &digest).await;
    watch.expect(&StoreEvent::Tagged { name: name.clone(), digest: digest.clone() }).await;
    subject.untag(&name).await;
    watch.expect(&StoreEvent::Untagged { name }).await;
    subject.remove(&digest).await;
    watch.expect(&StoreEvent::Removed { digest }).await;
}

async fn it_is_told_where_content_is_from(subject: &dyn Subject) {
    let store = subject.store();
    let mut watch = Watch::set(&*store).await;
    let image = subject.put(b"{\"image\":4}").await;
    let (name, repository) = ("registry.example:5000/team/app:v3", "registry.example:5000/team/app");
    let is_recorded = subject.fetched(&image, repository).await;
    subject.tag(name, &image).await;
    watch.expect(&StoreEvent::Sourced).await;
    let pages: Vec<Vec<Source>> =
        store.sources().try_collect().await.expect("a sound store tells its sources");
    let sources = pages.concat();
    assert!(sources.contains(&Source::Image { name: name.to_owned(), target: image.clone() }), "{sources:?}");
    let of_fetch = Source::Fetched { digest: image.clone(), name: repository.to_owned() };
    assert_eq!(sources.contains(&of_fetch), is_recorded, "{sources:?}");
    let fetched = store.fetched_from(&image).await.expect("a sound store tells where one blob is from");
    let expected = if is_recorded { vec![repository.to_owned()] } else { Vec::new() };
    assert_eq!(fetched, Fetched { names: expected, is_unrecorded: false });
    let absent = store.fetched_from(&Digest::of(b"never put")).await.expect("absence is no error");
    assert_eq!(absent, Fetched::default());
    subject.untag(name).await;
    subject.remove(&image).await;
}

async fn what_is_put_between_watch_and_scan_is_missed_by_neither(subject: &dyn Subject) {
    let store = subject.store();
    let mut watch = Watch::set(&*store).await;
    let mut put = BTreeSet::new();
    for i in 0..5_u8 {
        put.insert(subject.put(format!("{{\"n\":{i}}}").as_bytes()).await);
    }
    let scan = watch.beside(store.scan()).await.expect("a scan of a sound store succeeds");
    let mut missing: BTreeSet<Digest> =
        put.iter().filter(|digest| !scan.content.contains_key(digest)).cloned().collect();
    while !missing.is_empty() {
        if let StoreEvent::Added { digest, .. } = watch.next().await {
            missing.remove(&digest);
        }
    }
    for digest in &put {
        subject.remove(digest).await;
    }
}

async fn an_opened_blob_is_read_to_its_end_after_its_removal(subject: &dyn Subject) {
    let store = subject.store();
    let digest = subject.put(b"{\"still\":\"here\"}").await;
    let content = open(&*store, &digest).await.expect("content that was put is there");
    subject.remove(&digest).await;
    if let Content::File { .. } = content {
        assert_eq!(read_all(&*store, &digest, content).await, b"{\"still\":\"here\"}");
    }
    assert!(open(&*store, &digest).await.is_none(), "removed content is not opened");
}

/// A running watch with its events.
struct Watch<'a> {
    events: BoxStream<'a, Result<WatchEvent, StoreError>>,
    /// Events that came while something else was awaited.
    waiting: VecDeque<StoreEvent>,
}

impl<'a> Watch<'a> {
    async fn set(store: &'a dyn Store) -> Self {
        let mut events = store.watch();
        let first = tokio::time::timeout(EVENT_TIMEOUT, events.next()).await;
        let first = first.expect("a watch is set in time").expect("a watch reports that it is set");
        assert_eq!(first.expect("a watch of a sound store is set"), WatchEvent::Set);
        Self { events, waiting: VecDeque::new() }
    }

    /// Waits for `other` while the watch runs.
    async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(tokio::time::timeout(EVENT_TIMEOUT, other));
        loop {
            tokio::select! {
                event = self.events.next() => self.waiting.push_back(changed(event)),
                done = &mut other => return done.expect("done in time"),
            }
        }
    }

    async fn next(&mut self) -> StoreEvent {
        if let Some(event) = self.waiting.pop_front() {
            return event;
        }
        let event = tokio::time::timeout(EVENT_TIMEOUT, self.events.next()).await;
        changed(event.expect("an event in time"))
    }

    async fn expect(&mut self, expected: &StoreEvent) {
        let mut seen = Vec::new();
        let wait = async {
            while seen.last() != Some(expected) {
                seen.push(self.next().await);
            }
        };
        let came = tokio::time::timeout(EVENT_TIMEOUT, wait).await;
        assert!(came.is_ok(), "expected {expected:?}, saw {seen:?}");
    }
}

fn changed(event: Option<Result<WatchEvent, StoreError>>) -> StoreEvent {
    match event.expect("a watch goes on, or tells why it does not") {
        Ok(WatchEvent::Changed(event)) => event,
        Ok(WatchEvent::Set) => panic!("a watch is set once"),
        Err(reason) => panic!("the watch ended: {reason}"),
    }
}

async fn open(store: &dyn Store, digest: &Digest) -> Option<Content> {
    store.open(digest).await.expect("a sound store opens without an error")
}

async fn resolve(store: &dyn Store, name: &str) -> Option<Digest> {
    store.resolve(name).await.expect("a sound store resolves without an error")
}

/// Reads all bytes of opened content, of either kind.
///
/// # Panics
/// If the content cannot be read.
pub async fn read_all(store: &dyn Store, digest: &Digest, content: Content) -> Vec<u8> {
    match content {
        Content::File { mut file, size_bytes } => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).expect("an opened file is read");
            assert_eq!(bytes.len() as u64, size_bytes, "a file has the size that it was opened with");
            bytes
        }
        Content::Remote { size_bytes } => collect(store.read(digest, 0, size_bytes)).await,
    }
}

async fn collect(
    mut stream: impl futures_util::Stream<Item = Result<bytes::Bytes, StoreError>> + Unpin,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.expect("content is read without an error"));
    }
    bytes
}
