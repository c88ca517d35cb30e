//! Peers that lie about a length, are busy, or fail in the company of others: who is believed, who is
//! blamed, and that a pull goes on. Each of these broke once; see the history of this file.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use crate::agent::content::store::MemoryStore;
use crate::agent::testing::*;
use crate::limits::VERIFIED_WHOLE_BYTES_MAX;
use crate::oci::{Digest, RangeHeader};
use crate::task::Stop;

const LARGE: usize = VERIFIED_WHOLE_BYTES_MAX as usize + 3_000_000;

/// A peer that answers each request by its number and text, and closes.
struct Counting {
    address: std::net::SocketAddr,
    stop: Stop,
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Counting {
    async fn start(answer: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), Stop::new());
        let (answer, asked, tasks) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)), TaskTracker::new());
        let (stopped, connections) = (stop.clone(), tasks.clone());
        tasks.spawn(async move {
            while let Some(Ok((mut stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
                connections.spawn(async move {
                    let request = head_of(&mut stream).await?;
                    let bytes = answer(asked.fetch_add(1, Ordering::SeqCst), &request);
                    stream.write_all(&bytes).await?;
                    stream.shutdown().await
                });
            }
        });
        Self { address, stop }
    }
}

async fn head_of(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&request).to_ascii_lowercase())
}

/// What a good peer answers.
fn honest(bytes: &[u8], request: &str) -> Vec<u8> {
    let range = request.lines().find_map(|line| RangeHeader::parse(line.strip_prefix("range: ")?));
    let Some(range) = range.and_then(|range| range.within(bytes.len() as u64)) else {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        return with_head(&head, bytes);
    };
    let head = format!("HTTP/1.1 206 P\r\nContent-Length: {}\r\nContent-Range: {range}\r\n\r\n", range.len());
    with_head(&head, &bytes[range.start as usize..range.end as usize])
}

/// It broke off, and a liar completed what it had sent.
#[tokio::test]
async fn an_honest_peer_is_not_blamed_for_the_one_that_went_on_after_it() {
    let bytes = noise(3_000_000);
    let digest = Digest::of(&bytes);
    let node = patient().await;
    let right = bytes.clone();
    let breaks_once = Counting::start(move |number, request| {
        let mut answer = honest(&right, request);
        answer.truncate(if number == 0 { 1_500_000 } else { answer.len() });
        answer
    });
    let breaks_once = breaks_once.await;
    let mut wrong = bytes.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let liar = Counting::start(move |_, request| honest(&wrong, request)).await;
    node.servers.hold(&digest, &[breaks_once.address, liar.address]);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert!(got.status == 200 && got.body == bytes);
    node.servers.hold(&digest, &[breaks_once.address]);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert!(got.status == 200 && got.body == bytes, "{}", got.text());
}

#[tokio::test]
async fn one_lie_about_the_length_does_not_shut_honest_peers_out() {
    let bytes = noise(LARGE);
    let digest = Digest::of(&bytes);
    let (node, holder) = (patient().await, Node::with(&bytes).await);
    let longer = LARGE + 1;
    let head = "HTTP/1.1 206 P\r\nContent-Length: 8388608\r\n";
    let head = format!("{head}Content-Range: bytes 5-8388612/{longer}\r\n\r\n");
    let liar = RawPeer::start(head, End::Close).await;
    node.servers.hold(&digest, &[liar.address]);
    let target = blob_target(&digest);
    let got = get_range(node.mirror, &target, "bytes=5-").await;
    assert_eq!(got.status, 404, "without a byte nothing is promised");
    node.servers.hold(&digest, &[holder.peer]);
    let got = get_range(node.mirror, &target, "bytes=6-").await;
    assert!(got.status == 206 && got.is_complete() && got.body == bytes[6..]);
    let got = get(node.mirror, &target).await;
    assert!(got.status == 200 && got.is_complete() && got.body == bytes);
}

#[tokio::test]
async fn a_416_that_contradicts_what_containerd_expects_is_not_passed_on() {
    let bytes = noise(LARGE);
    let digest = Digest::of(&bytes);
    let node = patient().await;
    let data = tempfile::tempfile().unwrap();
    node.store.add_partial(&digest, LARGE as u64, data);
    let head = "HTTP/1.1 416 R\r\nContent-Range: bytes */5\r\nContent-Length: 0\r\n\r\n";
    let short = RawPeer::start(head, End::Close).await;
    node.servers.hold(&digest, &[short.address]);
    let got = get_range(node.mirror, &blob_target(&digest), "bytes=5000000-").await;
    assert_eq!(got.status, 404);
}

