//! The store of an OCI image layout folder (image spec, `image-layout.md`). It takes the place of containerd
//! where an air-gapped site is seeded from a disk.
//!
//! Content is every blob in the folder. Tags are the descriptors of `index.json` that have a full
//! `registry/repository:tag` in `org.opencontainers.image.ref.name` or, as `ctr images export` and `nerdctl
//! save` write it, in `io.containerd.image.name`. A bare tag (`skopeo copy … oci:dir:v1`) says nothing about
//! its registry: its content is shared by digest only, and a notice says so.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use super::folder::{BlobFolder, Change, Watching, poll_pause};
use super::ingest;
use super::name::ImageName;
use super::{
    Content, EventSender, Fetched, Ingest, Scan, Source, Store, StoreCause, StoreError, StoreEvent, Tag,
    WatchEvent, WatchLost, watch_stream,
};
use crate::agent::notices::{Notices, Topic};
use crate::limits::{MANIFEST_BYTES_MAX, NOTICE_EXAMPLES_MAX};
use crate::oci::Digest;
use crate::oci::index::Index;
use piccolo_raft::errors::chain;

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
/// Annotations that may hold a full name; the first one wins.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// The images of one layout folder.
#[derive(Debug)]
pub struct LayoutStore {
    folder: BlobFolder,
    /// Time between two looks; set where the file system does not notify.
    poll_interval: Option<Duration>,
    notices: Notices,
}

/// The names in `index.json`.
#[derive(Debug, Default)]
struct Named {
    /// Full names, whether or not their targets are present.
    tags: BTreeMap<String, Digest>,
    /// Names without a registry.
    bare: Vec<String>,
    /// Entries that cannot be read, each with the reason.
    odd: Vec<String>,
}

