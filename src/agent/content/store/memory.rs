//! A store in memory, for tests. Content and names change at run time; scans fail or wait, watches break, and
//! bytes are wrong on demand.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Seek, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::{Notify, watch};

use super::{
    Content, EventSender, Fetched, Ingest, Scan, Source, Store, StoreCause, StoreError, StoreEvent, Tag,
    WatchEvent, WatchLost, watch_stream,
};
use crate::limits::MEMORY_STORE_PIECE_BYTES;
use crate::oci::Digest;

/// A store whose content a test sets.
pub struct MemoryStore {
    state: Mutex<Held>,
    changed: Notify,
    scans_paused: watch::Sender<bool>,
    scans_begun: watch::Sender<u64>,
    remote: bool,
}

/// Length of the blob, and the bytes written so far.
type Partial = (u64, Arc<std::fs::File>);

/// An ingest: of which blob, since when, and with its bytes if a test provides them.
struct MemoryIngest {
    digest: Digest,
    begun: SystemTime,
    partial: Option<Partial>,
}

#[derive(Default)]
struct Held {
    blobs: BTreeMap<Digest, Bytes>,
    tags: BTreeMap<String, Digest>,
    tags_set: BTreeMap<String, SystemTime>,
    fetched: BTreeMap<Digest, Fetched>,
    ingests: Vec<MemoryIngest>,
    scan_error: Option<String>,
    watched: bool,
    events: VecDeque<StoreEvent>,
    broken: Option<String>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store that opens content as files.
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            scans_paused: watch::Sender::new(false),
            scans_begun: watch::Sender::new(0),
            remote: false,
        }
    }

    /// An empty store that gives content without files, through [`Store::read`].
    pub fn remote() -> Self {
        Self { remote: true, ..Self::new() }
    }

    fn state(&self) -> MutexGuard<'_, Held> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, event: StoreEvent, act: impl FnOnce(&mut Held)) {
        let mut state = self.state();
        act(&mut state);
        if state.watched {
            state.events.push_back(event);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Commits content.
    pub fn add(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.add_as(digest.clone(), bytes);
        digest
    }

    /// Commits bytes under a digest that may not be theirs.
    pub fn add_as(&self, digest: Digest, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let event = StoreEvent::Added { digest: digest.clone(), size_bytes: bytes.len() as u64 };
        self.change(event, |state| _ = state.blobs.insert(digest, bytes));
    }

    /// Removes content, and the names that point to it.
    pub fn remove(&self, digest: &Digest) {
        let pointing: Vec<String> =
            self.state().tags.iter().filter(|(_, to)| *to == digest).map(|(name, _)| name.clone()).collect();
        pointing.iter().for_each(|name| self.untag(name));
        self.change(StoreEvent::Removed { digest: digest.clone() }, |state| _ = state.blobs.remove(digest));
    }

    /// Sets a name.
    pub fn tag(&self, name: &str, digest: &Digest) {
        self.tag_at(name, digest, Some(SystemTime::now()));
    }

    /// Sets a name at another time than now; `None`: the time is not recorded.
    pub fn tag_at(&self, name: &str, digest: &Digest, set_at: Option<SystemTime>) {
        let event = StoreEvent::Tagged { name: name.to_owned(), digest: digest.clone() };
        self.change(event, |state| {
            state.tags.insert(name.to_owned(), digest.clone());
            match set_at {
                Some(set_at) => _ = state.tags_set.insert(name.to_owned(), set_at),
                None => _ = state.tags_set.remove(name),
            }
        });
        self.change(StoreEvent::Sourced, |_| ());
    }

    /// Removes a name, and keeps its content.
    pub fn untag(&self, name: &str) {
        self.change(StoreEvent::Untagged { name: name.to_owned() }, |state| _ = state.tags.remove(name));
        self.change(StoreEvent::Sourced, |_| ());
    }

    /// Records that content was fetched from `registry/repository`.
    pub fn fetched(&self, digest: &Digest, name: &str) {
        self.change(StoreEvent::Sourced, |state| {
            let fetched = state.fetched.entry(digest.clone()).or_default();
            fetched.is_unrecorded = false;
            fetched.names.push(name.to_owned());
        });
    }

    /// Commits content whose source is about to be recorded, as a fetch leaves it.
    pub fn add_unrecorded(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let unrecorded = Fetched { names: Vec::new(), is_unrecorded: true };
        self.state().fetched.insert(digest.clone(), unrecorded);
        self.add_as(digest.clone(), bytes);
        digest
    }

    /// Adds an ingest without bytes, for [`Store::abort_ingests`] to find.
    pub fn add_ingest(&self, digest: &Digest) {
        self.add_ingest_begun(digest, SystemTime::now());
    }

    /// Adds an ingest without bytes that began at another time than now.
    pub fn add_ingest_begun(&self, digest: &Digest, begun: SystemTime) {
        self.state().ingests.push(MemoryIngest { digest: digest.clone(), begun, partial: None });
    }

    /// Adds an ingest of a blob of `total_bytes`, of which `data` has been written.
    pub fn add_partial(&self, digest: &Digest, total_bytes: u64, data: std::fs::File) {
        let (digest, partial) = (digest.clone(), Some((total_bytes, Arc::new(data))));
        self.state().ingests.push(MemoryIngest { digest, begun: SystemTime::now(), partial });
    }

    /// Number of ingests of `digest` that have not been aborted.
    pub fn ingests_of(&self, digest: &Digest) -> usize {
        self.state().ingests.iter().filter(|ingest| ingest.digest == *digest).count()
    }

    /// Makes every scan fail with this reason from now on; `None` ends that.
    pub fn fail_scans(&self, reason: Option<&str>) {
        self.state().scan_error = reason.map(str::to_owned);
    }

    /// Pauses scans: they look at the store when they begin, and then wait until this is called with `false`.
    pub fn pause_scans(&self, paused: bool) {
        self.scans_paused.send_replace(paused);
    }

    /// Waits until this many scans have begun since the store was created.
    pub async fn scans_begun(&self, count: u64) {
        let mut begun = self.scans_begun.subscribe();
        _ = begun.wait_for(|begun| *begun >= count).await;
    }

    /// Number of scans that have begun.
    pub fn scans(&self) -> u64 {
        *self.scans_begun.borrow()
    }

    /// Ends the running watch with this reason. Events that were not sent are lost.
    pub fn break_watch(&self, reason: &str) {
        let mut state = self.state();
        state.watched = false;
        state.broken = Some(reason.to_owned());
        state.events.clear();
        drop(state);
        self.changed.notify_one();
    }

    async fn scan_once(&self) -> Result<Scan, StoreError> {
        let (scan, error) = {
            let state = self.state();
            let content =
                state.blobs.iter().map(|(digest, bytes)| (digest.clone(), bytes.len() as u64)).collect();
            let present = state.tags.iter().filter(|(_, digest)| state.blobs.contains_key(digest));
            let tags = present.map(|(name, digest)| (name.clone(), digest.clone())).collect();
            (Scan { content, tags }, state.scan_error.clone())
        };
        self.scans_begun.send_modify(|count| *count += 1);
        let mut paused = self.scans_paused.subscribe();
        _ = paused.wait_for(|paused| !paused).await;
        error.map_or(Ok(scan), |words| Err(StoreError::failed("scan", StoreCause::Said { words })))
    }

    async fn watch_until_broken(&self, events: EventSender) -> StoreError {
        {
            let mut state = self.state();
            state.watched = true;
            state.broken = None;
            state.events.clear();
        }
        events.set().await;
        loop {
            let (event, broken) = {
                let mut state = self.state();
                (state.events.pop_front(), state.broken.take())
            };
            if let Some(words) = broken {
                return WatchLost::Notifications { words }.into();
            }
            let Some(event) = event else {
                self.changed.notified().await;
                continue;
            };
            events.changed(event).await;
        }
    }
}

