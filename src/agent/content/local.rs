//! Reads content of this node's own store, for peers and for containerd.

mod open_files;
mod tag_times;
mod unverified;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::buffer_pool::BufferPool;
use super::manifest::{self, Checked};
use super::store::{Content, Store, StoreError, Tag};
use super::verifier::{FileState, Verification, Verifier};
use crate::agent::content::byte_stream::{ByteStream, Cut};
use crate::agent::content::token_bucket::TokenBucket;
use crate::limits::{FILE_CHUNK_BYTES, MANIFEST_BYTES_MAX, MANIFEST_MEMORY_BYTES_MAX, MANIFEST_MEMORY_WAIT};
use crate::oci::{ByteRange, Digest, Hasher};
use open_files::OpenFiles;
use tag_times::TagTimes;
pub(crate) use unverified::Reader;
use unverified::{headers_by, unchecked_file};

/// The content of this node. It is checked before it is sent.
#[derive(Clone)]
pub(crate) struct Local {
    store: Arc<dyn Store>,
    verifier: Verifier,
    pool: BufferPool,
    opened: OpenFiles,
    tag_times: Arc<TagTimes>,
    manifest_memory: Arc<Semaphore>,
}

/// Open content that has not been found damaged.
pub(crate) struct LocalBlob {
    digest: Digest,
    size_bytes: u64,
    bytes: BlobBytes,
    pool: BufferPool,
}

enum BlobBytes {
    Right(Arc<File>),
    Unchecked { file: Arc<File>, verification: Verification, reader: Reader },
    Remote(Arc<dyn Store>),
}

/// All bytes of a manifest, verified.
pub(crate) struct LocalManifest {
    pub(crate) bytes: Bytes,
    pub(crate) media_type: &'static str,
    /// Permit for the memory of the bytes, held until they have been sent.
    pub(crate) memory: OwnedSemaphorePermit,
}

/// Why content that is present cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("could not read content")]
    Read(#[from] io::Error),
    #[error("content {digest} is damaged")]
    Damaged { digest: Digest },
    #[error("too many manifests at once")]
    Busy,
    #[error(
        "this content has {size_bytes} bytes and a manifest at most {MANIFEST_BYTES_MAX}: it is given under \
         /blobs/ only"
    )]
    TooLarge { size_bytes: u64 },
}

impl Local {
    pub(crate) fn new(store: Arc<dyn Store>, verifier: Verifier, pool: BufferPool) -> Self {
        let manifest_memory = Arc::new(Semaphore::new(MANIFEST_MEMORY_BYTES_MAX));
        let opened = OpenFiles::new(verifier.stop().clone());
        Self { store, verifier, pool, opened, tag_times: Arc::default(), manifest_memory }
    }

    /// The tag `registry/repository:tag` with the time of its import, on whichever node that was.
    pub(crate) async fn tag(&self, name: &str) -> Result<Option<Tag>, LocalError> {
        Ok(self.store.tag(name).await?.map(|tag| self.tag_times.corrected(name, tag)))
    }

    /// Remembers that the mirror answered `tag` for `name`, so that the pull that follows does not make the
    /// tag newer.
    pub(crate) fn tag_answered(&self, name: &str, tag: Tag) {
        self.tag_times.answered(name, tag, SystemTime::now());
    }

