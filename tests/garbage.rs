//! Garbage at every port of a real server and a real agent (I7): bytes of no protocol, mutated requests, raft
//! messages, cut connections. Afterwards both processes are the same as before, within their memory limits,
//! and work.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "fuzz/src/mutate.rs"]
#[allow(unreachable_pub, reason = "shared with the crate that fuzzes readers one by one")]
mod mutate;
#[path = "support/site.rs"]
mod site;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mutate::Mutator;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use site::{Agent, Layout, SOON, Server, Setup, get, noise, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SEED: u64 = 0x0067_6172_6261_6765;
/// Time for which garbage is sent.
const GARBAGE: Duration = Duration::from_secs(6);
/// Number of concurrent connections.
const THROWERS: usize = 16;
/// Time that is waited for an answer: most garbage gets none until it is cut off.
const LISTEN: Duration = Duration::from_millis(20);
/// Least number of sent inputs, however long that takes.
const THROWN_MIN: u64 = 500;
/// Peak memory of either process, bytes; a debug build of the agent has 80 MiB at its connection limits, and
/// one of the server little more.
const MEMORY_MAX: u64 = 128 << 20;
/// No garbage has this group, so that nobody fetches from holders that garbage names.
const GROUP: &str = "quiet";
/// Configuration in which no registry is asked.
const CONFIG: &str = "[registry._default]\ntags = \"off\"\n";

/// Words for all ports, without those that could change the cluster's members.
const WORDS: [&str; 16] = [
    "GET ",
    "POST ",
    " HTTP/1.1\r\n",
    "\r\n\r\n",
    "Content-Length: 18446744073709551615\r\n",
    "Transfer-Encoding: chunked\r\n",
    "ffffffffffffffff\r\n",
    "Expect: 100-continue\r\n",
    "Range: bytes=-1,0-\r\n",
    "Connection: upgrade\r\nUpgrade: h2c\r\n",
    "/v2/",
    "/api/v1/distribution/sync",
    "/raft/v1/append",
    "%00",
    "\u{0}",
    "{\"keys\":[",
];

/// Initial requests, as they are sent.
fn requests() -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let files = |target: &str| {
        let entries = std::fs::read_dir(corpus.join(target)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| !path.to_string_lossy().contains("members")).collect();
        paths.sort();
        paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let discovery = files("discovery").into_iter().filter_map(|text| {
        let text = String::from_utf8(text).ok().filter(|text| !text.contains("members"))?;
        let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let headers = if headers.is_empty() { String::new() } else { headers.replace('\n', "\r\n") + "\r\n" };
        Some(request(line, &headers, body.as_bytes()))
    });
    let paths = files("path")
        .into_iter()
        .map(|path| request(&format!("GET {}", String::from_utf8_lossy(&path)), "Range: bytes=1-\r\n", b""));
    let raft = files("raft_rpc").into_iter().zip(0..).filter(|(message, _)| message.len() > 2).map(
        |(message, n)| {
            let routes = ["append", "vote", "pre-vote", "transfer", "snapshot", "standing", "whoami"];
            request(&format!("POST /raft/v1/{}", routes[n % routes.len()]), "", &message[2..])
        },
    );
    let others: [&[u8]; 4] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/v1/keepalive HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n{",
    ];
    discovery.chain(paths).chain(raft).chain(others.map(<[u8]>::to_vec)).collect()
}

fn request(line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// Sends one input, chosen by `seed`, on a new connection.
async fn throw(address: SocketAddr, mutator: &Mutator, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut bytes = mutator.input(seed);
    if random.random_bool(0.1) {
        bytes = (0..random.random_range(0..2_000)).map(|_| random.random()).collect();
    }
    let connected = tokio::time::timeout(SOON, TcpStream::connect(address)).await;
    let mut stream = connected.expect("a port is not stuck").unwrap();
    if random.random_bool(0.3) {
        stream.set_zero_linger().unwrap(); // ends with a reset
    }
    let cut = random.random_range(0..=bytes.len());
    let cut = if random.random_bool(0.2) { cut } else { bytes.len() };
    // The other side may close after the beginning.
    if stream.write_all(&bytes[..cut]).await.is_err()
        || (random.random_bool(0.5) && stream.shutdown().await.is_err())
    {
        return;
    }
    let mut answer = vec![0; 4_096];
    if let Ok(Ok(read @ 1..)) = tokio::time::timeout(LISTEN, stream.read(&mut answer)).await {
        let text = String::from_utf8_lossy(&answer[..read]);
        assert!(!text.starts_with("HTTP/1.1 500"), "seed {seed} at {address}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_at_every_port_changes_nothing() {
    let layout = Layout::empty();
    let bytes = noise(1, 100_000);
    let digest = layout.put(&bytes);
    let server = Server::start().await;
    let setup = Setup {
        servers: vec![server.url.clone()],
        layout: Some(layout.path()),
        flags: &["--group", GROUP],
        config: CONFIG,
        ..Setup::default()
    };
    let agent = Agent::start(setup).await;
    agent.synced().await;
    let before = (server.process.pids(), agent.process.pids());
    let api: SocketAddr = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let ports = [api, server.raft, agent.mirror, agent.peer, agent.metrics];

    let words = WORDS.iter().map(|word| word.as_bytes().to_vec()).collect();
    let mutator = Arc::new(Mutator::new(requests(), words, 64 * 1024));
    let (thrown, end) = (Arc::new(AtomicU64::new(0)), Instant::now() + GARBAGE);
    let mut throwers = JoinSet::new();
    for _ in 0..THROWERS {
        let (mutator, thrown) = (Arc::clone(&mutator), Arc::clone(&thrown));
        throwers.spawn(async move {
            while Instant::now() < end || thrown.load(Ordering::Relaxed) < THROWN_MIN {
                let n = thrown.fetch_add(1, Ordering::Relaxed);
                throw(ports[n as usize % ports.len()], &mutator, SEED + n).await;
            }
        });
    }
    throwers.join_all().await;
    let thrown = thrown.load(Ordering::Relaxed);

    assert_eq!((server.process.pids(), agent.process.pids()), before, "the processes are the same");
    let target = format!("/v2/library/app/blobs/{digest}");
    for port in [agent.mirror, agent.peer] {
        let answer = within("the blob", SOON, async || {
            get(port, &target).await.ok().filter(|answer| answer.status == 200)
        });
        assert!(answer.await.body == bytes, "other bytes");
    }
    for (port, path) in [(agent.metrics, "/readyz"), (api, "/readyz")] {
        within(path, SOON, async || get(port, path).await.ok().filter(|answer| answer.status == 200)).await;
    }
    server.advertise("127.0.0.1:9".parse().unwrap(), &["a.example/still:1".to_owned()]).await;
    server.found("a.example/still:1").await;
    let status = server.client.status(SOON).await.unwrap();
    assert!(status.quorum && status.members.len() == 1, "{status:?}");
    for (name, process) in [("server", &server.process), ("agent", &agent.process)] {
        let held = process.own_memory_peak_bytes();
        println!("{thrown} connections; {name}: {} MiB at most", held >> 20);
        assert!(held < MEMORY_MAX, "{name}: {} MiB", held >> 20);
        assert!(!process.log().contains("panicked"), "{name}: {}", process.log());
    }
}
