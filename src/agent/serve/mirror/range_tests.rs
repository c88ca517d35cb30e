//! Parts of blobs: ranges that are asked for, and windows of one blob from several peers.

use crate::agent::content::store::MemoryStore;
use crate::agent::testing::*;
use crate::limits::VERIFIED_WHOLE_BYTES_MAX;
use crate::oci::Digest;

const LARGE: usize = VERIFIED_WHOLE_BYTES_MAX as usize + 3_000_000;

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
