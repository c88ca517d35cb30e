//! The body of a response: a stream of known length that is counted, logged, and cut in the way that
//! its reader understands.
//!
//! A cut is a clean close (FIN with bytes missing), which containerd resumes, or a reset, which it
//! does not. hyper drops what it has not yet written when a body fails, and sends no header at all
//! if the body fails before it first waits: so a cut waits for [`CUT_FLUSH_WAIT`] first.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::record::Record;
use crate::agent::content::byte_stream::{ByteStream, Cut};
use crate::limits::CUT_FLUSH_WAIT;

/// The body of one response.
pub(super) struct Served {
    stream: ByteStream,
    /// Bytes that are still to be sent.
    left: u64,
    record: Record,
    connection: Option<crate::http::Connection>,
    /// Why the body ends early, and the time until it does.
    cut: Option<(Cut, Pin<Box<Sleep>>)>,
    names_length: bool,
}

impl Served {
    /// A body of exactly `length` bytes. `connection` is reset after bad bytes.
    pub(super) fn new(
        stream: ByteStream,
        length: u64,
        record: Record,
        connection: Option<crate::http::Connection>,
    ) -> Self {
        Self { stream, left: length, record, connection, cut: None, names_length: true }
    }

    /// The same, whose length the client learns at the end.
    pub(super) fn without_length(self) -> Self {
        Self { names_length: false, ..self }
    }

    pub(super) fn into_body(self) -> Body {
        Body::new(self)
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
            this.cut = Some((cut, Box::pin(tokio::time::sleep(CUT_FLUSH_WAIT))));
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
        if self.names_length { SizeHint::with_exact(self.left) } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::counters::Counters;
    use crate::agent::serve::record::{Received, Side};
    use crate::agent::testing::{SOON, get};
    use crate::http::{self, Connection, ConnectionLimits};
    use crate::oci::{ApiPath, Digest};
    use crate::task::Stop;
    use axum::Router;
    use axum::http::{Method, Response};
    use futures_util::{StreamExt, stream};
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use tokio_util::task::TaskTracker;

    fn record() -> Record {
        let path = format!("/v2/a/blobs/{}", Digest::of(b"x"));
        let Ok(ApiPath::Content(path)) = ApiPath::parse(&path, None) else { panic!("{path}") };
        let received = Received { side: Side::Mirror, method: &Method::GET, path: &path, connection: None };
        Record::new(&received, Arc::<Counters>::default())
    }

    /// Serves ten bytes of which `pieces` come, and then `cut`, all at once.
    async fn serve(pieces: &'static [&'static [u8]], cut: fn() -> Cut) -> (SocketAddr, Stop, TaskTracker) {
        let handler = move |axum::Extension(connection): axum::Extension<Connection>| async move {
            let pieces = pieces.iter().map(|piece| Ok(Bytes::from_static(piece)));
            let stream = stream::iter(pieces.chain([Err(cut())])).boxed();
            let body = Served::new(stream, 10, record(), Some(connection)).into_body();
            Response::builder().header("content-length", 10).body(body).unwrap()
        };
        let listener = http::bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
        let (address, stop, tasks) = (listener.local_addr().unwrap(), Stop::new(), TaskTracker::new());
        let router = Router::new().fallback(handler);
        tasks.spawn(http::serve(listener, router, ConnectionLimits::default(), stop.clone()));
        (address, stop, tasks)
    }

    #[tokio::test]
    async fn a_clean_cut_loses_nothing_that_was_handed_over() {
        let (address, stop, tasks) = serve(&[b"123", b"45"], || Cut::SourceBroken).await;
        let got = get(address, "/").await;
        assert_eq!((got.status, &got.body[..], got.end), (200, &b"12345"[..], Ok(())));
        stop.cancel();
        tasks.close();
        assert!(tokio::time::timeout(SOON, tasks.wait()).await.is_ok());
    }

    /// Without a header containerd would see an empty answer, which it does not resume.
    #[tokio::test]
    async fn a_clean_cut_before_the_first_byte_still_sends_the_header() {
        let (address, _stop, _tasks) = serve(&[], || Cut::Unkept(String::new())).await;
        let got = get(address, "/").await;
        assert_eq!((got.status, got.body.len(), got.end), (200, 0, Ok(())));
        assert_eq!(got.header("content-length"), Some("10"));
    }

    #[tokio::test]
    async fn a_body_without_a_length_ends_when_all_bytes_are_out() {
        let body = |pieces: Vec<Result<Bytes, Cut>>| {
            Served::new(stream::iter(pieces).boxed(), 5, record(), None).without_length().into_body()
        };
        let bytes = || vec![Ok(Bytes::from_static(b"123")), Ok(Bytes::from_static(b"45"))];
        assert_eq!(http_body::Body::size_hint(&body(bytes())).exact(), None);
        assert_eq!(axum::body::to_bytes(body(bytes()), 10).await.unwrap(), "12345");
        let cut = vec![Ok(Bytes::from_static(b"123")), Err(Cut::SourceBroken)];
        axum::body::to_bytes(body(cut), 10).await.unwrap_err();
    }

    #[tokio::test]
    async fn bad_bytes_end_in_a_reset() {
        for cut in [|| Cut::WrongBytes, || Cut::Damaged] {
            let (address, _stop, _tasks) = serve(&[b"12345"], cut).await;
            assert_eq!(get(address, "/").await.end, Err(io::ErrorKind::ConnectionReset));
        }
    }

    #[tokio::test]
    async fn more_bytes_than_promised_are_not_sent() {
        let (address, _stop, _tasks) = serve(&[b"12345", b"67890X"], || Cut::SourceBroken).await;
        let got = get(address, "/").await;
        assert_eq!((&got.body[..], got.end), (&b"12345"[..], Ok(())));
    }
}
