//! A store that shows only content which policy does not hold back. Mirror, blob server and inventory all
//! read through it, so that content that is held back does not exist for them.
//!
//! The store is asked for the sources of content: its record of the fetch, and the images that the content is
//! part of. The mirror knows what it was asked for. If no registry keeps anything back, this store is not
//! used, and nothing of this is asked or kept.

mod full_scan;
mod watch;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};

use super::Policies;
use super::manifest_sniff::file_may_be_manifest;
use super::restriction::{Key, Restriction};
use crate::agent::content::store::{
    Content, Fetched, Ingest, Scan, Source, Store, StoreError, Tag, WatchEvent, watch_stream,
};
use crate::limits::{
    CONTENT_BEGINNING_BYTES, FLIGHT_MANIFEST_BYTES_MAX, MANIFEST_BYTES_MAX, SOURCE_ASK_AGAIN,
};
use crate::oci::{Digest, media_type};
use full_scan::FullScan;

/// `store` as `policies` allow it to be seen.
pub(crate) fn guarded(store: Arc<dyn Store>, policies: &Arc<Policies>) -> Arc<dyn Store> {
    if !policies.restricts() {
        return store;
    }
    Arc::new(GuardedStore::new(store, Arc::clone(policies)))
}

struct GuardedStore {
    inner: Arc<dyn Store>,
    policies: Arc<Policies>,
    known: Mutex<Known>,
    /// Lock that allows one full scan at a time.
    scan_lock: tokio::sync::Mutex<()>,
}

/// Results of the last full scan.
#[derive(Default)]
struct Known {
    /// Whether there was a full scan. Before the first one nothing is given.
    scanned: bool,
    /// Content with a restriction. If content without a name is restricted, also all content that has a name.
    marks: HashMap<Key, Mark>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    restriction: Restriction,
    /// Whether it is a manifest; found out once, because content never changes.
    is_manifest: Option<bool>,
    /// Whether it must not be given, as the other two fields decide.
    withheld: bool,
}

/// Whether content may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Given,
    Withheld,
    /// The source of the content is not recorded yet.
    Unsettled,
}

impl GuardedStore {
    fn new(inner: Arc<dyn Store>, policies: Arc<Policies>) -> Self {
        Self { inner, policies, known: Mutex::default(), scan_lock: tokio::sync::Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Replaced as a whole, or changed in one flag: a panic cannot leave it half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, digest: &Digest) -> Option<Mark> {
        self.known().marks.get(&Key::of(digest)).copied()
    }

    /// Whether `digest` may be given now, by the last full scan, by the store's record of its fetch, and by
    /// requests at the mirror.
    async fn access(&self, digest: &Digest) -> Result<Access, StoreError> {
        let mark = self.mark(digest);
        let mut restriction = mark.map(|mark| mark.restriction).unwrap_or_default();
        restriction |= self.policies.of_asked(digest);
        let fetched = self.inner.fetched_from(digest).await?;
        for name in &fetched.names {
            restriction |= self.policies.of_name(name);
        }
        if mark.is_none() && fetched.names.is_empty() {
            if fetched.is_unrecorded {
                return Ok(Access::Unsettled);
            }
            restriction |= self.policies.of_nameless();
        }
        let is_manifest = if restriction.is_partial() { self.is_manifest(digest).await? } else { None };
        Ok(if restriction.forbids(is_manifest) { Access::Withheld } else { Access::Given })
    }

    /// Whether content may be a manifest or index; `None` if it is not present.
    async fn is_manifest(&self, digest: &Digest) -> Result<Option<bool>, StoreError> {
        if let Some(known) = self.mark(digest).and_then(|mark| mark.is_manifest) {
            return Ok(Some(known));
        }
        let Some(content) = self.inner.open(digest).await? else { return Ok(None) };
        let size_bytes = content.size_bytes();
        let is_manifest = match content {
            _ if size_bytes > MANIFEST_BYTES_MAX => false,
            Content::File { file, .. } => file_may_be_manifest(Arc::new(file), size_bytes)
                .await
                .map_err(|error| StoreError::io("look what content is", &error))?,
            Content::Remote { .. } => {
                let beginning = self.read_remote(digest, size_bytes.min(CONTENT_BEGINNING_BYTES)).await?;
                media_type::may_begin_manifest(&beginning)
                    && media_type::may_be_manifest(&self.read_remote(digest, size_bytes).await?)
            }
        };
        if let Some(mark) = self.known().marks.get_mut(&Key::of(digest)) {
            mark.is_manifest = Some(is_manifest);
        }
        Ok(Some(is_manifest))
    }

    /// Whether content may be given. Waits until its source is known, or until it is known that there is no
    /// record.
    async fn settled(&self, digest: &Digest) -> Result<Access, StoreError> {
        loop {
            match self.access(digest).await? {
                Access::Unsettled => tokio::time::sleep(SOURCE_ASK_AGAIN).await,
                access => return Ok(access),
            }
        }
    }

    async fn open_if_given(&self, digest: &Digest) -> Result<Option<Content>, StoreError> {
        if !self.known().scanned {
            let _one_at_a_time = self.scan_lock.lock().await;
            if !self.known().scanned {
                self.full_scan().await?;
            }
        }
        let access = self.access(digest).await?;
        if access == Access::Given {
            return self.inner.open(digest).await;
        }
        tracing::debug!(%digest, ?access, "policy holds this content back");
        Ok(None)
    }

    /// Reads all of some content that is no larger than a manifest.
    async fn read_whole(&self, digest: &Digest, content: Content) -> Result<Vec<u8>, StoreError> {
        let failed = |error: std::io::Error| StoreError::io("read a manifest", &error);
        match content {
            Content::File { file, size_bytes } => {
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; usize::try_from(size_bytes).expect("a manifest's size fits")];
                    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).map(|()| bytes)
                });
                read.await.map_err(std::io::Error::other).and_then(|read| read).map_err(failed)
            }
            Content::Remote { size_bytes } => self.read_remote(digest, size_bytes).await,
        }
    }

    /// Reads the first `length` bytes of content that has no file here.
    async fn read_remote(&self, digest: &Digest, length: u64) -> Result<Vec<u8>, StoreError> {
        let mut pieces = self.inner.read(digest, 0, length);
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
        }
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        Err(StoreError::io("read a manifest", &std::io::ErrorKind::UnexpectedEof.into()))
    }
}

