//! An OCI image layout folder (image spec, `image-layout.md`) in place of containerd: it seeds an
//! air-gapped site from a disk.
//!
//! Content is every blob in the folder. Tags are the descriptors of `index.json` that carry a full
//! `registry/repository:tag` in `org.opencontainers.image.ref.name` or, as `ctr images export` and
//! `nerdctl save` write it, in `io.containerd.image.name`. A bare tag (`skopeo copy … oci:dir:v1`)
//! says nothing about its registry, and is skipped.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::folder::{BlobFolder, Change, FolderWatch};
use super::ingest;
use super::name::ImageName;
use super::{Content, Fetched, Ingest, Scan, Source, Store, StoreError, StoreEvent};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::oci::Digest;
use crate::oci::index::Index;

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
/// Annotations that may hold a full name, the first wins.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Time between two looks where the system refuses to notify.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct LayoutStore {
    folder: BlobFolder,
    /// Between two looks, where nothing notifies.
    poll_interval: Option<Duration>,
}

impl LayoutStore {
    /// A layout that may not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: BlobFolder::new(folder), poll_interval: None }
    }

    /// A layout on a file system that does not notify (network file systems, for changes made
    /// elsewhere): it is looked at `every` so often.
    pub fn polled(folder: impl Into<PathBuf>, every: Duration) -> Self {
        Self { folder: BlobFolder::new(folder), poll_interval: Some(every) }
    }

    /// Names in `index.json`, whether or not their targets are present.
    async fn names(&self) -> Result<BTreeMap<String, Digest>, StoreError> {
        let index = self.read(INDEX).await?;
        let index = Index::parse(&index)
            .map_err(|error| StoreError::Failed { action: "read index.json", reason: error.to_string() })?;
        let mut names = BTreeMap::new();
        for descriptor in index.manifests {
            let annotated = NAME_ANNOTATIONS.iter().filter_map(|key| descriptor.annotations.get(*key));
            match annotated.filter_map(|name| ImageName::parse(name).tag()).next() {
                Some(name) => _ = names.insert(name.to_owned(), descriptor.digest.clone()),
                None => tracing::debug!(digest = %descriptor.digest, "no full name in index.json"),
            }
        }
        Ok(names)
    }

    async fn read(&self, file: &'static str) -> Result<Vec<u8>, StoreError> {
        let path = self.folder.root().join(file);
        let failed = |error: std::io::Error| StoreError::Unreachable {
            store: self.name(),
            reason: format!("could not read {file}: {error}"),
        };
        let size_bytes = tokio::fs::metadata(&path).await.map_err(failed)?.len();
        if size_bytes > MANIFEST_BYTES_MAX {
            let reason = format!("{file} has {size_bytes} bytes, the limit is {MANIFEST_BYTES_MAX}");
            return Err(StoreError::Failed { action: "read an image layout", reason });
        }
        tokio::fs::read(&path).await.map_err(failed)
    }

    /// A folder without its marker is not a layout yet: that is no empty scan (I3).
    async fn look(&self) -> Result<Scan, StoreError> {
        self.read(MARKER).await?;
        let names = self.names().await?;
        let content = self.folder.list().await?;
        let tags = names.into_iter().filter(|(_, digest)| content.contains_key(digest)).collect();
        Ok(Scan { content, tags })
    }

    async fn watch_until_lost(
        &self,
        events: mpsc::Sender<StoreEvent>,
        ready: oneshot::Sender<()>,
    ) -> StoreError {
        let mut watch = None;
        if self.poll_interval.is_none() {
            watch = FolderWatch::set(&self.folder)
                .inspect_err(|error| {
                    tracing::warn!(%error, store = self.name(), "could not watch, looking every few seconds");
                })
                .ok();
        }
        // Before there is a layout, nothing of it has been seen.
        let seen = self.look().await.ok();
        _ = ready.send(());
        let mut following = Following { store: self, seen, events };
        loop {
            let followed = match &mut watch {
                Some(watch) => match watch.next().await {
                    Change::Blob(digest) => following.blob(digest).await,
                    Change::RootFile(_) | Change::FolderMade => following.all().await,
                    Change::Lost(reason) => Err(StoreError::Failed { action: "go on watching", reason }),
                },
                None => {
                    tokio::time::sleep(self.poll_interval.unwrap_or(POLL_INTERVAL)).await;
                    following.all().await
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
    events: mpsc::Sender<StoreEvent>,
}

impl Following<'_> {
    /// One blob came or went.
    async fn blob(&mut self, digest: Digest) -> Result<(), StoreError> {
        let Some(seen) = &mut self.seen else { return self.all().await };
        match self.store.folder.size_bytes(&digest).await? {
            Some(size_bytes) if seen.content.insert(digest.clone(), size_bytes) != Some(size_bytes) => {
                self.send(StoreEvent::Added { digest, size_bytes }).await?;
                self.tags().await // index.json may have named it before it was there
            }
            None if seen.content.remove(&digest).is_some() => {
                self.send(StoreEvent::Removed { digest }).await?;
                self.tags().await
            }
            _ => Ok(()),
        }
    }

    /// Which names have their target present may have changed.
    async fn tags(&mut self) -> Result<(), StoreError> {
        let (Some(seen), Ok(names)) = (&mut self.seen, self.store.names().await) else { return Ok(()) };
        let tags = names.into_iter().filter(|(_, digest)| seen.content.contains_key(digest)).collect();
        let events = difference_of_tags(&std::mem::replace(&mut seen.tags, tags), &seen.tags);
        for event in events {
            self.send(event).await?;
        }
        Ok(())
    }

    /// Looks at everything and reports what differs. An index that cannot be read (half written)
    /// changes nothing: its next write is noticed too.
    async fn all(&mut self) -> Result<(), StoreError> {
        let now = match self.store.look().await {
            Ok(now) => now,
            Err(error) => {
                tracing::debug!(%error, "the layout cannot be read now");
                return Ok(());
            }
        };
        let Some(before) = self.seen.replace(now.clone()) else {
            let reason = "it is a complete image layout now".into();
            return Err(StoreError::Failed { action: "go on watching", reason });
        };
        for event in difference(&before, &now) {
            self.send(event).await?;
        }
        Ok(())
    }

    async fn send(&self, event: StoreEvent) -> Result<(), StoreError> {
        let nobody = |_| StoreError::Failed { action: "go on watching", reason: "nobody listens".into() };
        self.events.send(event).await.map_err(nobody)
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
            let opened = self.folder.open(digest).await?;
            Ok(opened.map(|(file, size_bytes)| Content::File { file, size_bytes }))
        }
        .boxed()
    }

    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Digest>, StoreError>> {
        async move {
            let Some(digest) = self.names().await?.remove(name) else { return Ok(None) };
            Ok(self.folder.size_bytes(&digest).await?.map(|_| digest))
        }
        .boxed()
    }

    fn sources<'a>(
        &'a self,
        tell: &'a mut (dyn FnMut(Source<'_>) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let names = self.names().await?;
            names.iter().for_each(|(name, target)| tell(Source::Image { name, target }));
            Ok(())
        }
        .boxed()
    }

    /// A layout says nothing about single blobs: only its names do.
    fn fetched_from<'a>(&'a self, _digest: &'a Digest) -> BoxFuture<'a, Result<Fetched, StoreError>> {
        std::future::ready(Ok(Fetched::default())).boxed()
    }

    fn scan(&self) -> BoxFuture<'_, Result<Scan, StoreError>> {
        self.look().boxed()
    }

    fn watch<'a>(
        &'a self,
        events: mpsc::Sender<StoreEvent>,
        ready: oneshot::Sender<()>,
    ) -> BoxFuture<'a, StoreError> {
        self.watch_until_lost(events, ready).boxed()
    }

    /// A layout that others write to with containerd's own library has them beside its blobs.
    fn ingests<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Vec<Ingest>, StoreError>> {
        ingest::find(self.folder.root(), digest).boxed()
    }

    fn complete_ingests(&self) -> BoxFuture<'_, Result<Vec<(Digest, File)>, StoreError>> {
        ingest::complete(self.folder.root()).boxed()
    }

    /// Nothing of ours is ever half there: nobody pulls into a layout through a mirror.
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
