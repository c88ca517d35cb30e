//! The parallel fetch of one layer: 2.1.4 `core/remotes/docker/fetcher.go:498`, 2.3.4 `fetcher.go:502`.
//! Requests have open-ended ranges, of each of which one chunk is read before it is closed; chunks after the
//! first go to the same host; the reader gets them in order.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fetcher::{Fetcher, SLOTS, check_status};
use super::transport::{Body, ReadError, Request};
use super::{Trace, Version};

const PIECE_BYTES: usize = 256 << 10;

/// Content of one chunk's pipe: bytes, then the end or an error.
type Pipe = mpsc::UnboundedSender<Result<Vec<u8>, Option<ReadError>>>;

/// A blob that is read in chunks. Dropping it cancels the requests (2.3.4 `fetcher.go:580` `BeforeClose`).
#[derive(Debug)]
pub struct Parallel {
    pipes: Vec<mpsc::UnboundedReceiver<Result<Vec<u8>, Option<ReadError>>>>,
    current: usize,
    rest: Vec<u8>,
    used: usize,
    _workers: JoinSet<()>,
}

/// The first response, its slot, the request to clone, and its host.
pub type First = (Body, Option<OwnedSemaphorePermit>, Request, usize);

/// Number of the next chunk, and the first response until chunk 0 is taken.
type Next = (usize, Option<(Body, Option<OwnedSemaphorePermit>)>);

struct Chunks {
    fetcher: Arc<Fetcher>,
    trace: Arc<Trace>,
    request: Request,
    host: usize,
    offset: u64,
    /// Kept as long as the fetch: a pipe that nobody closes makes the reader wait, see `copy`.
    pipes: Vec<Pipe>,
    next: std::sync::Mutex<Next>,
    cancelled: CancellationToken,
}

impl Parallel {
    /// Starts the workers for `remaining` bytes from `offset` on.
    pub fn start(
        fetcher: Arc<Fetcher>,
        trace: Arc<Trace>,
        first: First,
        offset: u64,
        remaining: u64,
    ) -> Self {
        let (body, slot, request, host) = first;
        let count = remaining.div_ceil(fetcher.chunk_bytes) as usize;
        let (pipes, receivers) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let next = std::sync::Mutex::new((0, Some((body, slot))));
        let cancelled = CancellationToken::new();
        let chunks = Arc::new(Chunks { fetcher, trace, request, host, offset, pipes, next, cancelled });
        let mut workers = JoinSet::new();
        for _ in 0..SLOTS.min(count) {
            workers.spawn(Arc::clone(&chunks).work());
        }
        Self { pipes: receivers, current: 0, rest: Vec::new(), used: 0, _workers: workers }
    }

    /// `io.MultiReader` over the pipes: chunk by chunk, in order.
    pub async fn read(&mut self, target: &mut [u8]) -> Result<usize, ReadError> {
        while self.used == self.rest.len() {
            let Some(pipe) = self.pipes.get_mut(self.current) else { return Ok(0) };
            match pipe.recv().await.expect("the workers keep every pipe open") {
                Ok(piece) => (self.rest, self.used) = (piece, 0),
                Err(None) => self.current += 1,
                Err(Some(error)) => {
                    pipe.close();
                    return Err(error);
                }
            }
        }
        let count = target.len().min(self.rest.len() - self.used);
        target[..count].copy_from_slice(&self.rest[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

impl Chunks {
    /// One of the goroutines: takes chunks in order until one fails. A failure cancels all requests but that
    /// of chunk 0, which was made with the outer context (2.1.4 `:512` shadows it): chunks before the failed
    /// one then end with `context canceled`, which is not resumed.
    async fn work(self: Arc<Self>) {
        while !self.cancelled.is_cancelled() {
            let (index, first) = {
                let mut next = self.next.lock().unwrap();
                next.0 += 1;
                (next.0 - 1, next.1.take())
            };
            if index >= self.pipes.len() {
                break;
            }
            let went_well = match first {
                Some((body, slot)) => self.copy(index, body, slot).await,
                None => self.fetch(index).await,
            };
            if !went_well {
                self.cancelled.cancel();
                break;
            }
        }
        // The pipes stay open as long as the fetch: the reader decides when it ends.
        std::future::pending::<()>().await;
    }

    fn end(&self, index: usize, result: Option<ReadError>) {
        self.pipes[index].send(Err(result)).ok();
    }

    async fn fetch(&self, index: usize) -> bool {
        let canceled = ReadError::Other("context canceled".to_owned());
        let slot = tokio::select! {
            biased;
            () = self.cancelled.cancelled() => {
                // 2.1.4 `:542` returns without closing the pipe, so that the reader of this chunk waits
                // forever; 2.3.4 `:551` closes it.
                if self.fetcher.version == Version::V2_3 {
                    self.end(index, Some(canceled));
                }
                return false;
            }
            slot = self.fetcher.acquire() => slot,
        };
        let work = async {
            let mut request = self.request.clone();
            let start = self.offset + index as u64 * self.fetcher.chunk_bytes;
            request.set("Range", format!("bytes={start}-"));
            let is_last = self.host + 1 == self.fetcher.hosts.len();
            // Only `withErrorCheck`: neither 206 nor Content-Range is checked, and no other host is tried.
            let response = self.fetcher.do_with_retries(self.host, &mut request, is_last, &self.trace).await;
            match response.and_then(|response| check_status(&response).map(|()| response)) {
                Ok(response) => self.copy(index, response.body, slot).await,
                Err(error) => {
                    self.end(index, Some(ReadError::Other(error.to_string())));
                    false
                }
            }
        };
        tokio::select! {
            biased;
            went_well = work => went_well,
            () = self.cancelled.cancelled() => {
                self.end(index, Some(canceled));
                false
            }
        }
    }

    /// `io.Copy(writers[i], io.LimitReader(body, chunkSize))`; then the body is closed and the slot released.
    async fn copy(&self, index: usize, mut body: Body, slot: Option<OwnedSemaphorePermit>) -> bool {
        let mut left = self.fetcher.chunk_bytes as usize;
        let result = loop {
            let mut piece = vec![0; PIECE_BYTES.min(left)];
            if left == 0 {
                break None;
            }
            match body.read(&mut piece).await {
                Ok(0) => break None,
                Ok(count) => {
                    piece.truncate(count);
                    left -= count;
                    self.pipes[index].send(Ok(piece)).ok();
                }
                Err(error) => break Some(error),
            }
        };
        drop((body, slot));
        let went_well = result.is_none();
        self.end(index, result);
        went_well
    }
}
