//! Where a node keeps its images. A trait with three implementations: `containerd`, `layout` (any
//! OCI image layout folder) and `memory` (tests); `conformance` runs on all.
//!
//! The trait is a border that a process may lie behind: a call is plain data, and it is answered with plain data
//! and open files, or with a stream of these. No type of it holds a connection, a callback or a task.

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
    /// A file of the store, which stays readable after its removal.
    File {
        /// Open for reading, at its start.
        file: File,
        /// Its length.
        size_bytes: u64,
    },
    /// The store cannot give a file of it: [`Store::read`] gives its bytes.
    Remote {
        /// Length of the content.
        size_bytes: u64,
    },
}

impl Content {
    /// Length, bytes.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Content::File { size_bytes, .. } | Content::Remote { size_bytes } => *size_bytes,
        }
    }
}

/// A transfer into the store that has not been committed.
#[derive(Debug, Default)]
pub struct Ingest {
    /// The length that the blob will have, if that is known.
    pub total_bytes: Option<u64>,
    /// What has been written, in order from the first byte on; it grows. `None`: not visible here.
    pub data: Option<File>,
}

/// What one *complete* scan found. A scan that could not read everything is an error, never a
/// shorter inventory (I3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Content that is really present and known to the namespace, with its size in bytes.
    pub content: BTreeMap<Digest, u64>,
    /// Image names as `registry/repository:tag`, with the digest that they point to; only those
    /// whose target is present.
    pub tags: BTreeMap<String, Digest>,
}

/// One thing that a store knows about where content is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This content was fetched from `registry/repository`.
    Fetched {
        /// The content that was fetched.
        digest: Digest,
        /// `registry/repository`.
        name: String,
    },
    /// This content is so new that where it was fetched from may not be recorded yet.
    Unrecorded {
        /// The new content.
        digest: Digest,
    },
    /// An image is this content, and everything below it. It need not be present.
    Image {
        /// As the store spells it: with or without tag, by digest, or something else altogether.
        name: String,
        /// The manifest or index that the name points to.
        target: Digest,
    },
}

/// Where one blob was fetched from, by its own record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// `registry/repository`, each once.
    pub names: Vec<String>,
    /// It is so new that nothing may be recorded yet.
    pub is_unrecorded: bool,
}

/// Where a tag points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The manifest or index that the tag names.
    pub digest: Digest,
    /// When the tag was set to this digest on this node, by this node's clock; `None`: not recorded.
    pub set_at: Option<SystemTime>,
}

/// What changed in a store after its watches were set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// Content was committed (and the namespace knows it).
    Added {
        /// Which.
        digest: Digest,
        /// Its length.
        size_bytes: u64,
    },
    /// Content is gone.
    Removed {
        /// Which.
        digest: Digest,
    },
    /// A name points here now.
    Tagged {
        /// `registry/repository:tag`.
        name: String,
        /// Where to.
        digest: Digest,
    },
    /// A name is gone.
    Untagged {
        /// `registry/repository:tag`.
        name: String,
    },
    /// What [`Store::sources`] tells may be something else now.
    Sourced,
}

/// What a watch reports, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// All watches are set, once: a scan that begins now misses nothing.
    Set,
    /// The store has changed.
    Changed(StoreEvent),
}

/// A node's images.
pub trait Store: Send + Sync + 'static {
    /// Name for logs: `containerd /run/containerd/containerd.sock`.
    fn name(&self) -> String;

    /// Opens content that is present and that the namespace knows; `None`: not here for us.
    fn open<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Content>, StoreError>>;

    /// The bytes `offset .. offset + length` of content that [`Store::open`] gave as [`Content::Remote`], in
    /// pieces.
    fn read(
        &self,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> BoxStream<'static, Result<Bytes, StoreError>>;

    /// The tag `registry/repository:tag`, if the name is known and its target is present.
    fn tag<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Tag>, StoreError>>;

    /// Where that tag points.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Digest>, StoreError>> {
        self.tag(name).map_ok(|tag| tag.map(|tag| tag.digest)).boxed()
    }

    /// Everything that is known about where content is from, in pages: the store keeps none of it.
    fn sources(&self) -> BoxStream<'_, Result<Vec<Source>, StoreError>>;

    /// Where one blob was fetched from. Nothing if it is not here.
    fn fetched_from<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Fetched, StoreError>>;

    /// One complete scan.
    fn scan(&self) -> BoxFuture<'_, Result<Scan, StoreError>>;

    /// Sets watches and reports what changes, until it can no longer vouch for having seen everything (the
    /// daemon restarted, a queue overflowed). It then ends with the reason, and the caller watches and scans
    /// anew. The first item is [`WatchEvent::Set`]: the caller may scan only after it.
    fn watch(&self) -> BoxStream<'_, Result<WatchEvent, StoreError>>;

    /// The transfers of `digest` into this store that run, or were left behind; the one written to last
    /// comes first.
    fn ingests<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Vec<Ingest>, StoreError>>;

    /// Ingests that have all their bytes, and that nobody has written to for
    /// [`INGEST_UNTOUCHED_MIN`](crate::limits::INGEST_UNTOUCHED_MIN): their commit failed, or nobody was left
    /// to ask for it. None where their bytes are not visible.
    fn complete_ingests(&self) -> BoxFuture<'_, Result<Vec<(Digest, File)>, StoreError>>;

    /// Aborts every ingest of `digest` that was begun by then, complete or not; returns how many there
    /// were. Bad bytes that arrived whole would else fail each later pull of that image on this node.
    fn abort_ingests<'a>(
        &'a self,
        digest: &'a Digest,
        begun_by: SystemTime,
    ) -> BoxFuture<'a, Result<usize, StoreError>>;
}