    /// Opens a blob for sending, and waits until `verdict_by` at most for a check that is not done. Content
    /// that is known to be damaged is an error; content whose check still runs is opened.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        reader: Reader,
        verdict_by: Instant,
    ) -> Result<Option<LocalBlob>, LocalError> {
        if let Some((file, state)) = self.opened.get(digest) {
            return Ok(Some(self.found(digest, state.size_bytes(), BlobBytes::Right(file))));
        }
        // Boxed, because this is the largest part of the future of every request, which is moved several
        // times.
        Box::pin(self.open(digest, reader, verdict_by)).await
    }

    async fn open(
        &self,
        digest: &Digest,
        reader: Reader,
        verdict_by: Instant,
    ) -> Result<Option<LocalBlob>, LocalError> {
        let since = Instant::now();
        let Some(content) = self.store.open(digest).await? else { return Ok(None) };
        let size_bytes = content.size_bytes();
        let bytes = match content {
            Content::Remote { .. } => BlobBytes::Remote(Arc::clone(&self.store)),
            Content::File { file, .. } => {
                let file = Arc::new(file);
                let (state, _) = FileState::of(&file)?;
                let mut verification = self.verifier.verify(&file, state, digest);
                let patience = verdict_by.saturating_duration_since(since);
                let headers_by = headers_by(reader, size_bytes, verification.begun(), patience, verdict_by);
                if timeout_at(headers_by, verification.wait()).await == Ok(false) {
                    return Err(LocalError::Damaged { digest: digest.clone() });
                }
                if verification.now() == Some(true) && state.size_bytes() == size_bytes {
                    self.opened.keep(digest, &file, state, since);
                    BlobBytes::Right(file)
                } else {
                    BlobBytes::Unchecked { file, verification, reader }
                }
            }
        };
        Ok(Some(self.found(digest, size_bytes, bytes)))
    }

    fn found(&self, digest: &Digest, size_bytes: u64, bytes: BlobBytes) -> LocalBlob {
        LocalBlob { digest: digest.clone(), size_bytes, bytes, pool: self.pool.clone() }
    }

    /// The size of content, without reading it.
    pub(crate) async fn size(&self, digest: &Digest) -> Result<Option<u64>, LocalError> {
        if let Some((_, state)) = self.opened.get(digest) {
            return Ok(Some(state.size_bytes()));
        }
        Ok(self.store.open(digest).await?.map(|content| content.size_bytes()))
    }

    /// Reads and verifies a manifest; `None` if there is no such content, or if it is no manifest. Content
    /// that is too large for a manifest is not read (fault B13b of the Go version).
    pub(crate) async fn manifest(&self, digest: &Digest) -> Result<Option<LocalManifest>, LocalError> {
        let Some(content) = self.store.open(digest).await? else { return Ok(None) };
        let size_bytes = content.size_bytes();
        if size_bytes > MANIFEST_BYTES_MAX {
            return Err(LocalError::TooLarge { size_bytes });
        }
        let permits = u32::try_from(size_bytes.max(1)).expect("a manifest's size fits");
        let memory = Arc::clone(&self.manifest_memory).acquire_many_owned(permits);
        let Ok(memory) = timeout(MANIFEST_MEMORY_WAIT, memory).await else { return Err(LocalError::Busy) };
        let memory = memory.expect("the semaphore is never closed");
        let bytes = self.read_whole(digest, content).await?;
        match manifest::check(&bytes, digest).await? {
            Checked::Manifest(media_type) => Ok(Some(LocalManifest { bytes, media_type, memory })),
            Checked::Other => Ok(None),
            Checked::Damaged => Err(LocalError::Damaged { digest: digest.clone() }),
        }
    }

    async fn read_whole(&self, digest: &Digest, content: Content) -> Result<Bytes, LocalError> {
        match content {
            Content::File { file, size_bytes } => {
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; usize::try_from(size_bytes).expect("a manifest's size fits")];
                    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).map(|()| bytes.into())
                });
                Ok(read.await.map_err(io::Error::other)??)
            }
            Content::Remote { size_bytes } => {
                let mut pieces = self.store.read(digest, 0, size_bytes);
                let mut bytes =
                    Vec::with_capacity(usize::try_from(size_bytes).expect("a manifest's size fits"));
                while let Some(piece) = pieces.next().await {
                    bytes.extend_from_slice(&piece?);
                }
                if bytes.len() as u64 != size_bytes {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                Ok(bytes.into())
            }
        }
    }
}