impl Store for MemoryStore {
    fn name(&self) -> String {
        "memory".into()
    }

    fn open<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Content>, StoreError>> {
        let bytes = self.state().blobs.get(digest).cloned();
        let remote = self.remote;
        async move {
            let Some(bytes) = bytes else { return Ok(None) };
            let size_bytes = bytes.len() as u64;
            if remote {
                return Ok(Some(Content::Remote { size_bytes }));
            }
            let file = spool(&bytes).map_err(|error| StoreError::io("spool a blob", &error))?;
            Ok(Some(Content::File { file, size_bytes }))
        }
        .boxed()
    }

    fn read(
        &self,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let bytes = self.state().blobs.get(digest).cloned().unwrap_or_default();
        let end = (offset.saturating_add(length) as usize).min(bytes.len());
        let mut rest = bytes.slice((offset as usize).min(end)..end);
        let pieces = std::iter::from_fn(move || {
            let length = rest.len().min(MEMORY_STORE_PIECE_BYTES);
            (length > 0).then(|| Ok(rest.split_to(length)))
        });
        stream::iter(pieces).boxed()
    }

    fn tag<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Tag>, StoreError>> {
        let state = self.state();
        let digest = state.tags.get(name).filter(|digest| state.blobs.contains_key(digest));
        let tag =
            digest.map(|digest| Tag { digest: digest.clone(), set_at: state.tags_set.get(name).copied() });
        std::future::ready(Ok(tag)).boxed()
    }

