//! One keep-alive HTTP/1.1 connection to a discovery server, written by hand: the load must not take the CPU
//! time that the servers need.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Timeout of connecting, as in the agent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Answer of a server.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    /// Value of `Retry-After`.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: &'a [u8],
}

/// A connection that is opened at its first use, and again after the server has closed it.
pub(crate) struct Connection {
    /// Source address; `None`: the system chooses.
    source: Option<IpAddr>,
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// End of an answer's headers, its status, and the length of its body.
struct Head {
    bytes: usize,
    status: u16,
    length: usize,
    close: bool,
    retry_after: Option<Duration>,
}

impl Connection {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { source: None, address, stream: None, buffer: Vec::new() }
    }

    /// A connection from the address of one host. If all hosts of a large fleet had one address, they would
    /// use up its 28,232 ports for each server, and the kernel would search in vain for a free one.
    pub(crate) fn from(source: IpAddr, address: SocketAddr) -> Self {
        Self { source: Some(source), ..Self::new(address) }
    }

    /// Another connection to the same server.
    pub(crate) fn another(&self) -> Self {
        Self { source: self.source, ..Self::new(self.address) }
    }

    /// Sends `request` and reads the answer. A failure on a used connection is retried once on a new one,
    /// because the server may have closed an idle connection. Without an answer within `time` the connection
    /// is dropped.
    pub(crate) async fn exchange(&mut self, request: &[u8], time: Duration) -> io::Result<Answer<'_>> {
        let used = self.stream.is_some();
        let ended = match timeout(time, self.attempt(request)).await {
            Ok(Err(_)) if used => timeout(time, self.attempt(request)).await,
            ended => ended,
        };
        let head = match ended {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                self.stream = None;
                return Err(io::ErrorKind::TimedOut.into());
            }
        };
        if head.close {
            self.stream = None;
        }
        let Head { bytes, status, length, retry_after, .. } = head;
        Ok(Answer { status, retry_after, body: &self.buffer[bytes..bytes + length] })
    }

    async fn attempt(&mut self, request: &[u8]) -> io::Result<Head> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.source, self.address).await?,
        };
        stream.write_all(request).await?;
        self.buffer.clear();
        let mut head: Option<Head> = None;
        loop {
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if head.is_none() {
                head = parse_head(&self.buffer)?;
            }
            if let Some(head) = head.take_if(|head| self.buffer.len() >= head.bytes + head.length) {
                self.stream = Some(stream);
                return Ok(head);
            }
        }
    }
}

async fn connect(source: Option<IpAddr>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.bind((source, 0).into())?;
    }
    let stream = timeout(CONNECT_TIMEOUT, socket.connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Parses the headers; `None` while they are incomplete.
fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not an answer of HTTP/1.1 with a length");
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| bad())?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let (mut length, mut close, mut retry_after) = (None, false, None);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            close = value.trim().eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("retry-after") {
            retry_after = value.trim().parse().ok().map(Duration::from_secs);
        }
    }
    let (Some(status), Some(length)) = (status, length) else { return Err(bad()) };
    Ok(Some(Head { bytes: end + 4, status, length, close, retry_after }))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_the_server_closed_is_made_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for body in ["first", "second"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 64];
                assert!(stream.read(&mut buffer).unwrap() > 0);
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
            }
        });
        let mut connection = Connection::new(address);
        for expected in ["first", "second"] {
            let answer = connection.exchange(b"GET / HTTP/1.1\r\n\r\n", CONNECT_TIMEOUT).await.unwrap();
            assert_eq!((answer.status, answer.body), (200, expected.as_bytes()));
        }
        server.join().unwrap();
        assert!(connection.exchange(b"GET / HTTP/1.1\r\n\r\n", CONNECT_TIMEOUT).await.is_err());
    }

    #[test]
    fn a_head_that_has_not_arrived_is_waited_for_and_one_without_a_length_refused() {
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n").unwrap().is_none());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        let head = parse_head(
            b"HTTP/1.1 503 X\r\nConnection: close\r\nRetry-After: 7\r\nContent-Length: 3\r\n\r\nabc",
        )
        .unwrap();
        let head = head.unwrap();
        assert_eq!((head.status, head.length, head.close), (503, 3, true));
        assert_eq!(head.retry_after, Some(Duration::from_secs(7)));
    }
}