impl LocalBlob {
    /// Length of the whole blob, bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The bytes of `range`, limited to `rate` if there is one. If the content turns out to be damaged, the
    /// stream ends early with [`Cut::Damaged`]. `guard` is dropped with the stream.
    pub(crate) fn stream<G: Send + 'static>(
        self,
        range: ByteRange,
        rate: Option<Arc<TokenBucket>>,
        guard: G,
    ) -> ByteStream {
        match self.bytes {
            BlobBytes::Right(file) => {
                right_file(FileReader { file, range, pool: self.pool, rate, begun: false }, guard)
            }
            BlobBytes::Unchecked { file, verification, reader } => {
                let file = FileReader { file, range, pool: self.pool, rate, begun: false };
                unchecked_file(reader, file, verification, guard)
            }
            BlobBytes::Remote(store) => {
                // Without a file nothing tells whether the content changed: a whole blob is hashed each time.
                let pieces = store.read(&self.digest, range.start, range.len());
                let pieces = pieces.map(|piece| piece.map_err(Cut::Store));
                let paced = paced(pieces.boxed(), rate);
                let right = if range.is_whole() { hashed(paced, self.digest, range.len()) } else { paced };
                right
                    .map(move |piece| {
                        let _held_as_long_as_the_stream = &guard;
                        piece
                    })
                    .boxed()
            }
        }
    }
}

struct FileReader {
    file: Arc<File>,
    range: ByteRange,
    pool: BufferPool,
    rate: Option<Arc<TokenBucket>>,
    /// Whether a chunk has been read.
    begun: bool,
}

impl FileReader {
    /// Length of the next read, 0 at the end: limited by what is fair to others that share the rate and the
    /// pool.
    fn next_length(&self) -> usize {
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let fair = self.rate.as_ref().map_or(FILE_CHUNK_BYTES, |rate| rate.chunk_bytes());
        left.min(fair).min(self.pool.chunk_bytes())
    }

    /// Reads the next `length` bytes, as [`FileReader::next_length`] returned them; `None` at the end.
    async fn next(&mut self, length: usize) -> Result<Option<Bytes>, Cut> {
        if length == 0 {
            return Ok(None);
        }
        // One chunk of each connection in turn, even if a socket would accept more. That is fair, and a
        // client on this machine finds the bytes in the CPU's cache.
        if std::mem::replace(&mut self.begun, true) {
            tokio::task::yield_now().await;
        }
        if let Some(rate) = &self.rate {
            rate.take(length).await;
        }
        let bytes = self.read(length).await.map_err(Cut::Read)?;
        self.range.start += length as u64;
        Ok(Some(bytes))
    }

    /// Pages that are not cached are read on the blocking pool, so that they do not stall other connections
    /// of this thread.
    async fn read(&self, length: usize) -> io::Result<Bytes> {
        let offset = self.range.start;
        if let Some(bytes) = self.pool.read_cached_at(&self.file, offset, length)? {
            return Ok(bytes);
        }
        let (file, pool) = (Arc::clone(&self.file), self.pool.clone());
        let read = tokio::task::spawn_blocking(move || pool.read_at(&file, offset, length));
        read.await.map_err(io::Error::other)?
    }
}

/// Streams a part of a file that has been verified. `guard` is dropped with the stream.
pub(crate) fn file_stream<G: Send + 'static>(
    file: Arc<File>,
    range: ByteRange,
    pool: BufferPool,
    guard: G,
) -> ByteStream {
    right_file(FileReader { file, range, pool, rate: None, begun: false }, guard)
}

fn right_file<G: Send + 'static>(reader: FileReader, guard: G) -> ByteStream {
    stream::try_unfold((reader, guard), |(mut reader, guard)| async move {
        let length = reader.next_length();
        let bytes = reader.next(length).await?;
        Ok(bytes.map(|bytes| (bytes, (reader, guard))))
    })
    .boxed()
}

