//! Transfers that break off, stall or turn out wrong after their bytes went out.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::agent::content::store::Store;
use crate::agent::testing::*;
use crate::limits::VERIFIED_WHOLE_BYTES_MAX;
use crate::oci::Digest;

const LARGE: usize = VERIFIED_WHOLE_BYTES_MAX as usize + 3_000_000;

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