/// A manifest may name a wrong size: containerd then expects more than there is.
#[tokio::test]
async fn the_parts_of_a_small_blob_are_not_cut_from_one_of_another_length() {
    let bytes = noise(3_000);
    let digest = Digest::of(&bytes);
    let (node, holder) = (patient().await, Node::with(&bytes).await);
    node.servers.hold(&digest, &[holder.peer]);
    let target = blob_target(&digest);
    assert_eq!(get_range(node.mirror, &target, "bytes=0-").await.status, 206);
    node.store.add_partial(&digest, 4_000, tempfile::tempfile().unwrap());
    let got = get_range(node.mirror, &target, "bytes=3500-").await;
    assert_eq!((got.status, got.end), (404, Ok(())));
}

/// Each window is a request of its own, and may meet a peer whose slots are taken.
#[tokio::test]
async fn a_range_survives_a_peer_that_is_busy_before_each_window() {
    let bytes = noise(4 * LARGE);
    let digest = Digest::of(&bytes);
    let node = patient().await;
    let served = bytes.clone();
    let busy = Counting::start(move |number, request| {
        if number % 2 == 1 {
            return b"HTTP/1.1 503 B\r\nContent-Length: 0\r\n\r\n".to_vec();
        }
        honest(&served, request)
    });
    let busy = busy.await;
    node.servers.hold(&digest, &[busy.address]);
    let got = get_range(node.mirror, &blob_target(&digest), "bytes=1-").await;
    assert!(got.status == 206 && got.is_complete() && got.body == bytes[1..], "{}", got.body.len());
}

/// Two pull the same blob from the same two, each of which gives one upload at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_holders_do_not_cut_the_transfers_that_they_share() {
    let bytes = noise(2 * LARGE);
    let digest = Digest::of(&bytes);
    let mut holders = Vec::new();
    for _ in 0..2 {
        let store = MemoryStore::new();
        store.add(bytes.clone());
        let wish = Wish { store, uploads_max: 1, upload_bytes_per_second: 24 << 20, ..Wish::default() };
        holders.push(Node::wish(wish).await);
    }
    let (a, b) = (holders[0].peer, holders[1].peer);
    let (one, two) = (patient().await, patient().await);
    one.servers.hold(&digest, &[a, b]);
    two.servers.hold(&digest, &[b, a]);
    let target = blob_target(&digest);
    let (one, two) = tokio::join!(get(one.mirror, &target), get(two.mirror, &target));
    for got in [one, two] {
        assert!(got.status == 200 && got.is_complete() && got.body == bytes, "{}", got.body.len());
    }
}

/// Sends a whole so slowly that its parts are asked of others too; answers a part after `delay`.
async fn slow_whole(
    tasks: &TaskTracker,
    bytes: Vec<u8>,
    delay: impl Fn() -> Duration + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (bytes, delay, connections) = (Arc::new(bytes), Arc::new(delay), tasks.clone());
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (bytes, delay) = (Arc::clone(&bytes), Arc::clone(&delay));
            connections.spawn(async move {
                let request = head_of(&mut stream).await?;
                let answer = honest(&bytes, &request);
                if request.contains("\r\nrange: ") {
                    sleep(delay()).await;
                    stream.write_all(&answer).await?;
                } else {
                    for piece in answer.chunks(256 << 10) {
                        stream.write_all(piece).await?;
                        sleep(Duration::from_millis(25)).await;
                    }
                }
                stream.shutdown().await
            });
        }
    });
    address
}

/// The one that was slow for a moment is left out, and needed when the other one freezes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_slower_by_far_goes_on_when_no_other_is_left() {
    const SLOW: Duration = Duration::from_millis(1_200);
    let bytes = noise(4 * LARGE);
    let digest = Digest::of(&bytes);
    let asked = Arc::new(AtomicUsize::new(0));
    let (parts, late) = (Arc::clone(&asked), Arc::new(OnceLock::new()));
    let is_late = Arc::clone(&late);
    let tasks = TaskTracker::new();
    let slow = slow_whole(&tasks, bytes.clone(), move || {
        let is_first = parts.fetch_add(1, Ordering::SeqCst) == 0;
        if is_first {
            is_late.set(Instant::now() + SLOW).expect("the first is asked for once");
        }
        if is_first { SLOW } else { Duration::ZERO }
    });
    // Freezes a while after the late part has come.
    let freezing = slow_whole(&tasks, bytes.clone(), move || {
        let is_over = late.get().is_some_and(|late| Instant::now() > *late + Duration::from_millis(300));
        if is_over { Duration::MAX } else { Duration::from_millis(100) }
    });
    let node = patient().await;
    node.servers.hold(&digest, &[slow.await, freezing.await]);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert!(got.status == 200 && got.is_complete() && got.body == bytes, "{}", got.body.len());
    assert!(asked.load(Ordering::SeqCst) > 1, "it was never left out");
}