fn paced(pieces: ByteStream, rate: Option<Arc<TokenBucket>>) -> ByteStream {
    let Some(rate) = rate else { return pieces };
    pieces
        .then(move |piece| {
            let rate = Arc::clone(&rate);
            async move {
                if let Ok(bytes) = &piece {
                    rate.take(bytes.len()).await;
                }
                piece
            }
        })
        .boxed()
}

/// Passes `length` bytes on; the piece with the last byte only if all bytes have the digest.
fn hashed(pieces: BoxStream<'static, Result<Bytes, Cut>>, digest: Digest, length: u64) -> ByteStream {
    let hasher = Some(Hasher::new(digest.algorithm()));
    stream::try_unfold((pieces, hasher, length), move |(mut pieces, mut hasher, left)| {
        let digest = digest.clone();
        async move {
            let Some(bytes) = pieces.next().await.transpose()? else { return Ok(None) };
            let left = left.checked_sub(bytes.len() as u64).ok_or(Cut::Damaged)?;
            if let Some(running) = &mut hasher {
                running.update(&bytes);
            }
            if left == 0 && hasher.take().is_some_and(|hasher| hasher.finish() != digest) {
                return Err(Cut::Damaged);
            }
            Ok(Some((bytes, (pieces, hasher, left))))
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::content::store::LayoutStore;
    use crate::agent::testing::SOON;
    use crate::task::Stop;
    use futures_util::FutureExt;
    use std::io::Write;

    const CHUNK: u64 = FILE_CHUNK_BYTES as u64;

    #[tokio::test]
    async fn a_blob_that_was_just_served_is_not_once_it_is_replaced_or_removed() {
        let root = tempfile::tempdir().unwrap();
        let (store, digest) = (Arc::new(LayoutStore::new(root.path())), Digest::of(b"right"));
        let path = root.path().join("blobs/sha256").join(digest.hex());
        let put = |bytes: &[u8]| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(root.path().join("new"), bytes).unwrap();
            std::fs::rename(root.path().join("new"), &path).unwrap();
        };
        let verifier = Verifier::new(BufferPool::default(), Stop::new());
        let local = Local::new(store, verifier, BufferPool::default());
        let served = || local.blob(&digest, Reader::Peer, Instant::now() + SOON);
        for _ in 0..2 {
            put(b"right");
            assert!(served().await.unwrap().is_some());
            put(b"wrong");
            assert!(matches!(served().await, Err(LocalError::Damaged { .. })));
            put(b"right");
            assert!(served().await.unwrap().is_some());
            std::fs::remove_file(&path).unwrap();
            assert!(served().await.unwrap().is_none());
            assert!(local.size(&digest).await.unwrap().is_none());
        }
    }

    /// Readers of cached pages on the same thread go on meanwhile.
    #[test]
    fn pages_that_are_not_cached_are_read_by_another_thread() {
        let pool = BufferPool::default();
        let cached = |file: &File| pool.read_cached_at(file, 0, FILE_CHUNK_BYTES).unwrap().is_some();
        let stream =
            |file: &Arc<File>| file_stream(Arc::clone(file), ByteRange::whole(4 * CHUNK), pool.clone(), ());
        let warm = written_file();
        assert_eq!(stream(&warm).next().now_or_never().is_some(), cached(&warm), "pages in the cache");
        forget_pages(&warm);
        if cached(&warm) {
            return; // a file system without a disk: all of it is cached
        }
        // A new file, because asking whether pages are cached may start to read them.
        let cold = written_file();
        forget_pages(&cold);
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || wait.recv());
        runtime.block_on(async {
            let mut stream = stream(&cold);
            assert!(stream.next().now_or_never().is_none(), "this thread has waited for the disk");
            drop(go_on);
            assert_eq!(stream.next().await.unwrap().unwrap().len(), FILE_CHUNK_BYTES);
        });
    }

    fn written_file() -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 4 * FILE_CHUNK_BYTES]).unwrap();
        file.sync_all().unwrap();
        Arc::new(file)
    }

    fn forget_pages(file: &File) {
        rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}
