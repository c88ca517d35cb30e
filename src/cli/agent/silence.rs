//! Whether the worker answers: a real request each interval, because that is what containerd makes.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::limits::{
    WORKER_PROBE_ANSWER_BYTES_MAX, WORKER_PROBE_INTERVAL, WORKER_SILENCE_COUNTED_MAX, WORKER_SILENCE_TICK,
    WORKER_SILENT_MAX,
};

const REQUEST: &[u8] =
    b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nUser-Agent: piccolo-supervisor\r\nConnection: close\r\n\r\n";
/// The only good answer. The stand-in, for one, gives others.
const ANSWER: &[u8] = b"HTTP/1.1 200 ";

/// Asks the worker behind `mirror` for ever; returns once it has been silent for too long.
pub(super) async fn of_worker(mirror: SocketAddr) {
    loop {
        sleep(WORKER_PROBE_INTERVAL).await;
        if is_silent(mirror).await {
            return;
        }
    }
}

/// Asks until an answer, with a further request each interval: one lost connection decides nothing.
async fn is_silent(mirror: SocketAddr) -> bool {
    let mut asked = FuturesUnordered::new();
    let mut silence = Duration::ZERO;
    let mut asked_for = Duration::ZERO;
    let mut looked = Instant::now();
    loop {
        if silence >= asked_for {
            asked.push(ask(mirror));
            asked_for += WORKER_PROBE_INTERVAL;
        }
        tokio::select! {
            biased;
            Some(answered) = asked.next() => {
                if answered.unwrap_or(false) {
                    return false;
                }
            }
            () = sleep(WORKER_SILENCE_TICK) => {
                silence += counted(looked.elapsed());
                looked = Instant::now();
                if silence >= WORKER_SILENT_MAX {
                    return true;
                }
            }
        }
    }
}

/// What of the time since the last tick is the worker's.
fn counted(elapsed: Duration) -> Duration {
    elapsed.min(WORKER_SILENCE_COUNTED_MAX)
}

async fn ask(mirror: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(mirror).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    stream.take(WORKER_PROBE_ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer.starts_with(ANSWER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio_util::task::TaskTracker;

    async fn answering(answer: &'static [u8], after: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        TaskTracker::new().spawn(async move {
            let mut silent = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if silent.len() < after {
                    silent.push(stream);
                    continue;
                }
                stream.read_exact(&mut vec![0; REQUEST.len()]).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn an_answer_ends_silence_and_one_lost_connection_decides_nothing() {
        assert!(!is_silent(answering(b"HTTP/1.1 200 OK\r\n\r\n", 0).await).await);
        assert!(!is_silent(answering(b"HTTP/1.1 200 OK\r\n\r\n", 2).await).await);
    }

    #[tokio::test]
    async fn a_port_that_accepts_and_says_nothing_is_silent_in_time() {
        let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asked = Instant::now();
        assert!(is_silent(held.local_addr().unwrap()).await);
        let took = asked.elapsed();
        // Of a tick that comes late, not all is counted.
        assert!((WORKER_SILENT_MAX..WORKER_SILENT_MAX * 5).contains(&took), "{took:?}");
    }

    #[tokio::test]
    async fn only_200_is_an_answer() {
        assert!(is_silent(answering(b"HTTP/1.1 404 Not Found\r\n\r\n", 0).await).await);
    }

    #[test]
    fn a_pause_of_this_process_is_not_the_workers_silence() {
        assert_eq!(counted(WORKER_SILENCE_TICK), WORKER_SILENCE_TICK);
        let paused = counted(Duration::from_secs(3600));
        assert!(paused < WORKER_SILENT_MAX / 4, "{paused:?} of a pause were counted");
    }
}
