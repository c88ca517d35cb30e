//! The transfer path against peers that behave in every way they can.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::agent::content::store::{MemoryStore, Store};
use crate::agent::testing::*;
use crate::http::ConnectionLimits;
use crate::limits::{RESOLVE_TIMEOUT_DEFAULT, VERIFIED_WHOLE_BYTES_MAX};
use crate::oci::Digest;

const LARGE: usize = VERIFIED_WHOLE_BYTES_MAX as usize + 3_000_000;

/// B1: the Go version wrote `502` for the first failure and appended what came after it.
#[tokio::test]
async fn one_stale_holder_first_in_the_answer_does_not_break_the_pull() {
    let bytes = noise(5_000);
    let digest = Digest::of(&bytes);
    let (node, stale, holder) = (Node::start().await, Node::start().await, Node::with(&bytes).await);
    node.servers.hold(&digest, &[stale.peer, holder.peer]);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert_eq!((got.status, got.body == bytes), (200, true), "{got:?}");
    assert!(got.is_complete());
    assert_eq!(got.header("docker-content-digest"), Some(digest.as_str()));
    assert_eq!(got.header("oci-namespace"), Some("registry.test"));
    until("the bytes are counted", || node.counters.bytes_from_peers() == 5_000).await;
    until("the bytes are counted", || holder.counters.bytes_served() == 5_000).await;
}

#[tokio::test]
async fn every_kind_of_failing_peer_is_followed_by_the_next() {
    let bytes = noise(5_000);
    let digest = Digest::of(&bytes);
    let (node, holder) = (Node::start().await, Node::with(&bytes).await);
    let answer = |head: &str| RawPeer::start(format!("HTTP/1.1 {head}\r\n\r\n"), End::Close);
    let failing = [
        answer("503 Service Unavailable\r\nContent-Length: 0").await,
        answer("500 Internal Server Error\r\nContent-Length: 5000").await,
        answer("302 Found\r\nLocation: http://x/\r\nContent-Length: 0").await,
        answer("401 Unauthorized\r\nContent-Length: 0").await,
        answer("200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0").await,
        answer("200 OK\r\nContent-Length: 5000\r\nContent-Encoding: gzip").await,
        RawPeer::start("nonsense\r\n\r\n", End::Close).await,
        RawPeer::start("", End::Reset).await,
        RawPeer::ok(5_000, &bytes[..100], End::Close).await,
        RawPeer::ok(4_000, &bytes[..4_000], End::Close).await,
        RawPeer::ok(5_000, &noise(5_008)[8..], End::Close).await,
    ];
    let mut holders: Vec<_> = failing.iter().map(|peer| peer.address).collect();
    holders.insert(0, nobody().await);
    holders.push(holder.peer);
    node.servers.hold(&digest, &holders);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert_eq!((got.status, got.body == bytes), (200, true), "{got:?}");
    assert!(failing.iter().all(|peer| peer.asked() == 1));
}

#[tokio::test]
async fn a_silent_peer_costs_its_own_time_and_not_the_whole_timeout() {
    let bytes = noise(100);
    let digest = Digest::of(&bytes);
    let (node, holder) = (Node::start().await, Node::with(&bytes).await);
    let silent = RawPeer::start("", End::Hang).await;
    node.servers.hold(&digest, &[silent.address, holder.peer]);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert_eq!((got.status, got.body), (200, bytes));
    until("the silent peer is let go", || silent.open.load(Ordering::SeqCst) == 0).await;
}

/// A lone holder that is slow to answer is better than none: it may use what is left of the time.
#[tokio::test]
async fn the_last_peer_has_the_rest_of_the_timeout() {
    let bytes = noise(100);
    let digest = Digest::of(&bytes);
    let node = Node::start().await;
    let slow = RawPeer::slow(Duration::from_millis(900), &bytes).await;
    node.servers.hold(&digest, &[slow.address]);
    assert_eq!(get(node.mirror, &blob_target(&digest)).await.body, bytes);
}

/// Nodes are overloaded when all pull at once: late headers are no reason to give up.
#[tokio::test]
async fn a_late_holder_is_waited_for_when_all_others_have_failed() {
    let bytes = noise(100);
    let digest = Digest::of(&bytes);
    let (node, stale) = (Node::start().await, Node::start().await);
    let late = RawPeer::slow(Duration::from_millis(700), &bytes).await;
    node.servers.hold(&digest, &[late.address, stale.peer]);
    assert_eq!(get(node.mirror, &blob_target(&digest)).await.body, bytes);
    assert_eq!(late.asked(), 1);
}

