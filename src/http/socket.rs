//! A TCP stream that can end with a reset, and whose writes time out when the client takes nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::slots::Slot;

/// The socket of a connection. With a linger time of zero, `close` sends RST. hyper has no call for that, but
/// it drops the stream when a body fails: then the flag decides. Until the drop nothing is shut down, because
/// a FIN that was sent could not be taken back.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
    /// How long a write may wait.
    silent_max: Duration,
    /// The deadline of the write that waits now.
    overdue: Option<Pin<Box<Sleep>>>,
    /// Notified when nothing of an answer is left to send.
    slot: Arc<Slot>,
}

impl Socket {
    pub(super) fn new(
        stream: TcpStream,
        reset: Arc<AtomicBool>,
        silent_max: Duration,
        slot: Arc<Slot>,
    ) -> Self {
        Self { stream, reset, silent_max, overdue: None, slot }
    }

    /// The first byte that the client has sent, which stays to be read; `None` if it has sent none.
    pub(super) async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        Ok((self.stream.peek(&mut byte).await? == 1).then_some(byte[0]))
    }

    /// Ends a write that has waited for too long. The kernel would not: a client that is alive acknowledges
    /// the probes of its closed window forever.
    fn bounded(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.overdue = None;
            return written;
        }
        let silent_max = self.silent_max;
        let overdue = self.overdue.get_or_insert_with(|| Box::pin(tokio::time::sleep(silent_max)));
        std::task::ready!(overdue.as_mut().poll(context));
        // Bytes that the client does not take should not stay in the kernel either.
        self.reset.store(true, Ordering::Release);
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing of what is sent to it",
        )))
    }

    fn must_reset(&self) -> bool {
        self.reset.load(Ordering::Acquire)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.must_reset()
            && let Err(error) = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
        {
            tracing::warn!(%error, "could not reset a connection");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // hyper flushes the socket only once its own buffer is empty.
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.slot.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.must_reset() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bounded(written, context)
    }
}

/// A request in flight. Dropped with the last byte of its answer's body.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Slot>);

impl InFlight {
    /// Begins a request; `None` if the connection must close.
    pub(super) fn begin(slot: &Arc<Slot>) -> Option<Self> {
        slot.begin().then(|| Self(Arc::clone(slot)))
    }

    pub(super) fn with(self, body: Body) -> AnswerBody {
        AnswerBody { body, _in_flight: self }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// The body of an answer, with the request that it keeps in flight.
#[derive(Debug)]
pub(super) struct AnswerBody {
    body: Body,
    _in_flight: InFlight,
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
