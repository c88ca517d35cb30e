//! Sends content whose check still runs. A hash proves nothing before the last byte, so the purpose of the
//! check is only to avoid sending damaged content in vain: the receiver verifies all of it again (I5). No
//! response therefore waits for a check for long, and a check that finds damage ends the responses that are
//! being sent.
//!
//! The last chunk of a whole blob waits for the verdict, but for a peer no longer than that peer waits for
//! bytes. On a slow disk even the check of a small blob waits seconds for others, and the peer would take an
//! honest holder for a stalled one. For containerd, which verifies nothing before its commit, the end of a
//! blob waits without a limit.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::FileReader;
use crate::agent::content::byte_stream::{ByteStream, Cut};
use crate::agent::content::verifier::Verification;
use crate::limits::{VERIFIED_FIRST_BYTES_MAX, VERIFY_BEFORE_BYTES, VERIFY_BEFORE_CHUNK};
use crate::oci::ByteRange;

/// The receiver of content of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Another agent. It considers a source stalled after a few silent seconds, and verifies what it
    /// receives.
    Peer,
    /// containerd on this node, which waits without a limit.
    Containerd,
}

/// What a chunk waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    /// Waits for the verdict on the whole blob, without a limit.
    Verdict,
    /// Waits for the verdict for this long.
    VerdictFor(Duration),
    /// Waits for the verdict until this long after the start of the check.
    VerdictAfterBegin(Duration),
    /// Waits until the check has hashed up to this offset, for this long.
    Hashed(u64, Duration),
}

/// Until when the headers of content of this size wait for the verdict: until `verdict_by`, but no longer
/// than `patience` after the start of the check.
pub(super) fn headers_by(
    reader: Reader,
    size_bytes: u64,
    check_begun: Instant,
    patience: Duration,
    verdict_by: Instant,
) -> Instant {
    if reader == Reader::Peer && size_bytes > VERIFIED_FIRST_BYTES_MAX {
        return check_begun;
    }
    verdict_by.min(check_begun + patience)
}

/// What the chunk of `range` that ends at `chunk_end` waits for.
fn wait_for(reader: Reader, range: ByteRange, chunk_end: u64, is_first: bool) -> Wait {
    match reader {
        Reader::Peer if range.is_whole() && chunk_end == range.end => {
            return Wait::VerdictFor(VERIFY_BEFORE_BYTES);
        }
        Reader::Containerd if chunk_end == range.total => return Wait::Verdict,
        Reader::Peer | Reader::Containerd => {}
    }
    if is_first && range.total <= VERIFIED_FIRST_BYTES_MAX {
        return Wait::VerdictAfterBegin(VERIFY_BEFORE_BYTES);
    }
    match reader {
        Reader::Peer if range.is_whole() => Wait::Hashed(chunk_end, VERIFY_BEFORE_CHUNK),
        Reader::Peer | Reader::Containerd => Wait::Nothing,
    }
}

impl Wait {
    async fn on(self, verification: &mut Verification) -> Result<(), Cut> {
        match self {
            Wait::Verdict if !verification.wait().await => return Err(Cut::Damaged),
            Wait::VerdictFor(time) if timeout(time, verification.wait()).await == Ok(false) => {
                return Err(Cut::Damaged);
            }
            Wait::Nothing | Wait::Verdict | Wait::VerdictFor(_) => {}
            Wait::VerdictAfterBegin(time) => {
                let until = verification.begun() + time;
                _ = timeout_at(until, verification.wait()).await;
            }
            Wait::Hashed(bytes, time) => _ = timeout(time, verification.wait_hashed(bytes)).await,
        }
        if verification.now() == Some(false) { Err(Cut::Damaged) } else { Ok(()) }
    }
}