#[tokio::test]
async fn a_peer_that_did_not_answer_is_asked_last_for_a_while() {
    let (one, two) = (noise(100), noise(200));
    let (node, holder) = (Node::start().await, Node::with(&one).await);
    holder.store.add(two.clone());
    let silent = RawPeer::start("", End::Hang).await;
    for bytes in [&one, &two] {
        node.servers.hold(Digest::of(bytes), &[silent.address, holder.peer]);
        let got = get(node.mirror, &blob_target(&Digest::of(bytes))).await;
        assert_eq!((got.status, &got.body), (200, bytes));
    }
    assert_eq!(silent.asked(), 1);
}

#[tokio::test]
async fn all_peers_dead_is_a_404_in_time() {
    let digest = Digest::of(b"x");
    let node = Node::start().await;
    let silent = RawPeer::start("", End::Hang).await;
    let dead = nobody().await;
    node.servers.hold(
        &digest,
        &[dead, silent.address, silent.address, silent.address, silent.address, silent.address],
    );
    let start = Instant::now();
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert_eq!(got.status, 404);
    assert!(start.elapsed() < RESOLVE_TIMEOUT_DEFAULT * 3, "{:?}", start.elapsed());
    assert!(got.text().starts_with(r#"{"errors":[{"code":"BLOB_UNKNOWN""#), "{got:?}");
    until("the miss is counted", || node.counters.misses() == 1).await;
}

#[tokio::test]
async fn without_servers_the_answer_is_404_and_later_it_works_by_itself() {
    let bytes = noise(100);
    let digest = Digest::of(&bytes);
    let (node, holder) = (Node::start().await, Node::with(&bytes).await);
    node.servers.hold(&digest, &[holder.peer]);
    node.servers.down.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        assert_eq!(get(node.mirror, &blob_target(&digest)).await.status, 404);
    }
    node.servers.down.store(false, Ordering::Relaxed);
    let healed = async {
        while get(node.mirror, &blob_target(&digest)).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, healed).await.is_ok(), "it never recovered");
}

