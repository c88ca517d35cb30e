//! Buffers for file reads. All transfers share them and use them again, which saves a megabyte for each
//! connection and fresh pages of the kernel for each chunk. A client that reads slowly keeps the buffer of
//! its chunk; while many clients do, chunks are small.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::limits::{FILE_CHUNK_BYTES, FILE_CHUNKS_MAX, IDLE_BUFFERS_MAX, SMALL_FILE_CHUNK_BYTES};

/// A pool of buffers of [`FILE_CHUNK_BYTES`], for reads of more than [`SMALL_FILE_CHUNK_BYTES`].
#[derive(Clone, Debug, Default)]
pub(crate) struct BufferPool {
    shared: Arc<Buffers>,
}

#[derive(Debug, Default)]
struct Buffers {
    idle: Mutex<Vec<Vec<u8>>>,
    /// Buffers that are in use.
    lent: AtomicUsize,
}

/// A buffer that returns to its pool when its last `Bytes` is dropped.
struct Pooled {
    bytes: Vec<u8>,
    used: usize,
    pool: Arc<Buffers>,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if self.bytes.len() < FILE_CHUNK_BYTES {
            return;
        }
        self.pool.lent.fetch_sub(1, Ordering::Relaxed);
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_BUFFERS_MAX {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl BufferPool {
    /// Bytes of the next read: [`FILE_CHUNK_BYTES`], or fewer while [`FILE_CHUNKS_MAX`] of these buffers are
    /// in use.
    pub(crate) fn chunk_bytes(&self) -> usize {
        let is_free = self.shared.lent.load(Ordering::Relaxed) < FILE_CHUNKS_MAX;
        if is_free { FILE_CHUNK_BYTES } else { SMALL_FILE_CHUNK_BYTES }
    }

    /// Reads `length` bytes, at most [`FILE_CHUNK_BYTES`], at `offset`. Blocks.
    pub(crate) fn read_at(&self, file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut buffer = self.take(length);
        file.read_exact_at(&mut buffer.bytes[..length], offset)?;
        Ok(Bytes::from_owner(buffer))
    }

    /// Like [`Self::read_at`], but only from the page cache; `None` where the disk would have to be read, or
    /// the file system cannot tell. Never blocks: it copies, and a change of threads would cost more than it
    /// saves.
    pub(crate) fn read_cached_at(
        &self,
        file: &File,
        offset: u64,
        length: usize,
    ) -> io::Result<Option<Bytes>> {
        let mut buffer = self.take(length);
        let mut target = [IoSliceMut::new(&mut buffer.bytes[..length])];
        match preadv2(file, &mut target, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == length => Ok(Some(Bytes::from_owner(buffer))),
            Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn take(&self, length: usize) -> Pooled {
        debug_assert!(length <= FILE_CHUNK_BYTES);
        let pool = Arc::clone(&self.shared);
        if length <= SMALL_FILE_CHUNK_BYTES {
            return Pooled { bytes: vec![0; length], used: length, pool };
        }
        pool.lent.fetch_add(1, Ordering::Relaxed);
        let taken = pool.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = taken.unwrap_or_else(|| vec![0; FILE_CHUNK_BYTES]);
        Pooled { bytes, used: length, pool }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LARGE: usize = SMALL_FILE_CHUNK_BYTES + 1;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn idle(pool: &BufferPool) -> usize {
        pool.shared.idle.lock().unwrap().len()
    }

    #[test]
    fn a_buffer_is_used_again_once_its_bytes_are_gone() {
        let file = file_of(&[7; 2 * LARGE]);
        let pool = BufferPool::default();
        let bytes = pool.read_at(&file, 2, LARGE).unwrap();
        assert_eq!(bytes, [7; LARGE][..]);
        assert_eq!(idle(&pool), 0);
        drop(bytes);
        assert_eq!(idle(&pool), 1);
        assert_eq!(pool.read_at(&file, 0, 2 * LARGE).unwrap().len(), 2 * LARGE);
        assert_eq!(idle(&pool), 1);
    }

    #[test]
    fn a_small_read_takes_what_it_needs() {
        let pool = BufferPool::default();
        assert_eq!(&pool.read_at(&file_of(b"0123456789"), 2, 3).unwrap()[..], b"234");
        assert_eq!(idle(&pool), 0);
    }

    /// Slow clients hold many buffers.
    #[test]
    fn while_many_buffers_are_in_use_chunks_are_small() {
        let file = file_of(&[7; LARGE]);
        let pool = BufferPool::default();
        let mut slow = Vec::new();
        while pool.chunk_bytes() == FILE_CHUNK_BYTES {
            slow.push(pool.read_at(&file, 0, LARGE).unwrap());
        }
        assert_eq!(slow.len(), FILE_CHUNKS_MAX);
        let small = pool.read_at(&file, 0, pool.chunk_bytes()).unwrap();
        slow.pop();
        assert_eq!(pool.chunk_bytes(), FILE_CHUNK_BYTES);
        drop(small);
        slow.push(pool.read_at(&file, 0, LARGE).unwrap());
        assert_eq!(pool.chunk_bytes(), SMALL_FILE_CHUNK_BYTES);
    }

    #[test]
    fn what_was_just_written_is_in_the_page_cache() {
        let file = file_of(&[7; LARGE]);
        let pool = BufferPool::default();
        // The file system cannot tell what is cached: the caller reads in another way.
        if let Some(bytes) = pool.read_cached_at(&file, 0, LARGE).unwrap() {
            assert_eq!(bytes, [7; LARGE][..]);
        }
        assert_eq!(pool.read_cached_at(&file, 1, LARGE).unwrap(), None, "past the end");
        assert_eq!(idle(&pool), 1);
    }

    #[test]
    fn a_file_that_shrank_is_an_error_and_its_buffer_returns() {
        let pool = BufferPool::default();
        let shrunk = pool.read_at(&file_of(b""), 0, LARGE);
        assert_eq!(shrunk.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(idle(&pool), 1);
        assert_eq!(pool.shared.lent.load(Ordering::Relaxed), 0);
    }
}
