//! A client of the agent's ports, which sees how each connection ends.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::SOON;

/// A response as a client saw it.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// How the connection ended.
    pub(crate) end: Result<(), io::ErrorKind>,
}

impl Got {
    /// Parses everything that a connection has sent.
    pub(crate) fn parse(bytes: &[u8], end: Result<(), io::ErrorKind>) -> Self {
        let split = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head, body: bytes[split..].to_vec(), end }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Whether the whole body that the head promises has arrived, and the connection ended cleanly.
    pub(crate) fn is_complete(&self) -> bool {
        self.end.is_ok() && self.header("content-length") == Some(&self.body.len().to_string())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) async fn get(address: SocketAddr, target: &str) -> Got {
    request(address, "GET", target, "").await
}

pub(crate) async fn get_range(address: SocketAddr, target: &str, range: &str) -> Got {
    request(address, "GET", target, &format!("Range: {range}\r\n")).await
}

/// Sends one request on a connection of its own.
pub(crate) async fn request(address: SocketAddr, method: &str, target: &str, headers: &str) -> Got {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).await.map(|_| ()).map_err(|error| error.kind());
        (bytes, end)
    };
    let (bytes, end) = tokio::time::timeout(SOON, exchange).await.expect("an answer that ends");
    Got::parse(&bytes, end)
}
