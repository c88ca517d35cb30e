//! An HTTP server on a raw socket that follows a script, and records requests and sent bytes.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::blob::Blob;

const PIECE_BYTES: usize = 256 << 10;
/// Piece after which another answer has its turn on the link.
const PACED_BYTES: usize = 32 << 10;

/// A received request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Number of earlier requests.
    pub number: usize,
    pub method: String,
    /// Path and query.
    pub target: String,
    /// First and optional last byte of the range.
    pub range: Option<(u64, Option<u64>)>,
    /// Headers, with names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// One step of an answer. After the last one the connection reads the next request.
#[derive(Clone, Debug)]
pub enum Part {
    /// Sends the status line and headers.
    Head(String),
    /// Sends body bytes at full speed.
    Body(Bytes),
    /// Sends the status line and headers at one byte a second.
    SlowHead(String),
    SlowBody(Vec<Bytes>),
    /// Sends body bytes as fast as the link allows, which other answers share.
    Paced(Bytes, Arc<Link>),
    /// Sends nothing for some time.
    Pause(Duration),
    /// Waits until the token is cancelled.
    Wait(CancellationToken),
    /// Sends nothing more; the connection stays open.
    Freeze,
    /// Closes the connection with FIN.
    Close,
    /// Closes the connection with RST.
    Reset,
    /// Closes the connection with FIN, and the listener.
    Gone,
}

/// A link that many answers share.
#[derive(Debug)]
pub struct Link {
    bytes_per_second: u64,
    /// When all that was taken so far is out.
    free_at: Mutex<Instant>,
}

impl Link {
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more are out.
    async fn take(&self, bytes: usize) {
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let until = {
            let mut free_at = self.free_at.lock().unwrap();
            *free_at = (*free_at).max(Instant::now()) + time;
            *free_at
        };
        tokio::time::sleep_until(until.into()).await;
    }
}

pub type Script = Arc<dyn Fn(&Asked) -> Vec<Part> + Send + Sync>;

/// A running server, which ends when dropped.
pub struct Scripted {
    pub address: SocketAddr,
    state: Arc<ScriptState>,
    _tasks: JoinSet<()>,
}

struct ScriptState {
    script: Script,
    count: AtomicUsize,
    log: Mutex<Vec<Asked>>,
    sent: AtomicU64,
    last_sent: Mutex<Option<Instant>>,
    gone: CancellationToken,
}

impl Scripted {
    /// Listens on a free port of `ip`.
    pub async fn start(ip: &str, script: Script) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ScriptState {
            script,
            count: AtomicUsize::default(),
            log: Mutex::default(),
            sent: AtomicU64::default(),
            last_sent: Mutex::default(),
            gone: CancellationToken::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, _tasks: tasks }
    }

    /// Number of body bytes passed to the system.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// Time of the last of them.
    pub fn last_sent(&self) -> Option<Instant> {
        *self.state.last_sent.lock().unwrap()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.log.lock().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, state: Arc<ScriptState>) {
    let mut connections = JoinSet::new();
    let accepting = async {
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream, Arc::clone(&state)));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = state.gone.cancelled() => {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(mut stream: TcpStream, state: Arc<ScriptState>) {
    while let Some(asked) = read_request(&mut stream, &state).await {
        let parts = (state.script)(&asked);
        state.log.lock().unwrap().push(asked);
        for part in parts {
            if !state.play(&mut stream, part).await {
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, state: &ScriptState) -> Option<Asked> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let range = headers.iter().find(|(name, _)| name == "range").and_then(|(_, value)| {
        let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().ok()?, to.parse().ok()))
    });
    let number = state.count.fetch_add(1, Ordering::Relaxed);
    Some(Asked { number, method, target, range, headers })
}

impl ScriptState {
    /// Plays one part; returns whether the connection continues.
    async fn play(&self, stream: &mut TcpStream, part: Part) -> bool {
        match part {
            Part::Head(head) => return stream.write_all(head.as_bytes()).await.is_ok(),
            Part::Body(bytes) => return self.body(stream, &bytes, None).await,
            Part::Paced(bytes, link) => return self.body(stream, &bytes, Some(&link)).await,
            Part::Pause(time) => {
                tokio::time::sleep(time).await;
                return true;
            }
            Part::SlowHead(head) => return self.slowly(stream, head.as_bytes(), 0).await,
            Part::SlowBody(pieces) => {
                for piece in pieces {
                    if !self.slowly(stream, &piece, 1).await {
                        return false;
                    }
                }
                return true;
            }
            Part::Wait(token) => {
                token.cancelled().await;
                return true;
            }
            Part::Freeze => std::future::pending::<()>().await,
            Part::Close => {}
            Part::Reset => drop(SockRef::from(&*stream).set_linger(Some(Duration::ZERO))),
            Part::Gone => self.gone.cancel(),
        }
        false
    }

    async fn body(&self, stream: &mut TcpStream, bytes: &Bytes, link: Option<&Link>) -> bool {
        for piece in bytes.chunks(if link.is_some() { PACED_BYTES } else { PIECE_BYTES }) {
            if let Some(link) = link {
                link.take(piece.len()).await;
            }
            if stream.write_all(piece).await.is_err() {
                return false;
            }
            self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            *self.last_sent.lock().unwrap() = Some(Instant::now());
        }
        true
    }

    async fn slowly(&self, stream: &mut TcpStream, bytes: &[u8], counts: u64) -> bool {
        for byte in bytes {
            if stream.write_all(&[*byte]).await.is_err() {
                return false;
            }
            self.sent.fetch_add(counts, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        true
    }
}

/// Headers with `Content-Length` and others.
pub fn head(status: u16, length: u64, more: &[(&str, &str)]) -> String {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {length}\r\n");
    more.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
    text + "\r\n"
}

/// An answer without a body.
pub fn status(status: u16) -> Vec<Part> {
    vec![Part::Head(head(status, 0, &[]))]
}

/// Headers for `blob` as a correct server sends them, and their bytes `from .. to`; `None`: no body.
pub fn promise(blob: &Blob, asked: &Asked) -> (String, Option<(u64, u64)>) {
    let size = blob.size();
    let kind = ("Content-Type", "application/octet-stream");
    let digest = ("Docker-Content-Digest", blob.digest.as_str());
    let (from, to) = match asked.range {
        Some((from, to)) => (from, to.map_or(size, |to| (to + 1).min(size))),
        None => (0, size),
    };
    if from >= to && asked.range.is_some() {
        return (head(416, 0, &[("Content-Range", &format!("bytes */{size}"))]), None);
    }
    let text = match asked.range {
        Some(_) => {
            let range = format!("bytes {from}-{}/{size}", to - 1);
            head(206, to - from, &[kind, digest, ("Content-Range", &range)])
        }
        None => head(200, size, &[kind, digest, ("Accept-Ranges", "bytes")]),
    };
    (text, (asked.method != "HEAD").then_some((from, to)))
}

/// A complete correct answer.
pub fn honest(blob: &Blob, asked: &Asked) -> Vec<Part> {
    if asked.target.ends_with("/v2/") {
        return status(200);
    }
    if !asked.target.contains(&blob.digest) {
        return status(404);
    }
    let (head, body) = promise(blob, asked);
    let mut parts = vec![Part::Head(head)];
    if let Some((from, to)) = body {
        parts.extend(blob.slice(from, to).into_iter().map(Part::Body));
    }
    parts
}

/// Script of a server that serves `blob` correctly.
pub fn good(blob: &Blob) -> Script {
    let blob = blob.clone();
    Arc::new(move |asked| honest(&blob, asked))
}