impl Store for GuardedStore {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn open<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Content>, StoreError>> {
        self.open_if_given(digest).boxed()
    }

    /// Not checked again: the caller has opened the content here, and content that is held back is not
    /// opened.
    fn read(
        &self,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> BoxStream<'static, Result<Bytes, StoreError>> {
        self.inner.read(digest, offset, length)
    }

    /// A name may be visible whose content is held back: opening that content then finds nothing.
    fn tag<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Tag>, StoreError>> {
        self.inner.tag(name)
    }

    fn sources(&self) -> BoxStream<'_, Result<Vec<Source>, StoreError>> {
        self.inner.sources()
    }

    fn fetched_from<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Fetched, StoreError>> {
        self.inner.fetched_from(digest)
    }

    fn scan(&self) -> BoxFuture<'_, Result<Scan, StoreError>> {
        async move {
            let _one_at_a_time = self.scan_lock.lock().await;
            let FullScan { mut given, unsettled, .. } = self.full_scan().await?;
            for (digest, size_bytes) in unsettled {
                if self.settled(&digest).await? == Access::Given {
                    given.content.insert(digest, size_bytes);
                }
            }
            Ok(given)
        }
        .boxed()
    }

    fn watch(&self) -> BoxStream<'_, Result<WatchEvent, StoreError>> {
        watch_stream(|events| self.watch_given(events))
    }

    fn registry_host_folders(&self) -> BoxFuture<'_, Option<Vec<PathBuf>>> {
        self.inner.registry_host_folders()
    }

    /// Those of content that another image holds back are not shared while they arrive either.
    fn ingests<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Vec<Ingest>, StoreError>> {
        async move {
            let mut restriction = self.mark(digest).map(|mark| mark.restriction).unwrap_or_default();
            restriction |= self.policies.of_asked(digest);
            let mut ingests = self.inner.ingests(digest).await?;
            for ingest in &mut ingests {
                let may_be_manifest =
                    ingest.total_bytes.is_none_or(|total| total <= FLIGHT_MANIFEST_BYTES_MAX);
                let is_withheld = restriction.blobs || restriction.manifests && may_be_manifest;
                ingest.is_shareable &= !is_withheld;
            }
            Ok(ingests)
        }
        .boxed()
    }

    fn complete_ingests(&self) -> BoxFuture<'_, Result<Vec<(Digest, File)>, StoreError>> {
        self.inner.complete_ingests()
    }

    fn abort_ingests<'a>(
        &'a self,
        digest: &'a Digest,
        begun_by: SystemTime,
    ) -> BoxFuture<'a, Result<usize, StoreError>> {
        self.inner.abort_ingests(digest, begun_by)
    }
}
