//! The bytes of a blob that are still arriving on this node, readable while they arrive: in the file that containerd
//! writes, in the file in which this agent verifies a small blob, or in both. The longer one counts.

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::agent::content::buffer_pool::BufferPool;
use crate::limits::{FILE_CHUNK_BYTES, VERIFIED_WHOLE_BYTES_MAX};
use crate::oci::{Digest, Hasher};

/// The bytes of one blob.
#[derive(Debug)]
pub(crate) struct Growing {
    total: u64,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    /// What containerd writes; `None` if that cannot be seen, or was aborted.
    ingest: Option<Arc<File>>,
    /// Most bytes that containerd was seen to have written.
    most_ingested: u64,
    /// Most contiguous bytes that there were.
    most: u64,
    /// Whether all bytes that containerd gets are known to be right.
    is_verified: bool,
    spool: Option<Spooled>,
}

/// What this agent gathers of a blob that it verifies whole.
#[derive(Debug)]
enum Spooled {
    /// The first bytes of a file, and what keeps the room for all of it.
    File { file: Arc<File>, written: u64, _room: Arc<dyn Any + Send + Sync> },
    /// All bytes, in memory.
    Memory(Bytes),
    /// All bytes, in a file, and what keeps the room for it.
    Whole { file: Arc<File>, _room: Arc<dyn Any + Send + Sync> },
}

/// Where bytes can be read.
enum Readable {
    File(Arc<File>),
    Memory(Bytes),
}

impl Growing {
    /// The bytes of a blob of `total` bytes, of which containerd writes `ingest`.
    pub(crate) fn new(total: u64, ingest: Option<File>) -> Self {
        let parts = Parts { ingest: ingest.map(Arc::new), ..Parts::default() };
        Self { total, parts: Mutex::new(parts) }
    }

    /// Length of the whole blob, bytes.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// How many contiguous bytes there are that other nodes can have. The last byte of a blob of up to
    /// [`VERIFIED_WHOLE_BYTES_MAX`] is not among them before all of it is known to be right.
    pub(crate) fn have_bytes(&self) -> u64 {
        let mut parts = self.parts();
        let have_bytes = parts.spooled(self.total).max(parts.given(self.total));
        parts.most = parts.most.max(have_bytes);
        have_bytes
    }

    /// How many contiguous bytes containerd has written.
    pub(crate) fn ingested_bytes(&self) -> u64 {
        self.parts().ingested(self.total)
    }

    /// Most contiguous bytes that there were, also if they are gone.
    pub(crate) fn most_bytes(&self) -> u64 {
        self.have_bytes();
        self.parts().most
    }

    /// Most contiguous bytes that containerd was seen to have written, also if they are gone.
    pub(crate) fn most_ingested_bytes(&self) -> u64 {
        self.parts().most_ingested
    }

    /// Whether containerd has a file for the blob, which it has not aborted.
    pub(crate) fn has_ingest(&self) -> bool {
        let mut parts = self.parts();
        parts.ingested(self.total);
        parts.ingest.is_some()
    }

    /// Notes that containerd writes the blob to this file.
    pub(crate) fn ingested_in(&self, ingest: File) {
        let mut parts = self.parts();
        (parts.ingest, parts.is_verified, parts.most_ingested) = (Some(Arc::new(ingest)), false, 0);
    }

    /// Notes that all bytes that containerd has, or gets now, are right.
    pub(crate) fn is_right(&self) {
        self.parts().is_verified = true;
    }

    /// Whether all bytes that containerd has, or gets now, are known to be right.
    pub(crate) fn is_verified(&self) -> bool {
        self.parts().is_verified
    }

    /// Whether containerd still writes the blob to this file, or has written it there last.
    pub(crate) fn is_written_to(&self, ingest: &Arc<File>) -> bool {
        self.parts().ingest.as_ref().is_some_and(|current| Arc::ptr_eq(current, ingest))
    }

    /// What containerd has written, if all of it is there, and the last byte is not given before it is verified.
    pub(crate) fn to_verify(&self) -> Option<Arc<File>> {
        let mut parts = self.parts();
        let is_kept = parts.spooled(self.total).max(parts.given(self.total)) < self.total;
        (is_kept && parts.ingested(self.total) == self.total).then(|| parts.ingest.clone())?
    }

    /// Whether `ingest`, which has all bytes of the blob, has this digest.
    pub(crate) async fn verify(
        &self,
        ingest: Arc<File>,
        digest: &Digest,
        pool: &BufferPool,
    ) -> io::Result<bool> {
        let (total, pool, digest) = (self.total, pool.clone(), digest.clone());
        let hash = move || {
            let (mut hasher, mut offset) = (Hasher::new(digest.algorithm()), 0);
            while offset < total {
                let left = usize::try_from(total - offset).unwrap_or(usize::MAX);
                let bytes =
                    pool.read_at(&ingest, offset, left.min(pool.chunk_bytes()).min(FILE_CHUNK_BYTES))?;
                hasher.update(&bytes);
                offset += bytes.len() as u64;
            }
            Ok(hasher.finish() == digest)
        };
        tokio::task::spawn_blocking(hash).await.map_err(io::Error::other)?
    }

