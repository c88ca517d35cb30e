//! Rules of `concurrent_layer_fetch_buffer`, in 2.1 and later.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Pair, range, route, script, up_to};
use crate::blob::{LARGE, SMALL};
use crate::containerd::{Containerd, Version};
use crate::scripted::{Asked, Part, good, honest, status};

const CHUNK: u64 = 512 << 10;
const PARALLEL: [Version; 2] = [Version::V2_1, Version::V2_3];

fn daemon(pair: &Pair, version: Version) -> Containerd {
    Containerd::new(version, pair.hosts(), CHUNK)
}

fn start_of(asked: &Asked) -> u64 {
    asked.range.expect("every request of this mode has a range").0
}

#[tokio::test]
async fn a_blob_is_fetched_in_open_ended_ranges_of_which_one_chunk_is_read() {
    for version in PARALLEL {
        let pair = Pair::new(SMALL, good).await;
        let outcome = pair.pull(&daemon(&pair, version)).await.unwrap();
        let mut starts: Vec<u64> = pair.mirror.asked().iter().map(start_of).collect();
        starts.sort_unstable();
        assert_eq!(starts, [0, CHUNK, 2 * CHUNK, 3 * CHUNK]);
        assert!(pair.mirror.asked().iter().all(|asked| asked.range.unwrap().1.is_none()), "open-ended");
        assert_eq!(outcome.bytes, [SMALL, 0], "no chunk is read beyond its end");
    }
}

#[tokio::test]
async fn a_blob_of_one_chunk_is_fetched_in_one_request() {
    for version in PARALLEL {
        let pair = Pair::new(SMALL, good).await;
        let daemon = Containerd::new(version, pair.hosts(), SMALL);
        assert_eq!(route(&pair.pull(&daemon).await.unwrap()), [(0, range(0))]);
    }
}

#[tokio::test]
async fn at_most_three_requests_are_open_at_once() {
    for version in PARALLEL {
        let hold = CancellationToken::new();
        let token = hold.clone();
        let held = script(move |blob, asked| {
            [vec![Part::Wait(token.clone())], honest(blob, asked)][usize::from(start_of(asked) == 0)..]
                .concat()
        });
        let pair = Pair::new(SMALL, held).await;
        let daemon = Containerd::new(version, pair.hosts(), CHUNK / 8);
        let watch = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(pair.mirror.asked().len() == 4, "chunk 0, and three behind it");
            hold.cancel();
        };
        let (result, ()) = tokio::join!(pair.pull(&daemon), watch);
        result.unwrap();
    }
}

#[tokio::test]
async fn later_chunks_go_to_the_host_of_the_first_and_their_failure_fails_the_pull() {
    for version in PARALLEL {
        for code in [404, 500, 503] {
            let first_only = script(
                move |blob, asked| {
                    if start_of(asked) == 0 { honest(blob, asked) } else { status(code) }
                },
            );
            let pair = Pair::new(SMALL, first_only).await;
            pair.pull(&daemon(&pair, version)).await.unwrap_err();
            assert!(pair.registry.asked().is_empty(), "no fallback");
        }
    }
}

#[tokio::test]
async fn a_chunk_that_is_cut_after_all_before_it_is_resumed() {
    for version in PARALLEL {
        let last = SMALL - CHUNK;
        let cut_once = script(move |blob, asked| {
            let is_last = start_of(asked) == last;
            if is_last { up_to(blob, asked, last + 1000, Part::Close) } else { honest(blob, asked) }
        });
        let pair = Pair::new(SMALL, cut_once).await;
        // With one slot the chunks come one after the other.
        let daemon = Containerd::with_slots(version, pair.hosts(), CHUNK, 1);
        let outcome = pair.pull(&daemon).await.unwrap();
        assert_eq!(outcome.attempts.last().unwrap().range, range(last + 1000));
        assert_eq!(outcome.bytes, [SMALL, 0]);
    }
}

#[tokio::test]
async fn a_chunk_that_is_cut_cancels_those_before_it_and_the_pull_fails() {
    for version in PARALLEL {
        let pair = Pair::new(
            SMALL,
            script(|blob, asked| match start_of(asked) {
                CHUNK => up_to(blob, asked, CHUNK + 10, Part::Freeze),
                start if start == 2 * CHUNK => up_to(blob, asked, start + 10, Part::Close),
                _ => honest(blob, asked),
            }),
        )
        .await;
        let error = pair.pull(&daemon(&pair, version)).await.unwrap_err();
        assert!(error.contains("context canceled"), "{error}");
    }
}

#[tokio::test]
async fn a_host_that_ignores_ranges_gives_garbage_in_2_1_and_one_stream_in_2_3() {
    for version in PARALLEL {
        let no_ranges = script(|blob, asked| honest(blob, &Asked { range: None, ..asked.clone() }));
        let pair = Pair::new(SMALL, no_ranges).await;
        let result = pair.pull(&daemon(&pair, version)).await;
        match version {
            Version::V2_3 => assert_eq!(route(&result.unwrap()), [(0, range(0))]),
            _ => assert!(result.unwrap_err().contains("unexpected commit digest")),
        }
    }
}

#[tokio::test]
async fn a_large_blob_in_chunks_of_eight_mebibytes_is_right() {
    for version in PARALLEL {
        let pair = Pair::new(LARGE, good).await;
        let daemon = Containerd::new(version, pair.hosts(), 8 << 20);
        assert_eq!(pair.pull(&daemon).await.unwrap().bytes, [LARGE, 0]);
        assert_eq!(pair.mirror.asked().len(), 8);
    }
}