/// Streams a part of a file whose check may still run.
pub(super) fn unchecked_file<G: Send + 'static>(
    reader: Reader,
    file: FileReader,
    verification: Verification,
    guard: G,
) -> ByteStream {
    let range = file.range;
    stream::try_unfold((file, verification, guard), move |(mut file, mut verification, guard)| async move {
        let length = file.next_length();
        let chunk_end = file.range.start + length as u64;
        let wait = wait_for(reader, range, chunk_end, file.range.start == range.start);
        wait.on(&mut verification).await?;
        let bytes = file.next(length).await?;
        Ok(bytes.map(|bytes| (bytes, (file, verification, guard))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::content::buffer_pool::BufferPool;
    use crate::agent::content::verifier::testing::{ManualCheck, manual};
    use crate::limits::{FILE_CHUNK_BYTES, SOURCE_STALL_TIMEOUT, VERIFY_BEFORE_HEADERS};
    use std::io::Write;
    use std::sync::Arc;

    const CHUNK: u64 = FILE_CHUNK_BYTES as u64;
    const LARGE: u64 = VERIFIED_FIRST_BYTES_MAX + 1;

    fn range(start: u64, end: u64, total: u64) -> ByteRange {
        ByteRange { start, end, total }
    }

    #[test]
    fn what_a_chunk_waits_for() {
        use Reader::{Containerd, Peer};
        let first = Wait::VerdictAfterBegin(VERIFY_BEFORE_BYTES);
        let last = Wait::VerdictFor(VERIFY_BEFORE_BYTES);
        let front = |end| Wait::Hashed(end, VERIFY_BEFORE_CHUNK);
        let small = 1_000_000;
        for (reader, range, chunk_end, is_first, expected) in [
            (Peer, range(0, small, small), 10, true, first),
            (Peer, range(0, small, small), 10, false, front(10)),
            (Peer, range(0, small, small), small, false, last),
            (Peer, range(0, small, small), small, true, last),
            (Peer, range(0, LARGE, LARGE), 10, true, front(10)),
            (Peer, range(0, LARGE, LARGE), LARGE, false, last),
            (Peer, range(20, 40, small), 30, true, first),
            (Peer, range(20, 40, small), 40, false, Wait::Nothing),
            (Peer, range(20, 40, LARGE), 30, true, Wait::Nothing),
            (Peer, range(20, LARGE, LARGE), LARGE, true, Wait::Nothing),
            (Containerd, range(0, LARGE, LARGE), 10, true, Wait::Nothing),
            (Containerd, range(20, 40, LARGE), 40, true, Wait::Nothing),
            (Containerd, range(20, LARGE, LARGE), LARGE, true, Wait::Verdict),
        ] {
            let wait = wait_for(reader, range, chunk_end, is_first);
            assert_eq!(wait, expected, "{reader:?} {range:?} {chunk_end} {is_first}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn headers_wait_for_a_check_once_and_never_for_a_long_one() {
        let (begun, patience) = (Instant::now(), VERIFY_BEFORE_HEADERS);
        let by = |reader, size| headers_by(reader, size, begun, patience, begun + patience * 2);
        assert_eq!(by(Reader::Peer, LARGE - 1), begun + patience);
        assert_eq!(by(Reader::Peer, LARGE), begun);
        assert_eq!(by(Reader::Containerd, LARGE), begun + patience);
        let late = headers_by(Reader::Peer, 1, begun, patience, begun + patience / 2);
        assert_eq!(late, begun + patience / 2, "the request has waited before");
    }

    /// Four chunks, with a check that ends when the test ends it.
    fn unchecked(range: ByteRange) -> (ByteStream, ManualCheck) {
        unchecked_for(Reader::Peer, range)
    }

    fn unchecked_for(reader: Reader, range: ByteRange) -> (ByteStream, ManualCheck) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 4 * FILE_CHUNK_BYTES]).unwrap();
        let (check, verification) = manual();
        let file =
            FileReader { file: Arc::new(file), range, pool: BufferPool::default(), rate: None, begun: false };
        (unchecked_file(reader, file, verification, ()), check)
    }

    fn whole() -> (ByteStream, ManualCheck) {
        unchecked(ByteRange::whole(4 * CHUNK))
    }

    /// Receives the next chunk; returns how long it took.
    async fn next(stream: &mut ByteStream) -> Duration {
        let start = Instant::now();
        let chunk = stream.next().await.unwrap().unwrap();
        assert_eq!(chunk.len(), FILE_CHUNK_BYTES);
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_check_slows_a_whole_down_but_never_stalls_it() {
        let (mut stream, check) = whole();
        assert_eq!(next(&mut stream).await.as_millis(), VERIFY_BEFORE_BYTES.as_millis());
        assert_eq!(next(&mut stream).await.as_millis(), VERIFY_BEFORE_CHUNK.as_millis());
        check.hashed(3 * CHUNK);
        assert_eq!(next(&mut stream).await.as_millis(), 0, "the check has come so far");
        assert_eq!(next(&mut stream).await.as_millis(), VERIFY_BEFORE_BYTES.as_millis(), "the last one");
        assert!(stream.next().await.is_none());
    }

    /// containerd verifies nothing before its commit.
    #[tokio::test(start_paused = true)]
    async fn for_containerd_the_end_of_a_blob_waits_for_the_verdict() {
        let (mut stream, check) = unchecked_for(Reader::Containerd, range(2 * CHUNK, 4 * CHUNK, 4 * CHUNK));
        next(&mut stream).await;
        let last = timeout(Duration::from_secs(600), stream.next()).await;
        assert!(last.is_err(), "the last chunk went out before the verdict");
        check.ended(true);
        assert!(stream.next().await.unwrap().is_ok());
        assert!(stream.next().await.is_none());
    }

    /// Regression: the last chunk of each range waited for the verdict on the whole file. The receiver took
    /// the silence for a stall, reported an honest holder, and had no other holder to ask.
    #[tokio::test(start_paused = true)]
    async fn a_range_does_not_wait_for_the_verdict_on_the_whole() {
        for (range, chunks) in [(range(CHUNK, 3 * CHUNK, 4 * CHUNK), 2), (range(0, 4 * CHUNK, LARGE), 4)] {
            let start = Instant::now();
            let (mut stream, _check) = unchecked(range);
            for _ in 0..chunks {
                next(&mut stream).await;
            }
            assert!(stream.next().await.is_none());
            assert!(start.elapsed() < SOURCE_STALL_TIMEOUT, "{range:?} took {:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_fails_on_the_way_keeps_the_rest_back() {
        for (mut stream, check) in [whole(), unchecked(range(0, 3 * CHUNK, 4 * CHUNK))] {
            next(&mut stream).await;
            check.ended(false);
            assert!(matches!(stream.next().await, Some(Err(Cut::Damaged))));
        }
        let (mut stream, check) = whole();
        for _ in 0..3 {
            next(&mut stream).await;
        }
        drop(check);
        assert!(matches!(stream.next().await, Some(Err(Cut::Damaged))), "an unfinished check proves nothing");
    }
}
