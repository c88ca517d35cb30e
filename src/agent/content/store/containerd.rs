//! The store of a containerd daemon, 1.6 and later. Names, events and the content of a namespace come over
//! gRPC; bytes come from containerd's blob folder where this process can read it, else over gRPC as well.
//!
//! The blob folder has no namespaces: it also holds content of other tenants and builds of other tools.
//! Content is therefore only reported or opened after containerd has confirmed that the configured namespace
//! knows it.

mod byte_access;
mod client;
mod content_age;
mod cri;
mod source_labels;
mod unshareable;
mod watch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, stream};

use super::folder::BlobFolder;
use super::ingest;
use super::name::ImageName;
use super::{
    Content, Fetched, Ingest, Scan, Source, Store, StoreCause, StoreError, Tag, WatchEvent, watch_stream,
};
use crate::agent::notices::Notices;
use crate::oci::Digest;
use byte_access::View;
use client::{Client, Image};
use cri::Cri;

/// The images of one namespace of one containerd.
#[derive(Debug)]
pub struct ContainerdStore {
    client: Client,
    cri: Cri,
    /// Content folder from the configuration, which overrides what containerd says.
    content_path: Option<PathBuf>,
    /// Where bytes are read, as the last look found it; `None` before the first look.
    view: Mutex<Option<View>>,
    /// A folder that turned out not to be containerd's. It stays wrong until it is seen to hold containerd's
    /// content.
    wrong_folder: Mutex<Option<BlobFolder>>,
    /// Time between two looks at the namespace; set where file notifications are not wanted.
    poll_interval: Option<Duration>,
    notices: Notices,
}

impl ContainerdStore {
    /// The images of `namespace` at the daemon behind `socket`, which may not exist yet. Without
    /// `content_path` the daemon is asked for its content folder. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If `namespace` is not a valid name.
    pub fn new(socket: &Path, namespace: &str, content_path: Option<PathBuf>) -> Result<Self, StoreError> {
        let client = Client::new(socket, namespace)?;
        Ok(Self {
            client,
            cri: Cri::new(socket),
            content_path,
            view: Mutex::default(),
            wrong_folder: Mutex::default(),
            poll_interval: None,
            notices: Notices::default(),
        })
    }

    /// The same store without file notifications: it asks containerd with this period.
    #[must_use]
    pub fn polled(mut self, every: Duration) -> Self {
        self.poll_interval = Some(every);
        self
    }

    /// The same store, which sets `notices` about content that this node has and cannot share.
    #[must_use]
    pub(crate) fn noticing(mut self, notices: &Notices) -> Self {
        self.notices = notices.clone();
        self
    }

    async fn scan_all(&self) -> Result<Scan, StoreError> {
        let (_, content) = self.look().await?;
        let images = self.client.list_images().await?;
        let (total, mut skipped) = (images.len(), 0);
        let mut tags = BTreeMap::new();
        for image in images {
            let (name, target) = (ImageName::parse(&image.name), image.target.parse::<Digest>());
            match (name, target) {
                (ImageName::Tag(name), Ok(target)) => {
                    if content.contains_key(&target) {
                        tags.insert(name.to_owned(), target);
                    }
                }
                (ImageName::Pinned, Ok(_)) => {}
                _ => skipped += 1,
            }
        }
        tracing::debug!(
            images = total,
            skipped,
            tags = tags.len(),
            blobs = content.len(),
            "scanned containerd"
        );
        Ok(Scan { content, tags })
    }

