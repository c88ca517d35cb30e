//! The store of a node's images. A trait with three implementations: `containerd`, `layout` (any OCI image
//! layout folder) and `memory` (tests); `conformance` runs on all of them.
//!
//! The trait is a border between processes: a call is plain data, and its answer is plain data with open
//! files, or a stream of such answers. No type of it holds a connection, a callback or a task.

pub mod conformance;
pub mod containerd;
mod error;
mod folder;
mod ingest;
pub mod layout;
pub mod memory;
pub mod name;
mod watch_stream;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, TryFutureExt};

use crate::oci::Digest;

pub use containerd::ContainerdStore;
pub use error::{StoreCause, StoreError, WatchLost};
pub use layout::LayoutStore;
pub use memory::MemoryStore;
pub(crate) use watch_stream::{EventSender, next_event, watch_stream};

/// Complete content, ready to be read.
#[derive(Debug)]
pub enum Content {
    /// A file of the store. It stays readable after the store removes the content.
    File {
        /// The file, open for reading, at its start.
        file: File,
        /// Length of the file.
        size_bytes: u64,
    },
    /// Content without a file that this process could open: [`Store::read`] reads it.
    Remote {
        /// Length of the content.
        size_bytes: u64,
    },
}

impl Content {
    /// Length of the content, bytes.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Content::File { size_bytes, .. } | Content::Remote { size_bytes } => *size_bytes,
        }
    }
}

/// A transfer into the store that has not been committed.
#[derive(Debug, Default)]
pub struct Ingest {
    /// The length that the blob will have, if it is known.
    pub total_bytes: Option<u64>,
    /// The bytes written so far, in order from the first one on; the file grows. `None`: it cannot be opened
    /// here.
    pub data: Option<File>,
    /// Whether peers may have its bytes while they arrive: the configured namespace writes it, and it is neither a
    /// manifest nor an index.
    pub is_shareable: bool,
}

/// The result of a *complete* scan. A scan that could not read everything is an error, never a shorter
/// inventory (I3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Content that is present and known to the namespace, with its size in bytes.
    pub content: BTreeMap<Digest, u64>,
    /// Image names as `registry/repository:tag`, with the digests that they point to. Only names whose target
    /// is present.
    pub tags: BTreeMap<String, Digest>,
}

/// One fact about the source of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Content was fetched from `registry/repository`.
    Fetched {
        /// The content that was fetched.
        digest: Digest,
        /// Where it was fetched from, as `registry/repository`.
        name: String,
    },
    /// Content is so new that its source may not be recorded yet.
    Unrecorded {
        /// The new content.
        digest: Digest,
    },
    /// An image consists of this content and everything below it, which need not be present.
    Image {
        /// Name as the store spells it: with or without a tag, by digest, or in another form.
        name: String,
        /// The manifest or index that the name points to.
        target: Digest,
    },
}

/// The recorded source of one blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Where it was fetched from, as `registry/repository`, each name once.
    pub names: Vec<String>,
    /// Whether the blob is so new that its source may not be recorded yet.
    pub is_unrecorded: bool,
}

/// The target of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The manifest or index that the tag names.
    pub digest: Digest,
    /// When the tag was set to this digest on this node, by this node's clock; `None` if that is not
    /// recorded.
    pub set_at: Option<SystemTime>,
}

/// A change of the store after its watches were set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// Content was committed, and the namespace knows it.
    Added {
        /// The new content.
        digest: Digest,
        /// Length of the content.
        size_bytes: u64,
    },
    /// Content was removed.
    Removed {
        /// The removed content.
        digest: Digest,
    },
    /// A name was set.
    Tagged {
        /// The name, as `registry/repository:tag`.
        name: String,
        /// The manifest or index that the name points to.
        digest: Digest,
    },
    /// A name was removed.
    Untagged {
        /// The name, as `registry/repository:tag`.
        name: String,
    },
    /// The answer of [`Store::sources`] may have changed.
    Sourced,
}

/// An item of the stream of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// All watches are set. Reported once: a scan that begins now misses nothing.
    Set,
    /// The store has changed.
    Changed(StoreEvent),
}

/// The store of a node's images, as the rest of the agent sees it.
pub trait Store: Send + Sync + 'static {
    /// Name of the store for logs, such as `containerd /run/containerd/containerd.sock`.
    fn name(&self) -> String;

    /// Opens content that is present and known to the namespace; `None` for any other.
    fn open<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Content>, StoreError>>;

    /// Reads the bytes `offset .. offset + length` of content that [`Store::open`] returned as
    /// [`Content::Remote`], in pieces.
    fn read(
        &self,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> BoxStream<'static, Result<Bytes, StoreError>>;

    /// The tag `registry/repository:tag`, if the name is known and its target is present.
    fn tag<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Tag>, StoreError>>;

    /// The digest that the tag `registry/repository:tag` points to.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Digest>, StoreError>> {
        self.tag(name).map_ok(|tag| tag.map(|tag| tag.digest)).boxed()
    }

    /// Everything that is known about the sources of content, in pages.
    fn sources(&self) -> BoxStream<'_, Result<Vec<Source>, StoreError>>;

    /// The recorded source of one blob; empty if the blob is not present.
    fn fetched_from<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Fetched, StoreError>>;

    /// Scans the whole store once.
    fn scan(&self) -> BoxFuture<'_, Result<Scan, StoreError>>;

    /// Sets watches and reports changes, until the watch can no longer vouch for having seen everything (the
    /// daemon restarted, a queue overflowed). The stream then ends with the reason, and the caller watches
    /// and scans again. The first item is [`WatchEvent::Set`]; only after it may the caller scan.
    fn watch(&self) -> BoxStream<'_, Result<WatchEvent, StoreError>>;

    /// The folders in which containerd looks for the hosts of a registry, as it names them itself; `None` if it
    /// does not name them, or if there is no containerd behind the store.
    fn registry_host_folders(&self) -> BoxFuture<'_, Option<Vec<PathBuf>>>;

    /// Transfers of `digest` into this store that run or were left behind, the one written to last first.
    fn ingests<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Vec<Ingest>, StoreError>>;

    /// Ingests that have all their bytes and were not written to for
    /// [`INGEST_UNTOUCHED_MIN`](crate::limits::INGEST_UNTOUCHED_MIN): their commit failed, or their client is
    /// gone. Empty where their bytes are not visible.
    fn complete_ingests(&self) -> BoxFuture<'_, Result<Vec<(Digest, File)>, StoreError>>;

    /// Aborts every ingest of `digest` that began no later than `begun_by`, complete or not. Returns how many
    /// there were. A complete ingest of wrong bytes would else make every later pull of that image on this
    /// node fail.
    fn abort_ingests<'a>(
        &'a self,
        digest: &'a Digest,
        begun_by: SystemTime,
    ) -> BoxFuture<'a, Result<usize, StoreError>>;
}