    /// Notes that the first `written` bytes of `file` are there. They are not verified, so the last byte of the blob
    /// is not given before all of them are. `room` is kept as long as the file.
    pub(crate) fn spooled(&self, file: Arc<File>, written: u64, room: Arc<dyn Any + Send + Sync>) {
        self.parts().spool = Some(Spooled::File { file, written, _room: room });
    }

    /// Notes that all bytes are in memory, verified. containerd gets the same ones.
    pub(crate) fn is_whole_in_memory(&self, bytes: Bytes) {
        self.parts().spool = Some(Spooled::Memory(bytes));
    }

    /// Notes that all bytes are in `file`, verified. `room` is kept as long as they are.
    pub(crate) fn is_whole_in_file(&self, file: Arc<File>, room: Arc<dyn Any + Send + Sync>) {
        self.parts().spool = Some(Spooled::Whole { file, _room: room });
    }

    /// Forgets what this agent has gathered: it is wrong, or not needed any more.
    pub(crate) fn forget_spool(&self) {
        self.parts().spool = None;
    }

    /// Forgets a part of the blob that this agent has gathered, once containerd has as much of it.
    pub(crate) fn forget_spool_if_behind(&self) {
        let mut parts = self.parts();
        let ingested = parts.ingested(self.total);
        if matches!(parts.spool, Some(Spooled::File { written, .. }) if written <= ingested) {
            parts.spool = None;
        }
    }

    /// Forgets what this agent has gathered, and that there was anything: it comes anew.
    pub(crate) fn begin_again(&self) {
        let mut parts = self.parts();
        (parts.spool, parts.most) = (None, 0);
    }

    /// Reads bytes from `offset` on, at most `most` of them and as many as one chunk has; `None` if there are none by
    /// now.
    pub(crate) async fn read(
        &self,
        offset: u64,
        most: usize,
        pool: &BufferPool,
    ) -> io::Result<Option<Bytes>> {
        let Some((readable, length)) = self.readable(offset, pool.chunk_bytes().min(most)) else {
            return Ok(None);
        };
        let file = match readable {
            Readable::Memory(bytes) => {
                let start = usize::try_from(offset).map_err(io::Error::other)?;
                return Ok(Some(bytes.slice(start..start + length)));
            }
            Readable::File(file) => file,
        };
        if let Some(bytes) = pool.read_cached_at(&file, offset, length)? {
            return Ok(Some(bytes));
        }
        let pool = pool.clone();
        let read = tokio::task::spawn_blocking(move || pool.read_at(&file, offset, length));
        read.await.map_err(io::Error::other)?.map(Some)
    }

    /// The part that has bytes from `offset` on, and how many of them make up the next chunk.
    fn readable(&self, offset: u64, chunk_bytes: usize) -> Option<(Readable, usize)> {
        let mut parts = self.parts();
        let (spooled, ingested) = (parts.spooled(self.total), parts.given(self.total));
        let (end, readable) = match (&parts.spool, &parts.ingest) {
            (Some(Spooled::Memory(bytes)), _) if spooled > offset => {
                (spooled, Readable::Memory(bytes.clone()))
            }
            (Some(Spooled::File { file, .. } | Spooled::Whole { file, .. }), _) if spooled > offset => {
                (spooled, Readable::File(Arc::clone(file)))
            }
            (_, Some(ingest)) if ingested > offset => (ingested, Readable::File(Arc::clone(ingest))),
            _ => return None,
        };
        let length = usize::try_from(end - offset).unwrap_or(usize::MAX);
        Some((readable, length.min(chunk_bytes).min(FILE_CHUNK_BYTES)))
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().expect("no code panics while it holds this lock")
    }
}

impl Parts {
    fn spooled(&self, total: u64) -> u64 {
        match &self.spool {
            None => 0,
            Some(Spooled::File { written, .. }) => (*written).min(total.saturating_sub(1)),
            Some(Spooled::Memory(_) | Spooled::Whole { .. }) => total,
        }
    }

    /// How many bytes of what containerd has written are given to others.
    fn given(&mut self, total: u64) -> u64 {
        let is_kept = total <= VERIFIED_WHOLE_BYTES_MAX && !self.is_verified;
        self.ingested(total).min(total.saturating_sub(u64::from(is_kept)))
    }

