//! Rules of ingests: what stays in the content store, and what the next pull does with it.

use super::{Pair, script, up_to};
use crate::blob::{Blob, SMALL};
use crate::containerd::{Containerd, Host, Version};
use crate::scripted::{Part, Scripted, good, honest, status};

#[tokio::test]
async fn a_committed_blob_is_not_pulled_again() {
    for version in Version::ALL {
        let pair = Pair::new(SMALL, good).await;
        let daemon = pair.daemon(version);
        pair.pull(&daemon).await.unwrap();
        assert!(pair.pull(&daemon).await.unwrap().attempts.is_empty());
    }
}

#[tokio::test]
async fn wrong_bytes_fail_at_commit_and_every_later_pull_without_a_request_until_aborted() {
    for version in Version::ALL {
        let once = script(|blob, asked| {
            if asked.number == 0 { honest(&blob.flipped_at(SMALL / 2), asked) } else { honest(blob, asked) }
        });
        let pair = Pair::new(SMALL, once).await;
        let daemon = pair.daemon(version);
        for _ in 0..3 {
            assert!(pair.pull(&daemon).await.unwrap_err().contains("unexpected commit digest"));
        }
        assert_eq!(pair.mirror.asked().len(), 1);
        assert!(daemon.store.abort(&pair.blob.digest));
        pair.pull(&daemon).await.unwrap();
    }
}

#[tokio::test]
async fn more_bytes_than_expected_fail_at_commit_and_every_later_pull_without_a_request() {
    for version in Version::ALL {
        let pair = Pair::new(SMALL, script(|blob, asked| honest(&blob.with_more_at(SMALL), asked))).await;
        let daemon = pair.daemon(version);
        for _ in 0..2 {
            assert!(pair.pull(&daemon).await.unwrap_err().contains("unexpected commit size"));
        }
        assert_eq!(pair.mirror.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_complete_answer_that_is_too_short_fails_the_pull_and_the_next_one_goes_on_behind_it() {
    for version in Version::ALL {
        let once =
            script(
                |blob, asked| {
                    if asked.number == 0 { honest(&blob.cut_at(1000), asked) } else { honest(blob, asked) }
                },
            );
        let pair = Pair::new(SMALL, once).await;
        let daemon = pair.daemon(version);
        assert!(pair.pull(&daemon).await.unwrap_err().contains("expected number of bytes"));
        assert_eq!(pair.pull(&daemon).await.unwrap().bytes, [SMALL - 1000, 0]);
    }
}

#[tokio::test]
async fn a_bad_half_and_a_reset_is_resumed_at_its_end_and_fails_at_commit() {
    for version in Version::ALL {
        let once = script(|blob, asked| match asked.number {
            0 => up_to(&blob.flipped_at(10), asked, SMALL / 2, Part::Reset),
            _ => honest(blob, asked),
        });
        let pair = Pair::new(SMALL, once).await;
        let daemon = pair.daemon(version);
        pair.pull(&daemon).await.unwrap_err();
        let second = pair.pull(&daemon).await;
        match pair.mirror.asked()[1].range {
            Some((from, _)) if from > 10 => assert!(second.unwrap_err().contains("unexpected commit digest")),
            // A reset may overtake bytes that were not read yet: then nothing bad has arrived.
            _ => drop(second.unwrap()),
        }
    }
}

#[tokio::test]
async fn a_layer_pulled_twice_at_once_is_fetched_once() {
    for version in Version::ALL {
        let pair = Pair::new(SMALL, good).await;
        let daemon = pair.daemon(version);
        let (one, other) = tokio::join!(pair.pull(&daemon), pair.pull(&daemon));
        assert_eq!(one.unwrap().bytes[0] + other.unwrap().bytes[0], SMALL, "{version:?}");
    }
}

/// Two blobs, one slot: the mirror refuses the first, which then waits behind the second.
#[tokio::test]
async fn a_slot_is_given_back_between_hosts() {
    let (first, second) = (Blob::new(SMALL), Blob::new(SMALL));
    let (refuse, release) =
        (tokio_util::sync::CancellationToken::new(), tokio_util::sync::CancellationToken::new());
    let mirror = {
        let (first, second, refuse, release) =
            (first.clone(), second.clone(), refuse.clone(), release.clone());
        move |asked: &crate::scripted::Asked| {
            if asked.target.contains(&first.digest) {
                return [vec![Part::Wait(refuse.clone())], status(404)].concat();
            }
            [vec![Part::Wait(release.clone())], honest(&second, asked)].concat()
        }
    };
    let mirror = Scripted::start("127.0.0.1", std::sync::Arc::new(mirror)).await;
    let registry = Scripted::start("127.0.0.1", good(&first)).await;
    let hosts = vec![Host::at(mirror.address), Host::at(registry.address)];
    let daemon = Containerd::with_slots(Version::V2_3, hosts, 0, 1);
    let pulls = async {
        let other = async {
            wait_for(&mirror, 1).await;
            daemon.pull_blob(&second.digest, SMALL).await
        };
        tokio::join!(daemon.pull_blob(&first.digest, SMALL), other)
    };
    let watch = async {
        wait_for(&mirror, 1).await;
        // The second pull waits for the slot as soon as it runs; then the first one releases it.
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(mirror.asked().len(), 1, "one slot, one request");
        refuse.cancel();
        wait_for(&mirror, 2).await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert!(registry.asked().is_empty(), "the first pull waits for the slot that the second has");
        release.cancel();
    };
    let ((one, other), ()) = tokio::join!(pulls, watch);
    assert_eq!((one.unwrap().bytes, other.unwrap().bytes), (vec![0, SMALL], vec![SMALL, 0]));
}

async fn wait_for(server: &Scripted, requests: usize) {
    let waiting = async {
        while server.asked().len() < requests {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await.expect("the request comes");
}
