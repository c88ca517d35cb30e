//! The body of an answer: a stream of known length that is counted, logged, and cut in the way that
//! its reader understands.
//!
//! A cut is a clean close (FIN with bytes missing), which containerd resumes, or a reset, which it
//! does not. hyper drops what it has not yet written when a body fails, and sends no header at all
//! if the body fails before it first waits: so a cut waits for [`FLUSH_WAIT`] first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::record::Record;
use super::store::StoreError;

/// Time for hyper to write out what it holds before a clean cut.
const FLUSH_WAIT: Duration = Duration::from_millis(20);

/// Bytes on their way out.
pub(crate) type ByteStream = BoxStream<'static, Result<Bytes, Cut>>;

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the source broke off")]
    SourceBroken,
    #[error("the bytes do not have the digest")]
    WrongBytes,
    #[error("no source has the right bytes")]
    NoSource,
    #[error("the content on this node is damaged")]
    Damaged,
    #[error("could not read the content")]
    Read(#[source] io::Error),
    #[error("could not read from the store")]
    Store(#[source] StoreError),
}

impl Cut {
    /// Whether bad bytes may have gone out already, so that resuming would complete them.
    fn needs_reset(&self) -> bool {
        matches!(self, Cut::WrongBytes | Cut::Damaged)
    }
}

/// See the module.
pub(crate) struct Served {
    stream: ByteStream,
    left: u64,
    record: Record,
    connection: Option<crate::http::Connection>,
    cut: Option<(Cut, Pin<Box<Sleep>>)>,
}

impl Served {
    /// A body of exactly `length` bytes. `connection` is what a reset is done to.
    pub(crate) fn body(
        stream: ByteStream,
        length: u64,
        record: Record,
        connection: Option<crate::http::Connection>,
    ) -> Body {
        Body::new(Self { stream, left: length, record, connection, cut: None })
    }
}

impl http_body::Body for Served {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        if this.cut.is_none() {
            let cut = match ready!(this.stream.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) if bytes.len() as u64 <= this.left => {
                    this.left -= bytes.len() as u64;
                    this.record.sent(bytes.len() as u64);
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                None if this.left == 0 => return Poll::Ready(None),
                Some(Err(cut)) => cut,
                Some(Ok(_)) | None => Cut::SourceBroken,
            };
            this.record.cut(&cut);
            if cut.needs_reset() {
                if let Some(connection) = &this.connection {
                    connection.reset_on_close();
                }
                return Poll::Ready(Some(Err(cut)));
            }
            this.cut = Some((cut, Box::pin(tokio::time::sleep(FLUSH_WAIT))));
        }
        if let Some((_, flushed)) = &mut this.cut {
            ready!(flushed.as_mut().poll(cx));
        }
        Poll::Ready(this.cut.take().map(|(cut, _)| Err(cut)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.cut.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
