//! A plain HTTP/1.1 client that reads and discards. All sides are measured with it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Size of the read buffer, bytes: so large that system calls do not dominate, and so small that it fits into
/// the CPU's cache.
const BUFFER_BYTES: usize = 256 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without a byte after which a side has failed.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that is kept for further requests as long as the server keeps it.
pub(crate) struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// Headers of an answer.
#[derive(Debug)]
struct Head {
    status: u16,
    length: u64,
    close: bool,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, buffer: vec![0; BUFFER_BYTES] }
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)
            .with_context(|| format!("could not connect to {}", self.address))?;
        stream.set_read_timeout(Some(READ_TIMEOUT)).context("could not set a timeout")?;
        stream.set_nodelay(true).context("could not set nodelay")?;
        Ok(stream)
    }

    /// Sends a GET and passes the body to `sink` in pieces, until `sink` returns `false`. Returns the status,
    /// and whether the whole body was read.
    pub(crate) fn get(&mut self, path: &str, mut sink: impl FnMut(&[u8]) -> bool) -> Result<(u16, bool)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).context("could not send a request")?;
        let mut filled = 0;
        let head_bytes = loop {
            let read = stream.read(&mut self.buffer[filled..]).context("could not read a header")?;
            if read == 0 {
                bail!("{} closed before its header for {path}", self.address);
            }
            filled += read;
            if let Some(end) = self.buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = parse_head(&self.buffer[..head_bytes]).with_context(|| format!("GET {path}"))?;
        let mut missing = head.length;
        let mut piece = head_bytes..filled;
        loop {
            missing = missing.checked_sub(piece.len() as u64).context("more bytes than announced")?;
            let go_on = piece.is_empty() || sink(&self.buffer[piece.clone()]);
            if missing == 0 {
                break;
            }
            if !go_on {
                return Ok((head.status, false));
            }
            let limit = BUFFER_BYTES.min(usize::try_from(missing).unwrap_or(BUFFER_BYTES));
            let read = match stream.read(&mut self.buffer[..limit]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.with_context(|| format!("{missing} bytes of {path} missing"))?,
            };
            if read == 0 {
                bail!("{} closed with {missing} bytes of {path} missing", self.address);
            }
            piece = 0..read;
        }
        if !head.close {
            self.stream = Some(stream);
        }
        Ok((head.status, true))
    }
}

fn parse_head(bytes: &[u8]) -> Result<Head> {
    let text = std::str::from_utf8(bytes).context("a header is not text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let mut head = Head { status: status.context("no status line")?, length: 0, close: false };
    let mut length = None;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse().context("a length is not a number")?);
        } else if name.eq_ignore_ascii_case("connection") {
            head.close = value.trim().eq_ignore_ascii_case("close");
        }
    }
    head.length = length.with_context(|| format!("no content-length in {text:?}"))?;
    Ok(head)
}

/// Status and body of a small answer; `None` without a proper answer.
pub(crate) fn fetch(address: SocketAddr, path: &str) -> Option<(u16, Vec<u8>)> {
    let mut body = Vec::new();
    let (status, _) = Client::new(address)
        .get(path, |piece| {
            body.extend_from_slice(piece);
            true
        })
        .ok()?;
    Some((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_without_a_length_is_refused_and_close_is_understood() {
        let head =
            parse_head(b"HTTP/1.1 206 Partial\r\nContent-Length: 12\r\nConnection: Close\r\n\r\n").unwrap();
        assert_eq!((head.status, head.length, head.close), (206, 12, true));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
