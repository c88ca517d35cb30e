//! Answers of peers and of findkey to an agent that serves a containerd: for any input I5 holds, and the
//! agent's answer is one after which containerd continues (I4).
//!
//! An input is a byte for containerd's request, then all bytes that the peer sends; those after the first
//! empty line have the requested digest. With the highest bit of the first byte set, they are the body of the
//! server's findkey answer instead.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use piccolo::agent::{self, Config, StoreConfig};
use piccolo::oci::Digest;
use piccolo::task::Stop;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::raw::{Answers, Bytes, Listener};

/// Time for which the mirror may hold a request: short, because an input without usable bytes takes all of
/// it.
const RESOLVE_TIMEOUT: Duration = Duration::from_millis(500);
/// Time until the answer has ended: the agent waits for a source that sends something and then nothing.
const ANSWER_MAX: Duration = Duration::from_secs(12);
/// Statuses of a mirror without content, and of one whose agent is overloaded.
const REFUSALS: [u16; 4] = [404, 416, 502, 503];
/// Bit in the first byte of an input: its bytes are a server's.
const OF_SERVER: u8 = 0x80;

struct Site {
    runtime: Runtime,
    /// Body of findkey's answer.
    found: Bytes,
    mirror: SocketAddr,
    /// Each peer has its own address, because the agent remembers failures.
    peers: AtomicU32,
    _servers: Listener,
    _agent: JoinSet<()>,
    _layout: TempDir,
}

pub(super) fn run(input: &[u8]) {
    static SITE: OnceLock<Site> = OnceLock::new();
    let [mode, bytes @ ..] = input else { return };
    let site = SITE.get_or_init(Site::start);
    let body = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes, |end| &bytes[end + 4..]);
    let digest = Digest::of(body);
    let answer = site.runtime.block_on(async {
        let peer = site.peer(bytes).await;
        if mode & OF_SERVER != 0 {
            site.found.set(bytes.to_vec());
        } else {
            let holder = peer.address;
            site.found.set(format!(r#"{{"key":"k","Group":"g","holders":["{holder}"],"total":0}}"#).into());
        }
        let asked = Instant::now();
        let answer = tokio::time::timeout(ANSWER_MAX, ask(site.mirror, *mode, &digest)).await;
        answer.unwrap_or_else(|_| panic!("no end of the answer within {:?}", asked.elapsed()))
    });
    check(&answer, *mode, &digest);
}

/// Checks I5: an answer with a regular end has the digest. All others say so by their status, or are cut.
fn check(answer: &[u8], mode: u8, digest: &Digest) {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        assert!(answer.is_empty(), "an answer begins with a whole head");
        return;
    };
    let (head, body) = (String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase(), &answer[end + 4..]);
    let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.parse::<usize>().ok());
    match status {
        200 => {
            let is_head = mode % 4 == 3;
            let length = length.expect("every length is known");
            assert!(body.len() <= length, "more than was promised: {head}");
            if !is_head && body.len() == length {
                assert_eq!(Digest::of(body), *digest, "bad bytes in an answer that ends well: {head}");
            }
        }
        206 => assert!(head.contains("content-range: bytes "), "{head}"),
        _ => assert!(REFUSALS.contains(&status), "answered {status}: {head}"),
    }
}

impl Site {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("the system gives threads");
        let layout = tempfile::tempdir().expect("there is a place for temporary files");
        std::fs::create_dir_all(layout.path().join("blobs/sha256")).expect("a folder");
        std::fs::write(layout.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .expect("a file");
        std::fs::write(layout.path().join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#)
            .expect("a file");
        let found = Bytes::default();
        let servers = runtime.block_on(Listener::start([127, 0, 0, 1], server_answers(found.clone())));
        let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
        let config = Config {
            servers: vec![format!("http://{}", servers.address)],
            group: "g".to_owned(),
            mirror_listen: loopback,
            peer_listen: loopback,
            advertise: Some(([127, 0, 0, 1], 9).into()),
            advertise_among: agent::Selection::default(),
            metrics_listen: loopback,
            store: StoreConfig::Layout { folder: layout.path().to_owned() },
            zone: String::new(),
            resolve_timeout: RESOLVE_TIMEOUT,
            uploads_max: 0,
            upload_bytes_per_second: 0,
            heartbeat_interval: Duration::from_secs(30),
            state_dir: layout.path().join("state"),
            supervisor: std::process::id(),
            certs_dirs: Some(Vec::new()),
            registries: BTreeMap::new(),
        };
        let (ready, addresses) = mpsc::channel();
        let mut running = JoinSet::new();
        let handle = runtime.handle().clone();
        running.spawn_on(
            async move {
                let started =
                    move |addresses: agent::Addresses| ready.send(addresses).expect("we wait for it");
                agent::run(config, Stop::new(), started).await.expect("the agent goes on");
            },
            &handle,
        );
        let mirror = addresses.recv().expect("the agent starts").mirror;
        Self {
            runtime,
            found,
            mirror,
            peers: AtomicU32::new(0),
            _servers: servers,
            _agent: running,
            _layout: layout,
        }
    }

    async fn peer(&self, bytes: &[u8]) -> Listener {
        let [_, a, b, c] = self.peers.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let answer = bytes.to_vec();
        Listener::start([127, 1 + a % 200, b, c.max(1)], Arc::new(move |_| answer.clone())).await
    }
}

/// Answers of a server that accepts everything, and finds the given holders.
fn server_answers(found: Bytes) -> Answers {
    Arc::new(move |request| {
        let find = request.starts_with(b"GET /api/v1/distribution/findkey");
        let (status, body) = match find {
            true => ("200 OK", found.get()),
            false => ("201 Created", br#"{"success":true,"message":"","recorded":true}"#.to_vec()),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        [head.into_bytes(), body].concat()
    })
}

/// Sends a request of containerd; returns all bytes of the answer.
async fn ask(mirror: SocketAddr, mode: u8, digest: &Digest) -> Vec<u8> {
    let (method, kind, more) = match mode % 4 {
        0 => ("GET", "blobs", ""),
        1 => ("GET", "manifests", ""),
        2 => ("GET", "blobs", "Range: bytes=1-\r\n"),
        _ => ("HEAD", "blobs", ""),
    };
    let request = format!(
        "{method} /v2/library/app/{kind}/{digest}?ns=docker.io HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n"
    );
    let mut answer = Vec::new();
    let mut stream = TcpStream::connect(mirror).await.expect("the mirror listens");
    stream.write_all(request.as_bytes()).await.expect("the mirror reads");
    // A reset is an end, too: of wrong bytes.
    stream.read_to_end(&mut answer).await.ok();
    answer
}
