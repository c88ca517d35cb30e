//! A holder that has just started, and has not checked yet what it is asked for; and a node without a
//! disk for what it receives. Nobody else has the blob, and there is no registry.

use std::time::{Duration, Instant};

use crate::agent::content::store::MemoryStore;
use crate::agent::state_dir::StateDir;
use crate::agent::testing::*;
use crate::limits::{
    OPEN_RANGE_WINDOW_BYTES, SOURCE_STALL_TIMEOUT, SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX, VERIFICATIONS_MAX,
    VERIFIED_WHOLE_BYTES_MAX,
};
use crate::oci::Digest;

const MIB: usize = 1 << 20;
const LARGE: usize = VERIFIED_WHOLE_BYTES_MAX as usize + 8 * MIB;

/// A holder of `bytes` whose check of them takes so long, and a node that knows no other.
async fn holder_and_asker(bytes: &[u8], check: Duration) -> (Node, Node) {
    let store = MemoryStore::new();
    let digest = store.add(bytes.to_vec());
    let hash_bytes_per_second = Some(bytes.len() as u64 / check.as_secs());
    let holder = Node::wish(Wish { store, hash_bytes_per_second, ..Wish::default() }).await;
    let asker = patient().await;
    asker.servers.hold(&digest, &[holder.peer]);
    (holder, asker)
}

/// What broke: the end of each range waited for the check of the whole blob. The asker took that for a
/// stall, reported the holder, and had nobody else to ask: the pull failed.
#[tokio::test]
async fn ranges_of_a_large_blob_come_long_before_its_check_is_done() {
    let bytes = noise(LARGE);
    let check = Duration::from_secs(60);
    let (_holder, asker) = holder_and_asker(&bytes, check).await;
    let target = blob_target(&Digest::of(&bytes));
    let window = OPEN_RANGE_WINDOW_BYTES as usize;
    for (range, part) in [
        (format!("bytes={window}-{}", 2 * window - 1), window..2 * window),
        (format!("bytes={}-", LARGE - 3 * MIB), LARGE - 3 * MIB..LARGE),
    ] {
        let start = Instant::now();
        let got = get_range(asker.mirror, &target, &range).await;
        assert_eq!((got.status, got.is_complete()), (206, true), "{range}: {} bytes", got.body.len());
        assert!(got.body == bytes[part], "other bytes");
        assert!(start.elapsed() < check / 4, "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_whole_blob_comes_as_its_check_goes_on() {
    let bytes = noise(LARGE);
    let check = SOURCE_STALL_TIMEOUT + Duration::from_secs(1);
    let (_holder, asker) = holder_and_asker(&bytes, check).await;
    let got = get(asker.mirror, &blob_target(&Digest::of(&bytes))).await;
    assert!(got.status == 200 && got.is_complete() && got.body == bytes, "{} bytes", got.body.len());
}

/// What broke: the check of a small blob stood behind those of larger ones, and the asker took the holder for one
/// that stalls, for all digests.
#[tokio::test]
async fn a_small_blob_whose_check_waits_for_others_comes_before_it_is_taken_for_stalled() {
    let store = MemoryStore::new();
    let mut all: Vec<Vec<u8>> = (1..=VERIFICATIONS_MAX).map(|number| noise(5 * MIB + number)).collect();
    all.push(noise(10_000));
    let digests: Vec<Digest> = all.iter().map(|bytes| store.add(bytes.clone())).collect();
    // Each of the large ones takes much longer than a stall.
    let hash_bytes_per_second = Some(5 * MIB as u64 / (2 * SOURCE_STALL_TIMEOUT.as_secs()));
    let holder = Node::wish(Wish { store, hash_bytes_per_second, ..Wish::default() }).await;
    let asker = patient().await;
    digests.iter().for_each(|digest| asker.servers.hold(digest, &[holder.peer]));
    let mirror = asker.mirror;
    let pulls = digests.iter().enumerate().map(|(number, digest)| async move {
        let is_small = number == VERIFICATIONS_MAX;
        tokio::time::sleep(if is_small { Duration::from_millis(500) } else { Duration::ZERO }).await;
        get(mirror, &blob_target(digest)).await
    });
    for (got, bytes) in futures_util::future::join_all(pulls).await.into_iter().zip(all) {
        assert!(got.status == 200 && got.is_complete() && got.body == bytes, "{} {}", got.status, got.text());
    }
    assert!(asker.servers.reports.lock().unwrap().is_empty(), "an honest holder was reported");
}

/// What broke: without a writable folder for temporary files, blobs of this size never came from peers.
#[tokio::test]
async fn without_a_disk_blobs_are_checked_in_memory_and_wait_for_room() {
    let size = VERIFIED_WHOLE_BYTES_MAX as usize / 2;
    let (state, resolve_timeout) = (Some(StateDir::unwritable()), SOON);
    let asker = Node::wish(Wish { state, resolve_timeout, ..Wish::default() }).await;
    let holder = Node::start().await;
    let at_once = 2 * SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX / size;
    let pulls = (0..at_once).map(|number| {
        let mut bytes = noise(size);
        bytes[0] = number as u8;
        let digest = holder.store.add(bytes.clone());
        asker.servers.hold(&digest, &[holder.peer]);
        let mirror = asker.mirror;
        async move { (get(mirror, &blob_target(&digest)).await, bytes) }
    });
    for (got, bytes) in futures_util::future::join_all(pulls).await {
        assert!(got.status == 200 && got.is_complete() && got.body == bytes, "{} {}", got.status, got.text());
    }
}

/// The registry serves it then, and the reason is said: it is no fault of the peer.
#[tokio::test]
async fn a_blob_that_finds_no_room_in_time_is_404_with_the_reason() {
    let size = VERIFIED_WHOLE_BYTES_MAX as usize;
    let resolve_timeout = Duration::from_millis(500);
    let asker =
        Node::wish(Wish { state: Some(StateDir::unwritable()), resolve_timeout, ..Wish::default() }).await;
    let holder = Node::start().await;
    let count = SPOOL_WITHOUT_DISK_TOTAL_BYTES_MAX / size;
    let mut bytes = noise(size);
    let mut blobs = Vec::new();
    for number in 0..=count {
        bytes[0] = number as u8;
        // Half of each comes at once, and the rest later: they hold their room meanwhile.
        blobs.push((holder.store.add(bytes.clone()), RawPeer::trickle(&bytes, SOON).await));
    }
    // All bytes are made before: a busy machine takes longer for them than a slow source is waited for.
    let mut slow = Vec::new();
    for (number, (digest, source)) in blobs.into_iter().enumerate() {
        let is_last = number == count;
        asker.servers.hold(&digest, &[if is_last { holder.peer } else { source.address }]);
        let mirror = asker.mirror;
        if is_last {
            // On a busy machine a request may find out a moment too late why it has nothing.
            let said = async {
                loop {
                    let got = get(mirror, &blob_target(&digest)).await;
                    assert_eq!(got.status, 404);
                    if got.text().contains("no room to check it") {
                        return;
                    }
                }
            };
            assert!(tokio::time::timeout(SOON / 2, said).await.is_ok(), "the reason is never said");
        } else {
            let client = tokio::net::TcpStream::connect(mirror).await.unwrap();
            let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", blob_target(&digest));
            client.try_write(request.as_bytes()).unwrap();
            until("its source is asked", || source.asked() == 1).await;
            // Until its answer has been looked at.
            client.readable().await.unwrap();
            slow.push((client, source));
        }
    }
}
