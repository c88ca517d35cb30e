//! The transfer path against peers that behave in every way they can.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
