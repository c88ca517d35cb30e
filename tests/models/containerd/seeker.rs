//! `httpReadSeeker`: the rule of resuming. The same in 1.6.20 (`remotes/docker/httpreadseeker.go`) and 2.x
//! (`core/remotes/docker/httpreadseeker.go`).

use std::sync::Arc;

use super::Trace;
use super::fetcher::{Fetcher, Opened};
use super::transport::ReadError;

/// `httpreadseeker.go:28` `maxRetry`.
const RETRIES_WITHOUT_PROGRESS_MAX: u32 = 3;

/// Result of a read.
#[derive(Debug)]
pub enum Read {
    /// Number of bytes, possibly none.
    Bytes(usize),
    /// Go's `io.EOF`.
    End,
}

/// Reads one blob over as many responses as it needs.
#[derive(Debug)]
pub struct Seeker {
    fetcher: Arc<Fetcher>,
    trace: Arc<Trace>,
    digest: String,
    size: u64,
    offset: u64,
    body: Option<Opened>,
    without_progress: u32,
}

impl Seeker {
    pub fn new(fetcher: Arc<Fetcher>, trace: Arc<Trace>, digest: &str, size: u64) -> Self {
        Self { fetcher, trace, digest: digest.to_owned(), size, offset: 0, body: None, without_progress: 0 }
    }

    /// `httpreadseeker.go:95` `Seek`: no request before the next read.
    pub fn seek(&mut self, offset: u64) {
        if offset != self.offset {
            self.body = None;
            self.offset = offset;
        }
    }

    /// `httpreadseeker.go:47` `Read`.
    pub async fn read(&mut self, target: &mut [u8]) -> Result<Read, ReadError> {
        if self.body.is_none() {
            // `:134` `reader`: at the end, or past it, there is no request, and the reader is empty.
            if self.offset >= self.size {
                return Ok(Read::End);
            }
            self.open().await.map_err(ReadError::Other)?;
        }
        let body = self.body.as_mut().expect("opened above");
        match body.read(target).await {
            Ok(0) => {
                // 2.1.4 `:79`: closed at the end, which releases the slot; 1.6 has no slots.
                self.body = None;
                Ok(Read::End)
            }
            Ok(count) => {
                self.offset += count as u64;
                self.without_progress = 0;
                Ok(Read::Bytes(count))
            }
            Err(ReadError::UnexpectedEof) => self.resume().await,
            Err(error) => Err(error),
        }
    }

    /// `:62`: only `io.ErrUnexpectedEOF` is resumed, beginning with the first host, three times at one
    /// offset. If no host can be opened, the caller gets the unexpected EOF.
    async fn resume(&mut self) -> Result<Read, ReadError> {
        self.without_progress += 1;
        if self.without_progress > RETRIES_WITHOUT_PROGRESS_MAX {
            return Err(ReadError::UnexpectedEof);
        }
        self.body = None;
        match self.open().await {
            Ok(()) => Ok(Read::Bytes(0)),
            Err(_) => Err(ReadError::UnexpectedEof),
        }
    }

    async fn open(&mut self) -> Result<(), String> {
        let opened = self.fetcher.open(&self.digest, self.offset, &self.trace).await;
        self.body = Some(opened.map_err(|error| error.to_string())?);
        Ok(())
    }
}
