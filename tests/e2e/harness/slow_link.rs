//! A slow link to a registry: a proxy that passes on what the registry answers at a limited rate, which all connections
//! share. It counts the bytes of each blob, and has faults of a link and of a registry.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use piccolo::oci::Digest;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Response};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::http;

/// Bytes that are sent at once.
const PIECE_BYTES: usize = 64 << 10;
/// Headers of an answer that are passed on.
const PASSED_ON: [&str; 6] =
    ["content-type", "content-length", "content-range", "docker-content-digest", "etag", "accept-ranges"];

/// What is wrong with the link, or with the registry behind it.
#[derive(Clone, Debug, Default)]
pub struct LinkFaults {
    /// Blobs are sent up to this offset of this blob, and not beyond.
    pub hold: Option<(Digest, u64)>,
    /// Connections are reset, old and new ones.
    pub is_gone: bool,
    /// Nothing of a blob is sent; connections stay open.
    pub is_silent: bool,
    /// Every request for a blob is answered with this status.
    pub refuses: Option<u16>,
    /// The byte at this offset of this blob is another one.
    pub wrong: Option<(Digest, u64)>,
    /// It is wrong the first time only that it is sent.
    pub is_wrong_once: bool,
}

/// The proxy, which ends when dropped.
pub struct SlowLink {
    address: SocketAddr,
    link: Arc<Link>,
    _tasks: JoinSet<()>,
}

struct Link {
    registry: String,
    client: Client,
    faults: watch::Sender<LinkFaults>,
    /// Bytes a second, and when the link is free for the next ones.
    pace: Mutex<(u64, Instant)>,
    sent: Mutex<HashMap<Digest, u64>>,
}

/// An answer on its way.
struct Passing {
    answer: Response,
    blob: Option<Digest>,
    /// Offset in the blob of the next byte.
    offset: u64,
}

/// The connection has ended.
struct Ended;

impl SlowLink {
    /// A link to `registry` (`http://host:port`) with this rate in bytes a second.
    pub async fn start(registry: &str, rate: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // It installs the provider of TLS; its own time limit is too short for a slow link.
        drop(http());
        let link = Arc::new(Link {
            registry: registry.to_owned(),
            client: Client::builder().no_proxy().build().unwrap(),
            faults: watch::Sender::default(),
            pace: Mutex::new((rate, Instant::now())),
            sent: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&link)));
        Self { address, link, _tasks: tasks }
    }

    /// The registry's name in references.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has these faults from now on.
    pub fn has(&self, faults: LinkFaults) {
        self.link.faults.send_replace(faults);
    }

    /// Sends so many bytes a second from now on.
    pub fn runs_at(&self, rate: u64) {
        self.link.pace.lock().unwrap().0 = rate;
    }

    /// Number of bytes of a blob that were sent.
    pub fn sent(&self, blob: &Digest) -> u64 {
        self.link.sent.lock().unwrap().get(blob).copied().unwrap_or_default()
    }

    /// Counts from zero again.
    pub fn forget(&self) {
        self.link.sent.lock().unwrap().clear();
    }
}

async fn accept(listener: TcpListener, link: Arc<Link>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&link)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, link: Arc<Link>) {
    let mut faults = link.faults.subscribe();
    let ended = tokio::select! {
        ended = link.answer_all(&mut stream) => ended,
        _ = faults.wait_for(|faults| faults.is_gone) => Err(Ended),
    };
    if ended.is_err() {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok();
    }
}