impl LayoutStore {
    /// The layout in `folder`, which may not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: BlobFolder::new(folder), poll_interval: None, notices: Notices::default() }
    }

    /// The same store, which sets `notices` about content that cannot be shared.
    #[must_use]
    pub(crate) fn noticing(mut self, notices: &Notices) -> Self {
        self.notices = notices.clone();
        self
    }

    /// A layout on a file system that does not notify (network file systems, for changes made elsewhere): it
    /// is looked at with this period.
    pub fn polled(folder: impl Into<PathBuf>, every: Duration) -> Self {
        Self { poll_interval: Some(every), ..Self::new(folder) }
    }

    async fn named(&self) -> Result<Named, StoreError> {
        let index = self.read(INDEX).await?;
        let index = Index::parse(&index).map_err(|error| {
            let (path, words) = (self.folder.root().join(INDEX), chain(&error));
            StoreError::failed("read an image layout", StoreCause::Unreadable { path, words })
        })?;
        let mut named = Named { odd: index.skipped, ..Named::default() };
        for descriptor in index.manifests {
            let annotated = || NAME_ANNOTATIONS.iter().filter_map(|key| descriptor.annotations.get(*key));
            match annotated().find_map(|name| ImageName::parse(name).tag()) {
                Some(name) => _ = named.tags.insert(name.to_owned(), descriptor.digest.clone()),
                // A pinned name claims no tag; its content is asked for by digest.
                None => named.bare.extend(
                    annotated().next().filter(|name| ImageName::parse(name) == ImageName::Other).cloned(),
                ),
            }
        }
        Ok(named)
    }

    /// Full names in `index.json`, whether or not their targets are present.
    async fn names(&self) -> Result<BTreeMap<String, Digest>, StoreError> {
        Ok(self.named().await?.tags)
    }

    /// Sets notices about names and entries that are of no use, with what to do about them.
    fn notice(&self, named: &Named) {
        let index = self.folder.root().join(INDEX);
        let (index, root) = (index.display(), self.folder.root().display());
        let say = |subject: &str, things: &[String], text: &dyn Fn(String) -> String| {
            let subject = format!("{subject} in {index}");
            if things.is_empty() {
                return self.notices.clear(Topic::Store, &subject);
            }
            let more = things.len().saturating_sub(NOTICE_EXAMPLES_MAX);
            let examples = things[..things.len() - more].join("; ");
            let list = if more > 0 { format!("{examples}; and {more} more") } else { examples };
            self.notices.set(Topic::Store, &subject, text(list));
        };
        let bare: Vec<String> = named.bare.iter().map(|name| format!("{name:?}")).collect();
        say("names", &bare, &|list| {
            format!(
                "{index} has names without a registry, so that nobody can pull them by tag: {list}. Their content \
                 is shared by digest. Copy them with their full names, as in skopeo copy … \
                 oci:{root}:registry.example/app:v1"
            )
        });
        say("entries", &named.odd, &|list| {
            format!("{index} has entries that cannot be read, and are skipped: {list}")
        });
    }

    async fn read(&self, file: &'static str) -> Result<Vec<u8>, StoreError> {
        let path = self.folder.root().join(file);
        let failed = |error: std::io::Error| StoreError::Unreachable {
            store: self.name(),
            cause: StoreCause::Unreadable { path: path.clone(), words: error.to_string() },
        };
        let size_bytes = tokio::fs::metadata(&path).await.map_err(failed)?.len();
        if size_bytes > MANIFEST_BYTES_MAX {
            let cause = StoreCause::TooLarge { path, size_bytes, limit_bytes: MANIFEST_BYTES_MAX };
            return Err(StoreError::failed("read an image layout", cause));
        }
        tokio::fs::read(&path).await.map_err(failed)
    }

    /// Reads the whole layout. A folder without its marker is not a layout yet, which is an error and no
    /// empty scan (I3).
    async fn look(&self) -> Result<Scan, StoreError> {
        self.read(MARKER).await?;
        let named = self.named().await?;
        self.notice(&named);
        let content = self.folder.list().await?;
        let tags = named.tags.into_iter().filter(|(_, digest)| content.contains_key(digest)).collect();
        Ok(Scan { content, tags })
    }

    async fn watch_until_lost(&self, events: EventSender) -> StoreError {
        let mut watching = None;
        if self.poll_interval.is_none() {
            watching = Some(Watching::set(&self.folder, &self.notices));
        }
        // Before there is a layout, nothing of it counts as seen.
        let begun = Instant::now();
        let seen = self.look().await.ok();
        let mut cost = begun.elapsed();
        events.set().await;
        let mut following = Following { store: self, seen, events };
        loop {
            let followed = match &mut watching {
                Some(watching) if watching.is_set() => match watching.next().await {
                    Change::Blob(digest) => following.blob(digest).await,
                    Change::RootFile(_) | Change::FolderMade => following.all().await,
                    Change::Lost(lost) => Err(lost.into()),
                },
                unwatched => {
                    tokio::time::sleep(self.poll_interval.unwrap_or(poll_pause(cost))).await;
                    let due = |watching: &&mut Watching| {
                        watching.again_at().is_some_and(|again_at| again_at <= Instant::now())
                    };
                    if let Some(watching) = unwatched.as_mut().filter(due) {
                        watching.try_to_set();
                    }
                    let begun = Instant::now();
                    let followed = following.all().await;
                    cost = begun.elapsed();
                    followed
                }
            };
            if let Err(error) = followed {
                return error;
            }
        }
    }
}

/// What a watch has reported so far.
struct Following<'a> {
    store: &'a LayoutStore,
    seen: Option<Scan>,
    events: EventSender,
}

impl Following<'_> {
    /// Handles a blob that was created or removed.
    async fn blob(&mut self, digest: Digest) -> Result<(), StoreError> {
        let Some(seen) = &mut self.seen else { return self.all().await };
        match self.store.folder.size_bytes(&digest).await? {
            Some(size_bytes) if seen.content.insert(digest.clone(), size_bytes) != Some(size_bytes) => {
                self.events.changed(StoreEvent::Added { digest, size_bytes }).await;
                self.tags().await; // index.json may have named the blob before it was present
            }
            None if seen.content.remove(&digest).is_some() => {
                self.events.changed(StoreEvent::Removed { digest }).await;
                self.tags().await;
            }
            _ => {}
        }
        Ok(())
    }

    /// Reports names whose target has become present or absent.
    async fn tags(&mut self) {
        let (Some(seen), Ok(named)) = (&mut self.seen, self.store.named().await) else { return };
        self.store.notice(&named);
        let tags = named.tags.into_iter().filter(|(_, digest)| seen.content.contains_key(digest)).collect();
        let events = difference_of_tags(&std::mem::replace(&mut seen.tags, tags), &seen.tags);
        for event in events {
            self.events.changed(event).await;
        }
    }

    /// Looks at everything and reports the differences. An index that cannot be read (half written) changes
    /// nothing: its next write is noticed as well.
    async fn all(&mut self) -> Result<(), StoreError> {
        let now = match self.store.look().await {
            Ok(now) => now,
            Err(error) => {
                tracing::debug!(error = chain(&error), "the layout cannot be read now");
                return Ok(());
            }
        };
        let Some(before) = self.seen.replace(now.clone()) else {
            return Err(WatchLost::BecameComplete.into());
        };
        for event in difference(&before, &now) {
            self.events.changed(event).await;
        }
        Ok(())
    }
}

