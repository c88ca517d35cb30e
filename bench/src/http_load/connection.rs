//! One connection of the load generator.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Answer;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Size of one read, bytes, which most answers fit into.
const READ_BYTES: usize = 16 * 1024;

/// A blocking connection: it is read once each time epoll reports that there is something.
pub(super) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    filled: usize,
    began: Instant,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
            .with_context(|| format!("could not connect to {address}"))?;
        stream.set_nodelay(true).context("could not set nodelay")?;
        Ok(Self {
            stream,
            request: Vec::new(),
            answer: vec![0; READ_BYTES],
            filled: 0,
            began: Instant::now(),
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends the next request; `false` if there is none.
    pub(super) fn send(&mut self, next: &mut impl FnMut(&mut Vec<u8>) -> bool) -> Result<bool> {
        self.request.clear();
        if !next(&mut self.request) {
            return Ok(false);
        }
        self.filled = 0;
        self.began = Instant::now();
        self.stream.write_all(&self.request).context("could not send a request")?;
        Ok(true)
    }

    /// Reads what has arrived; returns the answer when it is complete.
    pub(super) fn receive(&mut self) -> Result<Option<Answer<'_>>> {
        if self.filled == self.answer.len() {
            self.answer.resize(2 * self.filled, 0);
        }
        let read = self.stream.read(&mut self.answer[self.filled..]).context("could not read an answer")?;
        ensure!(read > 0, "a connection was closed in the middle of an answer");
        self.filled += read;
        let Some(head) = Head::parse(&self.answer[..self.filled])? else { return Ok(None) };
        match self.filled.cmp(&(head.bytes + head.length)) {
            std::cmp::Ordering::Less => Ok(None),
            std::cmp::Ordering::Equal => Ok(Some(Answer {
                status: head.status,
                body: &self.answer[head.bytes..self.filled],
                began: self.began,
                ended: Instant::now(),
            })),
            std::cmp::Ordering::Greater => bail!("more bytes than announced"),
        }
    }
}

/// Fields of the headers.
#[derive(Debug, PartialEq)]
struct Head {
    bytes: usize,
    status: u16,
    length: usize,
}

impl Head {
    /// Parses the headers; `None` while they are incomplete.
    fn parse(answer: &[u8]) -> Result<Option<Self>> {
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&answer[..end]).context("a header is not text")?;
        let status = text.get(9..12).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("no status in {text:?}"))?;
        let length = text.lines().skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let length = length.with_context(|| format!("no content-length in {text:?}"))?;
        Ok(Some(Self { bytes: end + 4, status, length }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_when_it_is_whole_and_must_have_a_length() {
        let whole = b"HTTP/1.1 404 Not Found\r\nserver: x\r\nContent-Length: 12\r\n\r\nbody";
        for cut in 0..whole.len() - 4 {
            assert_eq!(Head::parse(&whole[..cut]).unwrap(), None, "{cut}");
        }
        let bytes = whole.len() - 4;
        assert_eq!(Head::parse(whole).unwrap(), Some(Head { bytes, status: 404, length: 12 }));
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