impl Link {
    async fn answer_all(&self, stream: &mut TcpStream) -> Result<(), Ended> {
        while let Some((method, target, headers)) = read_request(stream).await {
            let blob = target.rsplit_once("/blobs/").and_then(|(_, digest)| digest.parse::<Digest>().ok());
            let refused = blob.as_ref().and_then(|_| self.faults.borrow().refuses);
            if let Some(status) = refused {
                let head = format!("HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).await.map_err(|_| Ended)?;
                continue;
            }
            let url = format!("{}{target}", self.registry);
            let asked = self.client.request(method.clone(), url).headers(headers);
            let answer = asked.send().await.map_err(|_| Ended)?;
            stream.write_all(head(&answer).as_bytes()).await.map_err(|_| Ended)?;
            if method == Method::GET {
                let offset = first_byte(&answer);
                self.pass_on(stream, Passing { answer, blob, offset }).await?;
            }
        }
        Ok(())
    }

    async fn pass_on(&self, stream: &mut TcpStream, mut passing: Passing) -> Result<(), Ended> {
        while let Some(mut bytes) = passing.answer.chunk().await.map_err(|_| Ended)? {
            while !bytes.is_empty() {
                let piece = match &passing.blob {
                    Some(blob) => self.next_of(blob, passing.offset, &mut bytes).await,
                    None => bytes.split_to(bytes.len().min(PIECE_BYTES)),
                };
                let length = piece.len() as u64;
                sleep_until(self.turn(length)).await;
                stream.write_all(&piece).await.map_err(|_| Ended)?;
                passing.offset += length;
                if let Some(blob) = &passing.blob {
                    *self.sent.lock().unwrap().entry(blob.clone()).or_default() += length;
                }
            }
        }
        Ok(())
    }

    /// Takes the next piece of a blob from `bytes`, which begin at `offset`, once it may be sent.
    async fn next_of(&self, blob: &Digest, offset: u64, bytes: &mut Bytes) -> Bytes {
        let is_held = |faults: &LinkFaults| faults.hold.as_ref() == Some(&(blob.clone(), offset));
        let mut watched = self.faults.subscribe();
        let faults = watched.wait_for(|faults| !faults.is_silent && !is_held(faults)).await.unwrap().clone();
        let held = faults.hold.filter(|(held, at)| held == blob && *at > offset);
        let limit = held.map_or(PIECE_BYTES, |(_, at)| PIECE_BYTES.min((at - offset) as usize));
        let piece = bytes.split_to(bytes.len().min(limit));
        match faults.wrong {
            Some((wrong, at)) if wrong == *blob && (offset..offset + piece.len() as u64).contains(&at) => {
                if faults.is_wrong_once {
                    self.faults.send_modify(|faults| faults.wrong = None);
                }
                let mut piece = piece.to_vec();
                piece[(at - offset) as usize] ^= 0xff;
                piece.into()
            }
            _ => piece,
        }
    }

    /// When the next `length` bytes may be sent.
    fn turn(&self, length: u64) -> Instant {
        let mut pace = self.pace.lock().unwrap();
        let (rate, free) = *pace;
        let begin = free.max(Instant::now());
        pace.1 = begin + Duration::from_secs_f64(length as f64 / rate as f64);
        begin
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<(Method, String, HeaderMap)> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.parse().ok()?, first.next()?.to_owned());
    let passed_on = |(name, value): (&str, &str)| {
        let name: HeaderName = name.parse().ok()?;
        let is_passed_on = ["accept", "range"].contains(&name.as_str());
        is_passed_on.then_some((name, value.trim().parse::<HeaderValue>().ok()?))
    };
    let headers = lines.filter_map(|line| line.split_once(':')).filter_map(passed_on).collect();
    Some((method, target, headers))
}

fn head(answer: &Response) -> String {
    let mut head = format!("HTTP/1.1 {} Passed On\r\n", answer.status().as_u16());
    for name in PASSED_ON {
        if let Some(value) = answer.headers().get(name).and_then(|value| value.to_str().ok()) {
            head += &format!("{name}: {value}\r\n");
        }
    }
    head + "\r\n"
}

/// Offset of the first byte of a partial answer.
fn first_byte(answer: &Response) -> u64 {
    let range = answer.headers().get("content-range").and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
    first.unwrap_or_default()
}