    /// One source in each page, so that readers see several pages.
    fn sources(&self) -> BoxStream<'_, Result<Vec<Source>, StoreError>> {
        let mut sources = Vec::new();
        let state = self.state();
        for (digest, fetched) in &state.fetched {
            let names = fetched.names.iter();
            sources.extend(names.map(|name| Source::Fetched { digest: digest.clone(), name: name.clone() }));
            if fetched.is_unrecorded {
                sources.push(Source::Unrecorded { digest: digest.clone() });
            }
        }
        let images = state.tags.iter();
        sources.extend(
            images.map(|(name, target)| Source::Image { name: name.clone(), target: target.clone() }),
        );
        stream::iter(sources.into_iter().map(|source| Ok(vec![source]))).boxed()
    }

    fn fetched_from<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Fetched, StoreError>> {
        let fetched = self.state().fetched.get(digest).cloned().unwrap_or_default();
        std::future::ready(Ok(fetched)).boxed()
    }

    fn scan(&self) -> BoxFuture<'_, Result<Scan, StoreError>> {
        self.scan_once().boxed()
    }

    fn watch(&self) -> BoxStream<'_, Result<WatchEvent, StoreError>> {
        watch_stream(|events| self.watch_until_broken(events))
    }

    fn registry_host_folders(&self) -> BoxFuture<'_, Option<Vec<PathBuf>>> {
        std::future::ready(None).boxed()
    }

    fn ingests<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Vec<Ingest>, StoreError>> {
        let state = self.state();
        let ingests = state.ingests.iter().filter(|ingest| ingest.digest == *digest);
        let read = |(total_bytes, data): &Partial| Ingest {
            total_bytes: Some(*total_bytes),
            data: data.try_clone().ok(),
            is_shareable: true,
        };
        let found = ingests.map(|ingest| ingest.partial.as_ref().map(read).unwrap_or_default()).collect();
        std::future::ready(Ok(found)).boxed()
    }

    fn complete_ingests(&self) -> BoxFuture<'_, Result<Vec<(Digest, std::fs::File)>, StoreError>> {
        let state = self.state();
        let complete = state.ingests.iter().filter_map(|ingest| {
            let (total_bytes, data) = ingest.partial.as_ref()?;
            let is_complete = data.metadata().ok()?.len() == *total_bytes;
            Some((ingest.digest.clone(), data.try_clone().ok().filter(|_| is_complete)?))
        });
        let complete = complete.collect();
        std::future::ready(Ok(complete)).boxed()
    }

    fn abort_ingests<'a>(
        &'a self,
        digest: &'a Digest,
        begun_by: SystemTime,
    ) -> BoxFuture<'a, Result<usize, StoreError>> {
        let mut state = self.state();
        let before = state.ingests.len();
        state.ingests.retain(|ingest| ingest.digest != *digest || ingest.begun > begun_by);
        std::future::ready(Ok(before - state.ingests.len())).boxed()
    }
}

fn spool(bytes: &[u8]) -> std::io::Result<std::fs::File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::agent::content::store::conformance::{self, Subject};

    struct Memory(Arc<MemoryStore>);

    impl Subject for Memory {
        fn store(&self) -> Arc<dyn Store> {
            self.0.clone()
        }

        fn put<'a>(&'a self, bytes: &'a [u8]) -> BoxFuture<'a, Digest> {
            std::future::ready(self.0.add(bytes.to_vec())).boxed()
        }

        fn remove<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, ()> {
            self.0.remove(digest);
            std::future::ready(()).boxed()
        }

        fn tag<'a>(&'a self, name: &'a str, digest: &'a Digest) -> BoxFuture<'a, ()> {
            self.0.tag(name, digest);
            std::future::ready(()).boxed()
        }

        fn untag<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
            self.0.untag(name);
            std::future::ready(()).boxed()
        }

        fn fetched<'a>(&'a self, digest: &'a Digest, name: &'a str) -> BoxFuture<'a, bool> {
            self.0.fetched(digest, name);
            std::future::ready(true).boxed()
        }
    }

    #[tokio::test]
    async fn conforms_with_files() {
        conformance::run(&Memory(Arc::new(MemoryStore::new()))).await;
    }

    #[tokio::test]
    async fn conforms_with_remote_content() {
        conformance::run(&Memory(Arc::new(MemoryStore::remote()))).await;
    }

    #[tokio::test]
    async fn ingests_are_aborted_once_and_none_that_was_begun_later() {
        let store = MemoryStore::new();
        let digest = Digest::of(b"half");
        store.add_ingest(&digest);
        let then = SystemTime::now();
        store.add_ingest_begun(&digest, then + Duration::from_nanos(1));
        assert_eq!(store.abort_ingests(&digest, then).await.unwrap(), 1);
        assert_eq!(store.abort_ingests(&digest, then).await.unwrap(), 0);
        assert_eq!(store.ingests_of(&digest), 1);
    }
}
