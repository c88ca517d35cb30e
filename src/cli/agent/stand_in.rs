//! Answers the ports while no worker does: at once, and so that everybody goes on to somebody else.
//! containerd asks its next host after a 404, a peer takes the next holder after a 503.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::handover::Ports;
use crate::http::{KnownAddresses, Slot, SlotCounts, Slots};
use crate::limits::{
    ACCEPT_PAUSE, HEADER_BYTES_MAX, RETRY_AFTER_SECONDS, STAND_IN_CONNECTIONS_MAX, STAND_IN_LAST_LOOK,
    STAND_IN_TIMEOUT,
};
use crate::oci::ErrorCode;
use crate::task::Stop;

const MESSAGE: &str = "the agent is starting or stopping";

/// It, standing in until it is told to stand back.
#[derive(Debug)]
pub(super) struct StandIn {
    stop: Stop,
    /// Whether those that wait at that moment are still ours.
    last: Stop,
    /// Three that accept, and the connections.
    tasks: TaskTracker,
}

impl StandIn {
    /// Begins. The sockets are ours too, so that connections which wait for a dead worker are answered.
    pub(super) fn start(ports: &Ports) -> io::Result<Self> {
        let (stop, last, tasks) = (Stop::new(), Stop::new(), TaskTracker::new());
        for (listener, answer) in
            [(&ports.mirror, not_found()), (&ports.peer, unavailable()), (&ports.metrics, unavailable())]
        {
            // A second descriptor: while no stand-in is needed, connections do not wake this process.
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            tasks.spawn(accept(listener, answer.into(), tasks.clone(), stop.clone(), last.clone()));
        }
        tasks.close();
        Ok(Self { stop, last, tasks })
    }

    /// Accepts no more, because a worker does. Whoever was accepted is still answered.
    pub(super) fn stand_back(&self) {
        self.stop.cancel();
    }

    /// Waits until they are.
    pub(super) async fn ended(self) {
        self.tasks.wait().await;
    }

    /// Answers who is there already, because nobody else will, then ends.
    pub(super) async fn finish(self) {
        self.last.cancel();
        self.stand_back();
        self.ended().await;
    }
}

async fn accept(listener: TcpListener, answer: Arc<str>, tasks: TaskTracker, stop: Stop, last: Stop) {
    // Of those that send nothing, the longest silent one makes room for a new one.
    let counts = SlotCounts { anybody: STAND_IN_CONNECTIONS_MAX, over_limit: 0, known: 0 };
    let slots = Slots::new(counts, KnownAddresses::default());
    let next = || async {
        let (stream, peer) = listener.accept().await?;
        let slot = slots.take(peer.ip()).await;
        Ok::<_, io::Error>(slot.map(|slot| (stream, slot)))
    };
    let serve = |accepted: Option<(TcpStream, Slot)>| {
        let Some((stream, slot)) = accepted else { return };
        let answer = Arc::clone(&answer);
        tasks.spawn(async move {
            tokio::select! {
                // A client that goes away, or that sends nothing, is no news.
                _ = tokio::time::timeout(STAND_IN_TIMEOUT, exchange(stream, &answer, &slot)) => {}
                () = slot.must_close() => {}
            }
        });
    };
    while let Some(accepted) = stop.run_until_cancelled(next()).await {
        match accepted {
            Ok(accepted) => serve(accepted),
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                slots.close_longest_waiting();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if last.is_cancelled() {
        let rest = async {
            while let Ok(accepted) = next().await {
                serve(accepted);
            }
        };
        // Over when this time is: there may always be another one.
        let _ = tokio::time::timeout(STAND_IN_LAST_LOOK, rest).await;
    }
}

async fn exchange(mut stream: TcpStream, answer: &str, slot: &Slot) -> io::Result<()> {
    slot.looked_at();
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > HEADER_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    if !slot.begin() {
        return Ok(());
    }
    let head_only = request.starts_with(b"HEAD ");
    let end = if head_only { answer.find("\r\n\r\n").map(|end| end + 4) } else { None };
    stream.write_all(&answer.as_bytes()[..end.unwrap_or(answer.len())]).await?;
    stream.shutdown().await?;
    // Closed with bytes unread, the socket would send a reset, which can overtake the answer.
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

fn not_found() -> String {
    answer("404 Not Found", "Content-Type: application/json", &ErrorCode::Unknown.body(MESSAGE, 0))
}

fn unavailable() -> String {
    let headers = format!("Content-Type: text/plain\r\nRetry-After: {RETRY_AFTER_SECONDS}");
    answer("503 Service Unavailable", &headers, &format!("{MESSAGE}\n"))
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::handover::Told;
    use super::*;
    use std::net::SocketAddr;

    async fn open() -> Ports {
        let told = r#"{"mirror":"127.0.0.1:0","peer":"127.0.0.1:0","metrics":"127.0.0.1:0"}"#;
        Ports::open(serde_json::from_str::<Told>(told).unwrap()).await.unwrap()
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn each_port_gets_the_answer_after_which_its_clients_go_on() {
        let ports = open().await;
        let _stand_in = StandIn::start(&ports).unwrap();
        let mirror = ports.mirror.local_addr().unwrap();
        let answer = ask(mirror, "GET /v2/a/blobs/sha256:0 HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("\r\n\r\n{\"errors\""), "{answer}");
        let head = ask(mirror, "HEAD /v2/a/manifests/v1 HTTP/1.1\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 404 ") && head.ends_with("\r\n\r\n"), "{head}");
        for port in [&ports.peer, &ports.metrics] {
            let answer = ask(port.local_addr().unwrap(), "GET /readyz HTTP/1.1\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: "), "{answer}");
        }
    }

    #[tokio::test]
    async fn at_the_end_who_waits_is_answered_and_beside_a_worker_left_to_it() {
        let ports = open().await;
        let mirror = ports.mirror.local_addr().unwrap();
        let mut waiting = TcpStream::connect(mirror).await.unwrap();
        waiting.write_all(b"GET /v2/ HTTP/1.1\r\n\r\n").await.unwrap();
        let stand_in = StandIn::start(&ports).unwrap();
        stand_in.stand_back();
        stand_in.ended().await;
        let early = tokio::time::timeout(Duration::from_millis(200), waiting.read_u8()).await;
        assert!(early.is_err(), "it took what is the worker's");

        let (answer, ()) = tokio::join!(
            async {
                let mut answer = String::new();
                waiting.read_to_string(&mut answer).await.unwrap();
                answer
            },
            StandIn::start(&ports).unwrap().finish()
        );
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }

    #[tokio::test]
    async fn clients_that_say_nothing_do_not_keep_the_slots() {
        let ports = open().await;
        let mirror = ports.mirror.local_addr().unwrap();
        let _stand_in = StandIn::start(&ports).unwrap();
        let mut silent = Vec::new();
        // Together they would keep all slots for many times the timeout.
        for _ in 0..STAND_IN_CONNECTIONS_MAX * 8 {
            silent.push(TcpStream::connect(mirror).await.unwrap());
        }
        let answer = tokio::time::timeout(STAND_IN_TIMEOUT, ask(mirror, "GET / HTTP/1.1\r\n\r\n")).await;
        assert!(answer.is_ok(), "the slots are taken");
    }
}
