//! Buffers for file reads, shared by all transfers and used again: no megabyte per connection, and
//! no fresh pages from the kernel for each chunk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::limits::FILE_CHUNK_BYTES;

/// Idle buffers kept for the next reads.
const IDLE_BUFFERS_MAX: usize = 32;

/// Buffers of [`FILE_CHUNK_BYTES`].
#[derive(Clone, Debug, Default)]
pub(crate) struct BufferPool {
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A buffer that returns to its pool when the last `Bytes` of it is gone.
struct Pooled {
    bytes: Vec<u8>,
    used: usize,
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_BUFFERS_MAX {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl BufferPool {
    /// Reads `length` bytes, at most [`FILE_CHUNK_BYTES`], at `offset`. Blocks.
    pub(crate) fn read_at(&self, file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
        debug_assert!(length <= FILE_CHUNK_BYTES);
        let taken = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = taken.unwrap_or_else(|| vec![0; FILE_CHUNK_BYTES]);
        let mut buffer = Pooled { bytes, used: length, idle: Arc::clone(&self.idle) };
        file.read_exact_at(&mut buffer.bytes[..length], offset)?;
        Ok(Bytes::from_owner(buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_buffer_is_used_again_once_its_bytes_are_gone() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let pool = BufferPool::default();
        let bytes = pool.read_at(&file, 2, 3).unwrap();
        assert_eq!(&bytes[..], b"234");
        assert_eq!(pool.idle.lock().unwrap().len(), 0);
        drop(bytes);
        assert_eq!(pool.idle.lock().unwrap().len(), 1);
        assert_eq!(&pool.read_at(&file, 0, 10).unwrap()[..], b"0123456789");
        assert_eq!(pool.idle.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_shrank_is_an_error_and_its_buffer_returns() {
        let file = tempfile::tempfile().unwrap();
        let pool = BufferPool::default();
        assert_eq!(pool.read_at(&file, 0, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(pool.idle.lock().unwrap().len(), 1);
    }
}