    async fn open_known(&self, digest: &Digest) -> Result<Option<Content>, StoreError> {
        let Some(size_bytes) = self.client.info(digest).await? else { return Ok(None) };
        let folder = match self.view().await? {
            View::Folder(folder) => folder,
            View::Remote => return Ok(Some(Content::Remote { size_bytes })),
        };
        let opened = match folder.open(digest).await {
            // This process may not read this one file.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::debug!(%error, "reading a blob over gRPC");
                return Ok(Some(Content::Remote { size_bytes }));
            }
            opened => opened.map_err(|error| StoreError::io("open a blob", &error))?,
        };
        match opened {
            Some((file, length)) if length == size_bytes => Ok(Some(Content::File { file, size_bytes })),
            Some((_, file_bytes)) => {
                let cause = StoreCause::SizeMismatch { file_bytes, known_bytes: size_bytes };
                Err(StoreError::failed("open a blob", cause))
            }
            None => Ok(None),
        }
    }

    /// The target of a name, if it is present.
    async fn target(&self, name: &str) -> Result<Option<Tag>, StoreError> {
        let Some(image) = self.client.image(name).await? else { return Ok(None) };
        let Ok(digest) = image.target.parse::<Digest>() else { return Ok(None) };
        if self.client.info(&digest).await?.is_none() {
            return Ok(None);
        }
        let present = match self.view().await? {
            View::Folder(folder) => folder.size_bytes(&digest).await?.is_some(),
            View::Remote => true,
        };
        Ok(present.then_some(Tag { digest, set_at: image.updated }))
    }

    async fn image_sources(&self) -> Result<Vec<Source>, StoreError> {
        let images = self.client.list_images().await?.into_iter();
        let source =
            |image: Image| Some(Source::Image { target: image.target.parse().ok()?, name: image.name });
        Ok(images.filter_map(source).collect())
    }

    async fn all_ingests(&self, digest: &Digest) -> Result<Vec<Ingest>, StoreError> {
        if let View::Folder(folder) = self.view().await? {
            return ingest::find(folder.root(), digest, Some(self.client.namespace())).await;
        }
        let ingests = self.client.ingests().await?.into_iter();
        let ingests = ingests.filter(|ingest| ingest.name.ends_with(digest.as_str()));
        let unseen = |total_bytes| Ingest { total_bytes, data: None, is_shareable: false };
        Ok(ingests.map(|ingest| unseen(ingest.total_bytes)).collect())
    }

    async fn all_complete_ingests(&self) -> Result<Vec<(Digest, File)>, StoreError> {
        match self.view().await? {
            View::Folder(folder) => ingest::complete(folder.root()).await,
            View::Remote => Ok(Vec::new()),
        }
    }

    async fn abort_all(&self, digest: &Digest, begun_by: SystemTime) -> Result<usize, StoreError> {
        let mut aborted = 0;
        for ingest in self.client.ingests().await? {
            // The reference is `layer-sha256:<hex>`, `manifest-sha256:<hex>`, or the digest alone.
            let is_of_digest = ingest.name.ends_with(digest.as_str());
            if is_of_digest
                && ingest::begun_by(ingest.begun, begun_by, SystemTime::now())
                && self.client.abort(&ingest.name).await?
            {
                aborted += 1;
            }
        }
        Ok(aborted)
    }
}

impl Store for ContainerdStore {
    fn name(&self) -> String {
        format!("containerd {}", self.client.socket().display())
    }

    fn open<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Content>, StoreError>> {
        self.open_known(digest).boxed()
    }

    fn read(
        &self,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> BoxStream<'static, Result<Bytes, StoreError>> {
        if length == 0 {
            return stream::empty().boxed(); // containerd reads 0 as "to the end"
        }
        self.client.read(digest, offset, length)
    }

    fn tag<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Tag>, StoreError>> {
        self.target(name).boxed()
    }

    fn sources(&self) -> BoxStream<'_, Result<Vec<Source>, StoreError>> {
        self.client.list_fetched().chain(stream::once(self.image_sources())).boxed()
    }

    fn fetched_from<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Fetched, StoreError>> {
        self.client.fetched_from(digest).boxed()
    }

    fn scan(&self) -> BoxFuture<'_, Result<Scan, StoreError>> {
        self.scan_all().boxed()
    }

    fn watch(&self) -> BoxStream<'_, Result<WatchEvent, StoreError>> {
        watch_stream(|events| async {
            match watch::run(self, events).await {
                Ok(never) => match never {},
                Err(error) => error,
            }
        })
    }

    fn registry_host_folders(&self) -> BoxFuture<'_, Option<Vec<PathBuf>>> {
        self.cri.config_path().boxed()
    }

    fn ingests<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Vec<Ingest>, StoreError>> {
        self.all_ingests(digest).boxed()
    }

    fn complete_ingests(&self) -> BoxFuture<'_, Result<Vec<(Digest, File)>, StoreError>> {
        self.all_complete_ingests().boxed()
    }

    fn abort_ingests<'a>(
        &'a self,
        digest: &'a Digest,
        begun_by: SystemTime,
    ) -> BoxFuture<'a, Result<usize, StoreError>> {
        self.abort_all(digest, begun_by).boxed()
    }
}
