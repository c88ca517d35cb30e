//! Rules of bodies that end too early.

use super::{Pair, range, route, script, up_to};
use crate::blob::SMALL;
use crate::containerd::Version;
use crate::scripted::{Part, head, honest, promise, status};

const HALF: u64 = SMALL / 2 + 123;

#[tokio::test]
async fn a_clean_close_is_resumed_at_the_exact_byte_at_the_mirror_first() {
    for version in Version::ALL {
        let cut_once = script(|blob, asked| match asked.number {
            0 => up_to(blob, asked, HALF, Part::Close),
            _ => honest(blob, asked),
        });
        let pair = Pair::new(SMALL, cut_once).await;
        let outcome = pair.pull(&pair.daemon(version)).await.unwrap();
        assert_eq!(route(&outcome), [(0, None), (0, range(HALF))]);
        assert_eq!(outcome.bytes, [SMALL, 0]);
    }
}

#[tokio::test]
async fn a_clean_close_and_then_a_404_goes_on_at_the_registry() {
    for version in Version::ALL {
        let cut = script(|blob, asked| match asked.range {
            None => up_to(blob, asked, HALF, Part::Close),
            Some(_) => status(404),
        });
        let pair = Pair::new(SMALL, cut).await;
        let outcome = pair.pull(&pair.daemon(version)).await.unwrap();
        assert_eq!(route(&outcome), [(0, None), (0, range(HALF)), (1, range(HALF))]);
        assert_eq!(outcome.bytes, [HALF, SMALL - HALF]);
    }
}

#[tokio::test]
async fn a_reset_fails_the_pull_and_the_next_one_goes_on_at_the_exact_byte() {
    for version in Version::ALL {
        let reset_once = script(|blob, asked| match asked.number {
            0 => up_to(blob, asked, HALF, Part::Reset),
            _ => honest(blob, asked),
        });
        let pair = Pair::new(SMALL, reset_once).await;
        let daemon = pair.daemon(version);
        pair.pull(&daemon).await.unwrap_err();
        assert_eq!(pair.mirror.asked().len(), 1, "not resumed");
        let outcome = pair.pull(&daemon).await.unwrap();
        let from = SMALL - outcome.bytes[0];
        assert_eq!(route(&outcome), [(0, (from > 0).then(|| range(from)).flatten())]);
    }
}

#[tokio::test]
async fn three_resumes_without_progress_at_one_offset_are_the_limit() {
    for version in Version::ALL {
        let pair = Pair::new(SMALL, script(|blob, asked| up_to(blob, asked, HALF, Part::Close))).await;
        let error = pair.pull(&pair.daemon(version)).await.unwrap_err();
        assert!(error.contains("expected number of bytes"), "{error}");
        assert_eq!(pair.mirror.asked().len(), 4, "the first, and three times at the same offset");
        assert!(pair.registry.asked().is_empty(), "a mirror that answers keeps the pull to itself");
    }
}

#[tokio::test]
async fn progress_resets_the_count() {
    for version in Version::ALL {
        let stuttering = script(|blob, asked| {
            let from = asked.range.map_or(0, |(from, _)| from);
            match asked.number % 3 {
                2 => up_to(blob, asked, (from + SMALL / 5).min(SMALL), Part::Close),
                _ => up_to(blob, asked, from, Part::Close),
            }
        });
        let pair = Pair::new(SMALL, stuttering).await;
        pair.pull(&pair.daemon(version)).await.unwrap_or_else(|error| panic!("{version:?}: {error}"));
        assert!(pair.mirror.asked().len() > 10);
    }
}

#[tokio::test]
async fn a_200_to_a_range_is_read_and_thrown_away_up_to_the_offset() {
    for version in Version::ALL {
        let no_ranges = script(|blob, asked| {
            let plain = crate::scripted::Asked { range: None, ..asked.clone() };
            if asked.number == 0 { up_to(blob, &plain, HALF, Part::Close) } else { honest(blob, &plain) }
        });
        let pair = Pair::new(SMALL, no_ranges).await;
        let outcome = pair.pull(&pair.daemon(version)).await.unwrap();
        assert_eq!(outcome.bytes, [SMALL + HALF, 0]);
    }
}

#[tokio::test]
async fn a_206_with_a_wrong_content_range_moves_on_in_1_6_and_is_believed_in_2() {
    for version in Version::ALL {
        let shifted = script(|blob, asked| match asked.range {
            None => up_to(blob, asked, HALF, Part::Close),
            Some(_) => {
                let text = format!("bytes 0-{}/{SMALL}", SMALL - HALF - 1);
                let mut parts = vec![Part::Head(head(206, SMALL - HALF, &[("Content-Range", &text)]))];
                parts.extend(blob.slice(0, SMALL - HALF).into_iter().map(Part::Body));
                parts
            }
        });
        let pair = Pair::new(SMALL, shifted).await;
        let result = pair.pull(&pair.daemon(version)).await;
        match version {
            Version::V1_6 => assert_eq!(result.unwrap().bytes, [HALF, SMALL - HALF]),
            Version::V2_1 | Version::V2_3 => assert!(result.unwrap_err().contains("commit digest")),
        }
    }
}

#[tokio::test]
async fn a_200_with_a_content_range_that_does_not_fit_moves_on() {
    for version in Version::ALL {
        let shifted = script(|blob, asked| match asked.range {
            None => up_to(blob, asked, HALF, Part::Close),
            Some(_) => vec![Part::Head(head(200, 5, &[("Content-Range", "bytes 7-11/12")])), Part::Close],
        });
        let pair = Pair::new(SMALL, shifted).await;
        let outcome = pair.pull(&pair.daemon(version)).await.unwrap();
        assert_eq!(outcome.bytes, [HALF, SMALL - HALF]);
    }
}

#[tokio::test]
async fn a_chunked_body_is_resumed_where_its_last_chunk_is_missing() {
    for version in Version::ALL {
        let chunked = script(|blob, asked| {
            let (_, body) = promise(blob, asked);
            let (from, _) = body.unwrap();
            if from > 0 {
                return honest(blob, asked);
            }
            let mut parts = vec![
                Part::Head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()),
                Part::Head(format!("{HALF:x}\r\n")),
            ];
            parts.extend(blob.slice(0, HALF).into_iter().map(Part::Body));
            parts.extend([Part::Head("\r\n".to_owned()), Part::Close]);
            parts
        });
        let pair = Pair::new(SMALL, chunked).await;
        let outcome = pair.pull(&pair.daemon(version)).await.unwrap();
        assert_eq!(route(&outcome), [(0, None), (0, range(HALF))]);
    }
}