/// The events that lead from one scan to another.
fn difference(before: &Scan, now: &Scan) -> Vec<StoreEvent> {
    let removed = before.content.keys().filter(|digest| !now.content.contains_key(*digest));
    let added = now.content.iter().filter(|(digest, size)| before.content.get(*digest) != Some(*size));
    removed
        .map(|digest| StoreEvent::Removed { digest: digest.clone() })
        .chain(added.map(|(digest, size)| StoreEvent::Added { digest: digest.clone(), size_bytes: *size }))
        .chain(difference_of_tags(&before.tags, &now.tags))
        .collect()
}

fn difference_of_tags(before: &BTreeMap<String, Digest>, now: &BTreeMap<String, Digest>) -> Vec<StoreEvent> {
    let untagged = before.keys().filter(|name| !now.contains_key(*name));
    let tagged = now.iter().filter(|(name, digest)| before.get(*name) != Some(*digest));
    let mut events: Vec<StoreEvent> = untagged
        .map(|name| StoreEvent::Untagged { name: name.clone() })
        .chain(tagged.map(|(name, digest)| StoreEvent::Tagged { name: name.clone(), digest: digest.clone() }))
        .collect();
    if !events.is_empty() {
        events.push(StoreEvent::Sourced);
    }
    events
}

impl Store for LayoutStore {
    fn name(&self) -> String {
        format!("image layout {}", self.folder.root().display())
    }

    fn open<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Content>, StoreError>> {
        async move {
            let opened = self.folder.open(digest).await;
            let opened = opened.map_err(|error| StoreError::io("open a blob", &error))?;
            Ok(opened.map(|(file, size_bytes)| Content::File { file, size_bytes }))
        }
        .boxed()
    }

    /// Reads nothing: all content of a layout is files.
    fn read(&self, _: &Digest, _: u64, _: u64) -> BoxStream<'static, Result<Bytes, StoreError>> {
        stream::empty().boxed()
    }

    /// A tag counts as set when its manifest arrived in this folder. `index.json` is also rewritten for other
    /// images, and annotations say when an image was built.
    fn tag<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Tag>, StoreError>> {
        async move {
            let Some(digest) = self.names().await?.remove(name) else { return Ok(None) };
            let arrived = self.folder.arrived(&digest).await?;
            Ok(arrived.map(|arrived| Tag { digest, set_at: Some(arrived) }))
        }
        .boxed()
    }

    fn sources(&self) -> BoxStream<'_, Result<Vec<Source>, StoreError>> {
        let images = async {
            let names = self.names().await?.into_iter();
            Ok(names.map(|(name, target)| Source::Image { name, target }).collect())
        };
        stream::once(images).boxed()
    }

    /// A layout records nothing about single blobs: only its names say where content is from.
    fn fetched_from<'a>(&'a self, _digest: &'a Digest) -> BoxFuture<'a, Result<Fetched, StoreError>> {
        std::future::ready(Ok(Fetched::default())).boxed()
    }

    fn scan(&self) -> BoxFuture<'_, Result<Scan, StoreError>> {
        self.look().boxed()
    }

    fn watch(&self) -> BoxStream<'_, Result<WatchEvent, StoreError>> {
        watch_stream(|events| self.watch_until_lost(events))
    }

    fn registry_host_folders(&self) -> BoxFuture<'_, Option<Vec<PathBuf>>> {
        std::future::ready(None).boxed()
    }

    /// A layout that other programs write to with containerd's library has ingests beside its blobs.
    fn ingests<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Vec<Ingest>, StoreError>> {
        ingest::find(self.folder.root(), digest, None).boxed()
    }

    fn complete_ingests(&self) -> BoxFuture<'_, Result<Vec<(Digest, File)>, StoreError>> {
        ingest::complete(self.folder.root()).boxed()
    }

    /// Aborts nothing: nobody pulls into a layout through a mirror.
    fn abort_ingests<'a>(
        &'a self,
        _digest: &'a Digest,
        _begun_by: SystemTime,
    ) -> BoxFuture<'a, Result<usize, StoreError>> {
        std::future::ready(Ok(0)).boxed()
    }
}

#[cfg(test)]
mod tests;
