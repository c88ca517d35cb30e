//! A listener that answers every request with the same bytes, and closes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Number of bytes of a request that are read.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// Timeout; the client is in this process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the answer of a listener from the request.
pub(super) type Answers = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// Bytes that can be replaced while the listener runs.
#[derive(Clone, Default)]
pub(super) struct Bytes(Arc<Mutex<Vec<u8>>>);

impl Bytes {
    pub(super) fn set(&self, bytes: Vec<u8>) {
        *self.0.lock().expect("nothing panics with it in hand") = bytes;
    }

    pub(super) fn get(&self) -> Vec<u8> {
        self.0.lock().expect("nothing panics with it in hand").clone()
    }

    pub(super) fn answers(&self) -> Answers {
        let bytes = self.clone();
        Arc::new(move |_| bytes.get())
    }
}

/// A listener that serves until it is dropped.
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    _task: JoinSet<()>,
}

impl Listener {
    /// Starts on a free port of `ip`, inside a runtime.
    pub(super) async fn start(ip: [u8; 4], answers: Answers) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((ip, 0))).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(tokio::time::timeout(PATIENCE, serve(stream, Arc::clone(&answers))));
            }
        });
        Self { address, _task: task }
    }
}

async fn serve(mut stream: TcpStream, answers: Answers) {
    let mut request = Vec::new();
    while !is_whole(&request) && request.len() < REQUEST_BYTES_MAX {
        match stream.read_buf(&mut request).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
    }
    // A client that does not want all bytes may close.
    if stream.write_all(&answers(&request)).await.is_ok() && stream.shutdown().await.is_ok() {
        while stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
            request.clear();
        }
    }
}

/// True if headers and body are complete.
fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    request.len() - end - 4 >= length.and_then(|length| length.trim().parse().ok()).unwrap_or(0)
}
