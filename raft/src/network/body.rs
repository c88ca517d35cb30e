//! Bodies of requests to other servers, which note their progress: a request that moves is not given up.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::limits::BODY_PIECE_BYTES;

/// The body of a request to another server.
pub type RpcBody = UnsyncBoxBody<Bytes, io::Error>;

/// When a request last moved.
#[derive(Clone, Debug)]
pub struct Progress {
    start: Instant,
    moved_ms: Arc<AtomicU64>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), moved_ms: Arc::default() }
    }

    /// Notes that the request makes progress.
    pub fn touch(&self) {
        self.moved_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Resolves when nothing has moved for `idle`.
    pub(super) async fn stalled(&self, idle: Duration) {
        loop {
            let moved = self.start + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
            if moved.elapsed() >= idle {
                return;
            }
            tokio::time::sleep_until(moved + idle).await;
        }
    }
}

/// Bytes as a body that notes its progress.
pub(crate) struct Pieces {
    left: VecDeque<Bytes>,
    progress: Progress,
}

impl Pieces {
    pub(crate) fn new(mut bytes: Bytes, progress: Progress) -> Self {
        let mut left = VecDeque::new();
        while !bytes.is_empty() {
            left.push_back(bytes.split_to(BODY_PIECE_BYTES.min(bytes.len())));
        }
        Self { left, progress }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.progress.touch();
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.iter().map(|piece| piece.len() as u64).sum())
    }
}