    /// Length of what containerd has written. A file without a name was aborted, unless it has all `total` bytes: then
    /// the blob was removed, and is good for those that still read it. One that was aborted is forgotten.
    fn ingested(&mut self, total: u64) -> u64 {
        let Some(ingest) = &self.ingest else { return 0 };
        match ingest.metadata() {
            Ok(metadata) if metadata.nlink() > 0 || metadata.len() == total => {
                self.most_ingested = self.most_ingested.max(metadata.len());
                metadata.len()
            }
            _ => {
                self.ingest = None;
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn named(bytes: &[u8]) -> (tempfile::NamedTempFile, File) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let read = file.reopen().unwrap();
        (file, read)
    }

    async fn read(growing: &Growing, offset: u64) -> Option<Vec<u8>> {
        growing.read(offset, usize::MAX, &BufferPool::default()).await.unwrap().map(|bytes| bytes.to_vec())
    }

    #[tokio::test]
    async fn what_containerd_writes_is_read_while_it_grows_and_not_once_it_is_aborted() {
        let (mut file, ingest) = named(b"012");
        let growing = Growing::new(6, Some(ingest));
        assert_eq!((growing.have_bytes(), read(&growing, 1).await), (3, Some(b"12".to_vec())));
        assert_eq!(read(&growing, 3).await, None);
        file.write_all(b"345").unwrap();
        assert_eq!(
            (growing.have_bytes(), read(&growing, 3).await),
            (5, Some(b"34".to_vec())),
            "not verified"
        );
        growing.is_right();
        assert_eq!((growing.have_bytes(), read(&growing, 3).await), (6, Some(b"345".to_vec())));
        file.close().unwrap();
        assert_eq!(read(&growing, 0).await, Some(b"012345".to_vec()), "removed, and still read");
        let (file, ingest) = named(b"012");
        let growing = Growing::new(6, Some(ingest));
        assert_eq!(growing.have_bytes(), 3);
        file.close().unwrap();
        assert_eq!((growing.have_bytes(), read(&growing, 0).await), (0, None));
        assert!(!growing.has_ingest() && growing.most_bytes() == 3);
    }

    #[tokio::test]
    async fn the_last_byte_of_what_containerd_fetches_is_kept_until_all_are_known_to_be_right() {
        let large = VERIFIED_WHOLE_BYTES_MAX + 1;
        for (total, kept) in [(1, 1), (VERIFIED_WHOLE_BYTES_MAX, 1), (large, 0)] {
            let (file, ingest) = named(b"");
            file.as_file().set_len(total - 1).unwrap();
            let growing = Growing::new(total, Some(ingest));
            assert!(growing.have_bytes() == total - 1 && growing.to_verify().is_none(), "{total}");
            file.as_file().set_len(total).unwrap();
            assert_eq!(growing.have_bytes(), total - kept, "{total}");
            assert_eq!(growing.to_verify().is_some(), kept == 1, "{total}");
            growing.is_right();
            assert!(growing.have_bytes() == total && growing.to_verify().is_none(), "{total}");
            growing.ingested_in(file.reopen().unwrap());
            assert_eq!(growing.have_bytes(), total - kept, "another file, {total}");
        }
    }

    #[tokio::test]
    async fn all_that_containerd_has_fetched_is_verified() {
        let (_file, ingest) = named(b"012345");
        let growing = Growing::new(6, Some(ingest));
        for (digest, expected) in [(Digest::of(b"012345"), true), (Digest::of(b"01234"), false)] {
            let ingest = growing.to_verify().unwrap();
            assert_eq!(growing.verify(ingest, &digest, &BufferPool::default()).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn the_longer_part_counts_and_the_last_byte_is_given_only_when_all_are_verified() {
        let (_file, ingest) = named(b"01");
        let growing = Growing::new(5, Some(ingest));
        let (_spool, spool) = named(b"01234");
        let spool = Arc::new(spool);
        growing.spooled(Arc::clone(&spool), 5, Arc::new(()));
        growing.forget_spool_if_behind();
        assert_eq!((growing.have_bytes(), growing.ingested_bytes()), (4, 2));
        assert_eq!(read(&growing, 2).await, Some(b"23".to_vec()));
        assert_eq!(read(&growing, 4).await, None);
        growing.is_whole_in_file(spool, Arc::new(()));
        assert_eq!(read(&growing, 4).await, Some(b"4".to_vec()));
        growing.forget_spool();
        assert_eq!(growing.have_bytes(), 2);
        growing.spooled(tempfile::tempfile().unwrap().into(), 2, Arc::new(()));
        growing.forget_spool_if_behind();
        assert!(growing.parts().spool.is_none(), "containerd has as much");
        growing.is_whole_in_memory(Bytes::from_static(b"01234"));
        assert_eq!(read(&growing, 3).await, Some(b"34".to_vec()));
    }
}
