//! Peers that send given bytes, and end their connections in every way.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::task::Stop;

/// What a raw peer does after its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Close,
    Reset,
    /// Stays silent until the other side closes.
    Hang,
    /// Holds back this many of its last bytes for a while, then sends them and closes.
    Later(Duration, usize),
    /// Sends this again and again, until the other side closes.
    Repeat(&'static [u8]),
}

/// Computes the bytes that a raw peer sends for the text of a request.
type Answer = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// A peer that answers every request with the same bytes, unless it is [`RawPeer::holding`] a blob.
pub(crate) struct RawPeer {
    pub(crate) address: SocketAddr,
    /// Requests that it received, as text.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    /// Number of connections that the other side has not closed.
    pub(crate) open: Arc<AtomicUsize>,
    stop: Stop,
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl RawPeer {
    pub(crate) async fn start(answer: impl Into<Vec<u8>>, end: End) -> Self {
        Self::paused(answer.into(), end, Duration::ZERO).await
    }

    /// A peer that serves this blob properly, including ranges without an end.
    pub(crate) async fn holding(body: &[u8]) -> Self {
        let body = body.to_vec();
        let answer = move |request: &str| {
            let line = request
                .to_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-').map(str::to_owned));
            let start = line.map_or(0, |start| start.parse().unwrap());
            let (length, total) = (body.len() - start, body.len());
            let (status, range) = match start {
                0 => ("200 OK", String::new()),
                _ => {
                    ("206 Partial Content", format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1))
                }
            };
            let head = format!("HTTP/1.1 {status}\r\n{range}Content-Length: {length}\r\n\r\n");
            with_head(&head, &body[start..])
        };
        Self::answering(Arc::new(answer), End::Close, Duration::ZERO).await
    }

    /// A peer that answers `200` with a `Content-Length`, and a body that may have another length.
    pub(crate) async fn ok(length: usize, body: &[u8], end: End) -> Self {
        Self::start(with_head(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"), body), end)
            .await
    }

    /// A peer that answers after `pause`.
    pub(crate) async fn paused(answer: Vec<u8>, end: End, pause: Duration) -> Self {
        Self::answering(Arc::new(move |_: &str| answer.clone()), end, pause).await
    }

    async fn answering(answer: Answer, end: End, pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, open, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default(), Stop::new());
        let peer =
            Self { address, requests: Arc::clone(&requests), open: Arc::clone(&open), stop: stop.clone() };
        let tasks = TaskTracker::new();
        let connections = tasks.clone();
        tasks.spawn(async move {
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (requests, open, answer) =
                    (Arc::clone(&requests), Arc::clone(&open), Arc::clone(&answer));
                connections.spawn(async move {
                    open.fetch_add(1, Ordering::SeqCst);
                    _ = converse(stream, &requests, &answer, pause, end).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        peer
    }

    /// A peer that answers properly, but after `pause`.
    pub(crate) async fn slow(pause: Duration, body: &[u8]) -> Self {
        let answer = with_head(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()), body);
        Self::paused(answer, End::Close, pause).await
    }

    /// A peer that answers properly and at once, but sends the second half of the body after `pause`.
    pub(crate) async fn trickle(body: &[u8], pause: Duration) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Self::start(with_head(&head, body), End::Later(pause, body.len() / 2)).await
    }

    pub(crate) fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

pub(crate) fn with_head(head: &str, body: &[u8]) -> Vec<u8> {
    [head.as_bytes(), body].concat()
}

async fn converse(
    mut stream: TcpStream,
    requests: &Mutex<Vec<String>>,
    answer: &Answer,
    pause: Duration,
    end: End,
) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let answer = answer(&request);
    requests.lock().unwrap().push(request);
    tokio::time::sleep(pause).await;
    let (now, later) = match end {
        End::Later(_, count) => answer.split_at(answer.len() - count),
        _ => (&answer[..], &[][..]),
    };
    stream.write_all(now).await?;
    match end {
        End::Later(pause, _) => {
            tokio::time::sleep(pause).await;
            stream.write_all(later).await?;
            stream.shutdown().await?;
        }
        End::Close => stream.shutdown().await?,
        End::Reset => {
            // Bytes that were sent should arrive before the reset discards them.
            tokio::time::sleep(Duration::from_millis(100)).await;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        End::Hang => _ = stream.read_u8().await,
        End::Repeat(bytes) => {
            let many = bytes.repeat(1_000);
            loop {
                stream.write_all(&many).await?;
            }
        }
    }
    Ok(())
}
