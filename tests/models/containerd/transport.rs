//! HTTP/1.1 like Go's `net/http` client, on a raw socket, because it matters *how* a body ends. A FIN before
//! `Content-Length` is `io.ErrUnexpectedEOF` (Go `net/http/transfer.go`, `body.readLocked`), an RST is
//! another error. Connections are not reused: containerd's retries do not depend on that.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// 1.6.20 `remotes/docker/config/hosts.go:135`, 2.3.4 `core/remotes/docker/registry.go:258`:
/// `Dialer.Timeout`.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A request without a body.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(&'static str, String)>,
}

impl Request {
    /// Sets a header, replacing one of the same name.
    pub fn set(&mut self, name: &'static str, value: String) {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
    }
}

/// Why there is no response.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    #[error("could not connect: {0}")]
    Connect(String),
    #[error("EOF before the headers")]
    Eof,
    #[error("timeout awaiting response headers")]
    HeaderTimeout,
    #[error("{0}")]
    Other(String),
}

impl RequestError {
    /// 2.3.4 `core/remotes/docker/resolver.go:807` `isTransientTransportErr`: true for timeouts and EOF, not
    /// for a reset.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Eof | Self::HeaderTimeout)
    }
}

/// Premature end of a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Go's `io.ErrUnexpectedEOF`: a clean close with bytes missing.
    #[error("unexpected EOF")]
    UnexpectedEof,
    /// Any other error: a reset, a cancelled context.
    #[error("{0}")]
    Other(String),
}

/// Status line, headers and the body that is still to be read.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Go's `resp.ContentLength`; `None` is -1.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length").and_then(|value| value.parse().ok())
    }
}

#[derive(Debug)]
enum Framing {
    Length(u64),
    /// Bytes left in the current chunk; `None` before its size line.
    Chunked(Option<u64>),
    UntilClose,
    Done,
}

/// A response body. Dropping it closes the connection, as Go does with a body that was not read to its end.
#[derive(Debug)]
pub struct Body {
    stream: TcpStream,
    buffered: BytesMut,
    framing: Framing,
    counter: Arc<AtomicU64>,
}

/// Sends `request` and reads the response's headers; body bytes are counted in `counter`.
pub async fn send(
    address: SocketAddr,
    host: &str,
    request: &Request,
    header_timeout: Option<Duration>,
    counter: Arc<AtomicU64>,
) -> Result<Response, RequestError> {
    let connect = timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await;
    let mut stream = connect
        .map_err(|_| RequestError::Connect("i/o timeout".to_owned()))?
        .map_err(|error| RequestError::Connect(error.to_string()))?;
    let mut text = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes()).await.map_err(other)?;
    let mut buffered = BytesMut::with_capacity(16 << 10);
    let reading = read_head(&mut stream, &mut buffered);
    let (status, headers) = match header_timeout {
        Some(time) => timeout(time, reading).await.map_err(|_| RequestError::HeaderTimeout)??,
        None => reading.await?,
    };
    let framing = framing(request.method, status, &headers);
    Ok(Response { status, headers, body: Body { stream, buffered, framing, counter } })
}

fn other(error: io::Error) -> RequestError {
    RequestError::Other(error.to_string())
}

type Head = (u16, Vec<(String, String)>);

async fn read_head(stream: &mut TcpStream, buffered: &mut BytesMut) -> Result<Head, RequestError> {
    let end = loop {
        if let Some(end) = buffered.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if buffered.len() > HEAD_BYTES_MAX {
            return Err(RequestError::Other("response header too long".to_owned()));
        }
        if stream.read_buf(buffered).await.map_err(other)? == 0 {
            return Err(RequestError::Eof);
        }
    };
    let head = String::from_utf8_lossy(&buffered[..end]).into_owned();
    buffered.advance(end + 4);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|rest| rest.get(..3));
    let status = status.and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| RequestError::Other("malformed HTTP response".to_owned()))?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Ok((status, lines.filter_map(header).collect()))
}

fn framing(method: &str, status: u16, headers: &[(String, String)]) -> Framing {
    let header = |name: &str| headers.iter().find(|(other, _)| other == name).map(|(_, value)| value);
    if method == "HEAD" || status == 204 || status == 304 {
        return Framing::Done;
    }
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked(None);
    }
    match header("content-length").and_then(|value| value.parse().ok()) {
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    }
}

impl Body {
    /// Reads some bytes; 0 is the end (Go's `io.EOF`).
    pub async fn read(&mut self, target: &mut [u8]) -> Result<usize, ReadError> {
        let limit = match self.framing {
            Framing::Done | Framing::Length(0) => return Ok(0),
            Framing::Length(left) => left,
            Framing::UntilClose => u64::MAX,
            Framing::Chunked(left) => match self.chunk(left).await? {
                0 => return Ok(0),
                left => left,
            },
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(target.len());
        let count = self.take(&mut target[..limit]).await?;
        self.counter.fetch_add(count as u64, Ordering::Relaxed);
        match &mut self.framing {
            Framing::Length(left) | Framing::Chunked(Some(left)) if count > 0 => *left -= count as u64,
            Framing::UntilClose => {}
            Framing::Length(_) | Framing::Chunked(_) => return Err(ReadError::UnexpectedEof),
            Framing::Done => {}
        }
        Ok(count)
    }

    async fn take(&mut self, target: &mut [u8]) -> Result<usize, ReadError> {
        if self.buffered.is_empty() {
            return self.stream.read(target).await.map_err(|error| ReadError::Other(error.to_string()));
        }
        let count = self.buffered.len().min(target.len());
        target[..count].copy_from_slice(&self.buffered[..count]);
        self.buffered.advance(count);
        Ok(count)
    }

    /// Bytes left in the present chunk, or in the next one if it is used up; 0 after the last one.
    async fn chunk(&mut self, left: Option<u64>) -> Result<u64, ReadError> {
        match left {
            Some(left) if left > 0 => return Ok(left),
            Some(_) => drop(self.line().await?),
            None => {}
        }
        let line = self.line().await?;
        let size = u64::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
        let size = size.map_err(|_| ReadError::Other("malformed chunked encoding".to_owned()))?;
        if size == 0 {
            while !self.line().await?.is_empty() {}
            self.framing = Framing::Done;
        } else {
            self.framing = Framing::Chunked(Some(size));
        }
        Ok(size)
    }

    async fn line(&mut self) -> Result<String, ReadError> {
        loop {
            if let Some(end) = self.buffered.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffered[..end]).into_owned();
                self.buffered.advance(end + 2);
                return Ok(line);
            }
            let read = self.stream.read_buf(&mut self.buffered).await;
            if read.map_err(|error| ReadError::Other(error.to_string()))? == 0 {
                return Err(ReadError::UnexpectedEof);
            }
        }
    }

    /// Reads and discards `count` bytes.
    pub async fn discard(&mut self, mut count: u64) -> Result<(), ReadError> {
        let mut buffer = vec![0; 256 << 10];
        while count > 0 {
            let limit = usize::try_from(count).unwrap_or(usize::MAX).min(buffer.len());
            match self.read(&mut buffer[..limit]).await? {
                0 => return Err(ReadError::Other("unable to discard to offset".to_owned())),
                read => count -= read as u64,
            }
        }
        Ok(())
    }

    /// A small body as text.
    pub async fn text(&mut self) -> Result<String, ReadError> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 4 << 10];
        while all.len() < HEAD_BYTES_MAX {
            match self.read(&mut buffer).await? {
                0 => break,
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
        Ok(String::from_utf8_lossy(&all).into_owned())
    }
}