#[tokio::test]
async fn local_content_is_served_without_asking_anyone() {
    let bytes = noise(1_000);
    let digest = Digest::of(&bytes);
    let node = Node::with(&bytes).await;
    assert_eq!(get(node.mirror, &blob_target(&digest)).await.body, bytes);
    let got = get_range(node.mirror, &blob_target(&digest), "bytes=10-19").await;
    assert_eq!((got.status, &got.body[..]), (206, &bytes[10..20]));
    assert_eq!(node.servers.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn over_the_connection_limit_content_is_404_at_once_and_the_probe_is_answered() {
    // As if all regular places had requests in flight.
    let connections = ConnectionLimits { connections_max: 0, ..ConnectionLimits::default() };
    let node = Node::wish(Wish { connections, ..Wish::default() }).await;
    let digest = node.store.add(b"own bytes".to_vec());
    let refused = get(node.mirror, &blob_target(&digest)).await;
    assert!(refused.status == 404 && refused.text().contains("too many requests"), "{}", refused.text());
    assert_eq!(get(node.mirror, "/v2/").await.status, 200);
    assert_eq!(get(node.peer, &blob_target(&digest)).await.status, 503, "another holder is asked");
    assert_eq!(get(node.peer, "/v2/").await.status, 200);
}

#[tokio::test]
async fn damaged_local_content_is_fetched_from_a_peer() {
    let bytes = noise(1_000);
    let digest = Digest::of(&bytes);
    let (node, holder) = (Node::start().await, Node::with(&bytes).await);
    node.store.add_as(digest.clone(), noise(999));
    node.servers.hold(&digest, &[holder.peer]);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert_eq!((got.status, got.body), (200, bytes));
}

#[tokio::test]
async fn no_right_bytes_anywhere_is_a_404_without_a_byte_of_them() {
    for length in [1_000, 2_000_000] {
        let bytes = noise(length);
        let digest = Digest::of(&bytes);
        let node = patient().await;
        let liar = RawPeer::ok(length, &noise(length + 8)[8..], End::Close).await;
        node.servers.hold(&digest, &[liar.address]);
        assert_eq!(get(node.mirror, &blob_target(&digest)).await.status, 404);
        assert_eq!(get(node.mirror, &blob_target(&digest)).await.status, 404);
        assert_eq!(liar.asked(), 1, "a liar is not asked twice");
    }
}

/// B2: the Go version answered 502 to every range.
#[tokio::test]
async fn ranges_of_small_and_large_blobs_are_206() {
    for length in [100_000, 3_000_000, LARGE] {
        let bytes = noise(length);
        let digest = Digest::of(&bytes);
        let (node, holder) = (Node::start().await, Node::with(&bytes).await);
        node.servers.hold(&digest, &[holder.peer]);
        let target = blob_target(&digest);
        for (range, part) in [
            ("bytes=0-".to_owned(), 0..length),
            ("bytes=70000-".to_owned(), 70_000..length),
            ("bytes=5-9".to_owned(), 5..10),
            ("bytes=-7".to_owned(), length - 7..length),
        ] {
            let got = get_range(node.mirror, &target, &range).await;
            assert_eq!((got.status, got.body == bytes[part.clone()]), (206, true), "{range} of {length}");
            let content_range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            assert_eq!(got.header("content-range"), Some(&*content_range));
        }
        let got = get_range(node.mirror, &target, &format!("bytes={length}-")).await;
        assert_eq!(got.status, 416, "{length}");
        assert_eq!(got.header("content-range"), Some(&*format!("bytes */{length}")));
        let whole = get(node.mirror, &target).await;
        assert!(whole.status == 200 && whole.is_complete() && whole.body == bytes);
    }
}

#[tokio::test]
async fn a_peer_that_ignores_or_bends_the_range_of_a_large_blob_is_not_passed_on() {
    let bytes = noise(LARGE);
    let digest = Digest::of(&bytes);
    let (node, holder) = (Node::start().await, Node::with(&bytes).await);
    let ignores = RawPeer::ok(LARGE, &bytes, End::Close).await;
    let head = format!(
        "HTTP/1.1 206 P\r\nContent-Length: {}\r\nContent-Range: bytes 6-{}/{LARGE}\r\n\r\n",
        LARGE - 6,
        LARGE - 1
    );
    let bends = RawPeer::start(with_head(&head, &bytes[6..]), End::Close).await;
    node.servers.hold(&digest, &[ignores.address, bends.address, holder.peer]);
    let got = get_range(node.mirror, &blob_target(&digest), "bytes=5-").await;
    assert_eq!((got.status, got.body == bytes[5..]), (206, true));
    assert_eq!((ignores.asked(), bends.asked()), (1, 1));
}

#[tokio::test]
async fn one_peer_that_says_416_does_not_keep_the_others_from_giving_the_range() {
    let bytes = noise(100);
    let digest = Digest::of(&bytes);
    let (node, holder) = (Node::start().await, Node::with(&bytes).await);
    let head = "HTTP/1.1 416 R\r\nContent-Range: bytes */5\r\nContent-Length: 0\r\n\r\n";
    let short = RawPeer::start(head, End::Close).await;
    let target = blob_target(&digest);
    node.servers.hold(&digest, &[short.address, holder.peer]);
    let got = get_range(node.mirror, &target, "bytes=50-").await;
    assert_eq!((got.status, got.body == bytes[50..]), (206, true));
    let node = Node::start().await;
    node.servers.hold(&digest, &[short.address, nobody().await]);
    let got = get_range(node.mirror, &target, "bytes=50-").await;
    assert_eq!((got.status, got.header("content-range")), (416, Some("bytes */5")));
}

/// I5. The bytes were on their way already, so the connection is reset, what containerd has of them
/// is aborted, and the liar is not asked again.
#[tokio::test]
async fn wrong_bytes_of_a_large_blob_end_in_a_reset_and_the_next_request_succeeds() {
    let bytes = noise(LARGE);
    let digest = Digest::of(&bytes);
    let mut wrong = bytes.clone();
    wrong[1_000] ^= 1;
    let (node, holder) = (Node::start().await, Node::with(&bytes).await);
    let liar = RawPeer::ok(LARGE, &wrong, End::Close).await;
    node.servers.hold(&digest, &[liar.address, holder.peer]);
    let begun = std::time::SystemTime::now();
    node.store.add_ingest_begun(&digest, begun);

    let got = get(node.mirror, &blob_target(&digest)).await;
    assert_eq!(got.end, Err(std::io::ErrorKind::ConnectionReset));
    assert!(got.body.len() < LARGE);
    assert_eq!(left(&node, &digest), 0, "the ingest is aborted before the reset");
    // Once more a second later: containerd may have written on. Not what the next pull has begun.
    node.store.add_ingest(&digest);
    node.store.add_ingest_begun(&digest, begun);
    until("the ingest is aborted again", || left(&node, &digest) == 1).await;

    let got = get(node.mirror, &blob_target(&digest)).await;
    assert!(got.status == 200 && got.is_complete() && got.body == bytes);
    assert_eq!(liar.asked(), 1);
}

/// Ingests of `digest` that are left.
fn left(node: &Node, digest: &Digest) -> usize {
    node.store.ingests_of(digest)
}

/// containerd does not notice: in its parallel mode it would not survive it.
#[tokio::test]
async fn another_source_goes_on_where_one_broke_off() {
    // Too little is left after the first bytes for several peers to share it, whichever of them is slow.
    let large = VERIFIED_WHOLE_BYTES_MAX as usize + 1;
    for (length, half) in [(large, large / 2), (3_000_000, 1_500_000)] {
        let bytes = noise(length);
        let digest = Digest::of(&bytes);
        for end in [End::Close, End::Reset] {
            let (node, holder) = (patient().await, RawPeer::holding(&bytes).await);
            let dying = RawPeer::ok(length, &bytes[..half], end).await;
            node.servers.hold(&digest, &[dying.address, holder.address]);
            let got = get(node.mirror, &blob_target(&digest)).await;
            assert!(got.status == 200 && got.is_complete() && got.body == bytes, "{end:?}");
            if end == End::Close {
                // On a busy machine it may have been asked for all of it before, when the other one was late.
                let asked = holder.requests.lock().unwrap().last().unwrap().to_lowercase();
                assert!(asked.contains(&format!("range: bytes={half}-\r\n")), "fetched twice: {asked}");
            }
        }
    }
}

/// A clean close, because containerd resumes only after one; and everything that had come from the
/// peer must have gone out, or the next request starts at the same offset.
#[tokio::test]
async fn a_lone_source_that_breaks_off_is_a_clean_close_and_then_a_404_at_that_offset() {
    let bytes = noise(LARGE);
    let (node, digest) = (Node::start().await, Digest::of(&bytes));
    let dying = RawPeer::ok(LARGE, &bytes[..LARGE / 2], End::Close).await;
    node.servers.hold(&digest, &[dying.address]);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert_eq!((got.status, got.end), (200, Ok(())));
    assert_eq!(got.header("content-length"), Some(&*LARGE.to_string()));
    assert!(got.body == bytes[..LARGE / 2]);
    let rest = get_range(node.mirror, &blob_target(&digest), &format!("bytes={}-", LARGE / 2)).await;
    assert_eq!(rest.status, 404);
}

/// I5, over two requests: containerd itself would fail at its commit, and again on every later pull.
#[tokio::test]
async fn a_bad_prefix_is_found_out_before_a_good_rest_completes_it() {
    let bytes = noise(LARGE);
    let digest = Digest::of(&bytes);
    let half = LARGE / 2;
    let mut wrong = bytes[..half].to_vec();
    wrong[1_000] ^= 1;
    let (node, holder) = (patient().await, Node::with(&bytes).await);
    let liar = RawPeer::ok(LARGE, &wrong, End::Close).await;
    node.servers.hold(&digest, &[liar.address]);
    node.store.add_ingest(&digest);
    let target = blob_target(&digest);
    // Not before the liar was asked: it might be overtaken.
    let then_both = async {
        until("the liar is asked", || liar.asked() == 1).await;
        node.servers.hold(&digest, &[liar.address, holder.peer]);
    };
    let (got, ()) = tokio::join!(get(node.mirror, &target), then_both);
    assert_eq!((got.status, got.end), (200, Err(std::io::ErrorKind::ConnectionReset)));
    until("the ingest is aborted", || left(&node, &digest) == 0).await;

    let asked = liar.asked();
    let got = get(node.mirror, &target).await;
    assert!(got.status == 200 && got.is_complete() && got.body == bytes);
    assert_eq!(liar.asked(), asked, "not asked again");
}

#[tokio::test]
async fn a_source_that_stalls_is_a_clean_close_and_its_bytes_have_arrived() {
    let bytes = noise(LARGE);
    let digest = Digest::of(&bytes);
    let node = Node::start().await;
    let stalling = RawPeer::ok(LARGE, &bytes[..100_000], End::Hang).await;
    node.servers.hold(&digest, &[stalling.address]);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert_eq!((got.status, got.body.len(), got.end), (200, 100_000, Ok(())));
    until("the stalled source is let go", || stalling.open.load(Ordering::SeqCst) == 0).await;
}

/// Never two cuts at one offset: a source counts only once it has sent something.
#[tokio::test]
async fn a_source_that_sends_headers_alone_is_a_404_where_a_cut_would_not_help() {
    let digest = Digest::of(b"x");
    let node = Node::start().await;
    let empty = RawPeer::ok(LARGE, b"", End::Close).await;
    node.servers.hold(&digest, &[empty.address]);
    for _ in 0..3 {
        let got = get(node.mirror, &blob_target(&digest)).await;
        assert_eq!(got.status, 404);
    }
    assert_eq!(empty.asked(), 2, "twice broken off is enough");
}

/// Headers go out at the resolve timeout, bytes when they are right, or never.
#[tokio::test]
async fn headers_promised_without_right_bytes_end_in_a_clean_close_and_then_a_404() {
    let wish = Wish { resolve_timeout: Duration::from_millis(300), ..Wish::default() };
    let (node, digest) = (Node::wish(wish).await, Digest::of(b"x"));
    let slow = RawPeer::ok(1_000, &noise(10), End::Hang).await;
    node.servers.hold(&digest, &[slow.address]);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert_eq!((got.status, got.body.len(), got.end), (200, 0, Ok(())));
    assert_eq!(got.header("content-length"), Some("1000"));
    assert_eq!(get(node.mirror, &blob_target(&digest)).await.status, 404);
}

#[tokio::test]
async fn headers_promised_by_a_slow_peer_are_kept_by_the_next() {
    let wish = Wish { resolve_timeout: Duration::from_millis(300), ..Wish::default() };
    let bytes = noise(1_000);
    let (node, holder, digest) = (Node::wish(wish).await, Node::with(&bytes).await, Digest::of(&bytes));
    let slow = RawPeer::ok(1_000, &bytes[..10], End::Hang).await;
    node.servers.hold(&digest, &[slow.address, holder.peer]);
    let got = get_range(node.mirror, &blob_target(&digest), "bytes=100-").await;
    assert!(got.status == 206 && got.is_complete() && got.body == bytes[100..], "{got:?}");
}

#[tokio::test]
async fn head_tells_the_size_without_a_body() {
    let bytes = noise(LARGE);
    let digest = Digest::of(&bytes);
    let (node, holder) = (Node::start().await, Node::with(&bytes).await);
    let manifest = manifest("a");
    let manifest_digest = holder.store.add(manifest.clone());
    node.servers.hold(&digest, &[holder.peer]);
    node.servers.hold(&manifest_digest, &[holder.peer]);
    for mirror in [node.mirror, holder.mirror] {
        let got = request(mirror, "HEAD", &blob_target(&digest), "").await;
        assert_eq!((got.status, got.body.len()), (200, 0));
        assert_eq!(got.header("content-length"), Some(&*LARGE.to_string()));
        let got = request(mirror, "HEAD", &manifest_target(&manifest_digest, "registry.test"), "").await;
        assert_eq!((got.status, got.body.len()), (200, 0));
        assert_eq!(got.header("content-length"), Some(&*manifest.len().to_string()));
        assert_eq!(got.header("content-type"), Some("application/vnd.oci.image.manifest.v1+json"));
        let got = request(mirror, "HEAD", &blob_target(&Digest::of(b"nowhere")), "").await;
        assert_eq!((got.status, got.body.len()), (404, 0));
    }
}

#[tokio::test]
async fn a_manifest_is_passed_on_with_the_type_that_its_content_says() {
    let manifest = manifest("a");
    let digest = Digest::of(&manifest);
    let node = Node::start().await;
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", manifest.len());
    let peer = RawPeer::start(with_head(&head, &manifest), End::Close).await;
    let layer = RawPeer::ok(3, b"abc", End::Close).await;
    node.servers.hold(&digest, &[peer.address]);
    node.servers.hold(Digest::of(b"abc"), &[layer.address]);
    let got = get(node.mirror, &manifest_target(&digest, "registry.test")).await;
    assert_eq!((got.status, &got.body), (200, &manifest));
    assert_eq!(got.header("content-type"), Some("application/vnd.oci.image.manifest.v1+json"));
    let got = get(node.mirror, &manifest_target(Digest::of(b"abc"), "registry.test")).await;
    assert_eq!(got.status, 404, "a layer is no manifest");
}

/// B11, and `Accept-Encoding`: the Go version forwarded all of them.
#[tokio::test]
async fn a_peer_sees_the_path_the_registry_and_the_range_and_nothing_else() {
    let digest = Digest::of(b"x");
    let node = Node::start().await;
    let peer = RawPeer::start("HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n", End::Close).await;
    node.servers.hold(&digest, &[peer.address]);
    let headers = "Authorization: Bearer secret\r\nCookie: secret\r\nX-Secret: secret\r\nAccept-Encoding: zstd, gzip\r\n";
    let headers = format!("{headers}Range: bytes=3-\r\n");
    request(node.mirror, "GET", &format!("{}&token=secret", blob_target(&digest)), &headers).await;
    let asked = peer.requests.lock().unwrap()[0].to_ascii_lowercase();
    assert!(asked.starts_with(&format!("get {} http/1.1\r\n", blob_target(&digest))), "{asked}");
    assert!(!asked.contains("secret") && !asked.contains("gzip"), "{asked}");
    assert!(
        asked.contains("range: bytes=3-8388610\r\n") && asked.contains("accept-encoding: identity\r\n"),
        "{asked}"
    );
}

/// B3: with this header the Go version answered 200 without a body.
#[tokio::test]
async fn the_go_versions_loop_guard_header_changes_nothing() {
    let bytes = noise(100);
    let digest = Digest::of(&bytes);
    let node = Node::with(&bytes).await;
    let guard = "X-Spegel-Mirrored: true\r\n";
    for address in [node.mirror, node.peer] {
        assert_eq!(request(address, "GET", &blob_target(&digest), guard).await.body, bytes);
        let got = request(address, "GET", &blob_target(&Digest::of(b"nowhere")), guard).await;
        assert_eq!(got.status, 404);
    }
}

/// B39, and the fixed answers: nothing that containerd would retry or act on.
#[tokio::test]
async fn what_a_mirror_does_not_know_is_404_with_an_oci_body() {
    let node = Node::start().await;
    let digest = Digest::of(b"x");
    let blob = blob_target(&digest);
    for (method, target) in [
        ("POST", "/v2/a/blobs/uploads/"),
        ("PUT", blob.as_str()),
        ("DELETE", blob.as_str()),
        ("GET", "/"),
        ("GET", "/v2/_catalog"),
        ("GET", "/v2/a/tags/list"),
        ("GET", "/v2/a/blobs/sha256:../../../../etc/passwd"),
        ("GET", "/v2/a/blobs/..%2f..%2fetc%2fpasswd"),
        ("GET", "/v2/../../etc/passwd"),
        ("GET", "/v2/a/manifests/%2e%2e"),
        ("GET", "/v2/a/manifests/latest"),
    ] {
        let got = request(node.mirror, method, target, "").await;
        assert_eq!(got.status, 404, "{method} {target}");
        let body: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        assert!(body["errors"][0]["code"].is_string(), "{body}");
    }
    assert_eq!(node.servers.asked.load(Ordering::Relaxed), 0);
    let got = get(node.mirror, "/v2/").await;
    assert_eq!((got.status, got.header("docker-distribution-api-version")), (200, Some("registry/2.0")));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_transfer() {
    let digest = Digest::of(b"x");
    let node = Node::start().await;
    let source = RawPeer::ok(LARGE, &noise(50_000), End::Hang).await;
    node.servers.hold(&digest, &[source.address]);
    let mut client = tokio::net::TcpStream::connect(node.mirror).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", blob_target(&digest));
    client.write_all(request.as_bytes()).await.unwrap();
    client.read_exact(&mut [0; 1_000]).await.unwrap();
    assert_eq!(source.open.load(Ordering::SeqCst), 1);
    drop(client);
    let start = Instant::now();
    until("the source is let go", || source.open.load(Ordering::SeqCst) == 0).await;
    assert!(start.elapsed() < Duration::from_secs(2), "only when it stalled: {:?}", start.elapsed());
}

#[tokio::test]
async fn many_requests_at_once_are_each_answered_right() {
    let bytes = noise(3_000_000);
    let digest = Digest::of(&bytes);
    let (node, holder) = (Node::start().await, Node::with(&bytes).await);
    node.servers.hold(&digest, &[holder.peer]);
    let target = blob_target(&digest);
    let all = (0..8).map(|_| get(node.mirror, &target).map(|got| got.is_complete() && got.body == bytes));
    assert!(futures_util::future::join_all(all).await.into_iter().all(|right| right));
}

#[tokio::test]
async fn an_empty_blob_is_200_without_bytes() {
    let (node, holder) = (Node::start().await, Node::with(b"").await);
    let digest = Digest::of(b"");
    node.servers.hold(&digest, &[holder.peer]);
    for mirror in [node.mirror, holder.mirror] {
        let got = get(mirror, &blob_target(&digest)).await;
        assert_eq!((got.status, got.header("content-length"), got.end), (200, Some("0"), Ok(())));
    }
}

#[tokio::test]
async fn aborting_is_asked_of_the_store_that_counts() {
    let node = Node::start().await;
    let digest = Digest::of(b"x");
    node.store.add_ingest(&digest);
    assert_eq!(left(&node, &digest), 1);
    assert_eq!(node.store.abort_ingests(&digest, std::time::SystemTime::now()).await.unwrap(), 1);
    assert_eq!(left(&node, &digest), 0);
}

/// What containerd has of a blob, as long as the test lives.
fn ingest_of(node: &Node, digest: &Digest, total: usize, written: &[u8]) -> std::fs::File {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = file.reopen().unwrap();
    std::io::Write::write_all(&mut writer, written).unwrap();
    node.store.add_partial(digest, total as u64, file.into_file());
    writer
}

/// The wrong hash would be seen with the last byte only, and the pull be lost.
#[tokio::test]
async fn a_peer_whose_length_is_not_what_containerd_expects_is_not_passed_on() {
    let bytes = noise(LARGE);
    let digest = Digest::of(&bytes);
    for length in [LARGE - 1, LARGE + 1, 10] {
        let (node, holder) = (Node::start().await, Node::with(&bytes).await);
        let liar = RawPeer::ok(length, &noise(length), End::Close).await;
        node.servers.hold(&digest, &[liar.address, holder.peer]);
        let _writer = ingest_of(&node, &digest, LARGE, b"");
        let got = get(node.mirror, &blob_target(&digest)).await;
        assert!(got.status == 200 && got.is_complete() && got.body == bytes, "{length}");
    }
}

/// I5, where others have sent the first part: containerd may have had it from anywhere.
#[tokio::test]
async fn a_rest_is_verified_together_with_what_containerd_has_written_before() {
    let bytes = noise(LARGE);
    let (digest, half) = (Digest::of(&bytes), LARGE / 2);
    for right in [true, false] {
        let (node, holder) = (Node::start().await, Node::with(&bytes).await);
        node.servers.hold(&digest, &[holder.peer]);
        let mut prefix = bytes.clone();
        prefix[7] ^= u8::from(!right);
        // All but what is still in containerd's buffer.
        let _writer = ingest_of(&node, &digest, LARGE, &prefix[..LARGE - 1_000_000]);
        let rest = get_range(node.mirror, &blob_target(&digest), &format!("bytes={half}-")).await;
        if right {
            assert!(rest.status == 206 && rest.is_complete() && rest.body == bytes[half..]);
        } else {
            assert_eq!((rest.status, rest.end), (206, Err(std::io::ErrorKind::ConnectionReset)));
            until("the ingest is aborted", || left(&node, &digest) == 0).await;
        }
    }
}

/// containerd's parallel mode has no other host for a range once the first one was answered.
#[tokio::test]
async fn once_a_range_was_answered_the_others_are_never_404_but_where_they_were_cut() {
    let bytes = noise(LARGE);
    let digest = Digest::of(&bytes);
    let node = Node::start().await;
    {
        let holder = Node::with(&bytes).await;
        node.servers.hold(&digest, &[holder.peer]);
        let first = get_range(node.mirror, &blob_target(&digest), "bytes=0-").await;
        assert!(first.status == 206 && first.body == bytes);
    }
    node.servers.hold(&digest, &[nobody().await]);
    let target = blob_target(&digest);
    let next = get_range(node.mirror, &target, "bytes=5000000-").await;
    assert_eq!((next.status, next.body.len(), next.end), (206, 0, Ok(())));
    let length = (LARGE - 5_000_000).to_string();
    assert_eq!(next.header("content-length"), Some(&*length));
    assert_eq!(get_range(node.mirror, &target, "bytes=5000000-").await.status, 404, "cut there before");
    assert_eq!(get(node.mirror, &target).await.status, 404, "another host may have all of it");
}

#[tokio::test]
async fn a_range_without_end_is_asked_for_in_windows() {
    let bytes = noise(LARGE);
    let digest = Digest::of(&bytes);
    let (node, holder) = (Node::start().await, Node::with(&bytes).await);
    node.servers.hold(&digest, &[holder.peer]);
    let got = get_range(node.mirror, &blob_target(&digest), "bytes=1-").await;
    assert!(got.status == 206 && got.is_complete() && got.body == bytes[1..]);
    let windows = (LARGE as u64 - 1).div_ceil(crate::limits::OPEN_RANGE_WINDOW_BYTES) as usize;
    assert!(windows > 1);
    until("all windows were served", || holder.counters.bytes_served() == LARGE as u64 - 1).await;
}

/// Eight requests for parts of a blob that can only be verified as a whole.
#[tokio::test]
async fn the_parts_of_a_small_blob_come_from_one_transfer() {
    let bytes = noise(4_000_000);
    let digest = Digest::of(&bytes);
    let (node, holder) = (Node::start().await, Node::with(&bytes).await);
    node.servers.hold(&digest, &[holder.peer]);
    let target = blob_target(&digest);
    assert_eq!(get_range(node.mirror, &target, "bytes=0-").await.body, bytes);
    let parts = (1..8).map(|part| {
        let (node, target, bytes) = (&node, &target, &bytes);
        async move {
            let start = part * 500_000;
            let got = get_range(node.mirror, target, &format!("bytes={start}-")).await;
            assert!(got.status == 206 && got.body == bytes[start..], "{start}");
        }
    });
    futures_util::future::join_all(parts).await;
    let served = holder.counters.bytes_served();
    assert_eq!(served, bytes.len() as u64);
}

/// A source that is slower than containerd is joined by others, and the order of bytes is kept.
#[tokio::test]
async fn one_large_blob_comes_from_several_slow_peers_at_once() {
    let bytes = noise(2 * LARGE);
    let digest = Digest::of(&bytes);
    let node = Node::start().await;
    let mut holders = Vec::new();
    for _ in 0..4 {
        let store = MemoryStore::new();
        store.add(bytes.clone());
        holders.push(Node::wish(Wish { store, upload_bytes_per_second: 8 << 20, ..Wish::default() }).await);
    }
    let addresses: Vec<_> = holders.iter().map(|holder| holder.peer).collect();
    node.servers.hold(&digest, &addresses);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert!(got.status == 200 && got.is_complete() && got.body == bytes);
    for holder in &holders {
        let share = || holder.counters.bytes_served();
        until("each has sent a part", || share() > bytes.len() as u64 / 16).await;
    }
    let total: u64 = holders.iter().map(|holder| holder.counters.bytes_served()).sum();
    assert!(total < bytes.len() as u64 * 5 / 4, "fetched twice: {total} of {}", bytes.len());
}

#[tokio::test]
async fn a_peer_that_fails_among_several_is_made_up_for_by_the_others() {
    let bytes = noise(2 * LARGE);
    let digest = Digest::of(&bytes);
    let node = Node::start().await;
    let mut holders = Vec::new();
    for _ in 0..2 {
        let store = MemoryStore::new();
        store.add(bytes.clone());
        holders.push(Node::wish(Wish { store, upload_bytes_per_second: 16 << 20, ..Wish::default() }).await);
    }
    let refusing = RawPeer::start("HTTP/1.1 500 N\r\nContent-Length: 0\r\n\r\n", End::Close).await;
    let silent = RawPeer::start("", End::Hang).await;
    let addresses = [holders[0].peer, refusing.address, silent.address, holders[1].peer];
    node.servers.hold(&digest, &addresses);
    let got = get(node.mirror, &blob_target(&digest)).await;
    assert!(got.status == 200 && got.is_complete() && got.body == bytes);
}
