//! TLS in front of the requests of a listener: who the client is, and a line in the log for those who are
//! refused. TLS is told from plain HTTP by the first byte.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, describe_counter};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;
use crate::identity::{Facts, Refusal, Role};
use crate::limits::REFUSED_WARN_INTERVAL;

/// First byte of a TLS connection: a record with a handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 0x16;
/// Bytes of a plain request that are taken before it is answered: closing a connection with unread bytes is a
/// reset, which may overtake the answer.
const PLAIN_TAKEN_BYTES: usize = 4096;
/// What a client without TLS is told.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 67\r\n\
    Connection: close\r\n\r\nthis port speaks TLS, and only with servers of its cluster (--tls)\n";

/// Lets clients of a listener in, or refuses them; clones share what was refused.
#[derive(Clone)]
pub struct Guard {
    acceptor: TlsAcceptor,
    plain_too: bool,
    refusals: Arc<Refusals>,
}

/// A connection whose requests are served.
pub(super) enum Begun {
    /// The client speaks no TLS, which is accepted.
    Plain(Socket),
    /// With TLS, and what the client is.
    Encrypted(Box<TlsStream<Socket>>, Role),
}

/// A connection that is refused.
struct Refused {
    reason: Refusal,
    error: Option<io::Error>,
    /// The connection of a plain client, which is told why.
    plain: Option<Socket>,
}

impl Refused {
    fn because(reason: Refusal) -> Self {
        Self { reason, error: None, plain: None }
    }
}

impl Guard {
    /// Asks clients of `port` for what `tls` wants; with `plain_too` those are let in as well that speak none.
    pub fn new(port: &'static str, tls: Arc<ServerConfig>, plain_too: bool) -> Self {
        describe_counter!("piccolo_tls_refused_total", "connections that were refused, by reason");
        for refusal in Refusal::ALL {
            counter!("piccolo_tls_refused_total", "port" => port, "reason" => refusal.label()).absolute(0);
        }
        describe_counter!(
            "piccolo_tls_plain_total",
            "connections without TLS while it is accepted, by port and direction: zero on all servers before TLS is required"
        );
        counter!("piccolo_tls_plain_total", "port" => port, "direction" => "from").absolute(0);
        let refusals = Arc::new(Refusals { port, warned: Mutex::default(), plain: Mutex::default() });
        Self { acceptor: TlsAcceptor::from(tls), plain_too, refusals }
    }

    /// Begins a connection on which something has arrived; `None` if it is refused, or takes longer than
    /// `at_most`.
    pub(super) async fn begin(&self, socket: Socket, peer: SocketAddr, at_most: Duration) -> Option<Begun> {
        let begun = timeout(at_most, self.let_in(socket)).await;
        if let Ok(Ok(Begun::Plain(_))) = &begun {
            self.refusals.note_plain(peer);
        }
        match begun.unwrap_or_else(|_| Err(Refused::because(Refusal::Slow))) {
            Ok(begun) => Some(begun),
            Err(Refused { reason, error, plain }) => {
                self.refusals.note(peer, reason, error.as_ref());
                // Counted first: whoever has the answer finds it counted.
                if let Some(socket) = plain
                    && timeout(at_most, refuse_plain(socket)).await.is_err()
                {
                    tracing::debug!(%peer, "a plain client does not take its answer");
                }
                None
            }
        }
    }

    async fn let_in(&self, socket: Socket) -> Result<Begun, Refused> {
        let failed = |error: io::Error| {
            let refused = Refused::because(Refusal::of(&error));
            Refused { error: Some(error), ..refused }
        };
        if socket.first_byte().await.map_err(failed)? != Some(HANDSHAKE_RECORD) {
            if self.plain_too {
                return Ok(Begun::Plain(socket));
            }
            return Err(Refused { plain: Some(socket), ..Refused::because(Refusal::Plain) });
        }
        let stream = self.acceptor.accept(socket).await.map_err(failed)?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let facts = certificates.first().and_then(Facts::read);
        let Some(role) = facts.as_ref().and_then(Role::of) else {
            return Err(Refused::because(Refusal::Role));
        };
        Ok(Begun::Encrypted(Box::new(stream), role))
    }
}

/// Tells a plain client why it is refused. It has no say in whether that works.
async fn refuse_plain(mut socket: Socket) {
    if socket.read(&mut [0; PLAIN_TAKEN_BYTES]).await.is_ok()
        && socket.write_all(PLAIN_ANSWER).await.is_ok()
        && let Err(error) = socket.shutdown().await
    {
        tracing::debug!(%error, "a client that is refused left before it was told");
    }
}

/// The refused connections of one listener.
struct Refusals {
    port: &'static str,
    /// For each reason, in the order of [`Refusal::ALL`].
    warned: Mutex<[Warned; Refusal::ALL.len()]>,
    /// About connections without TLS that are taken.
    plain: Mutex<Warned>,
}

/// The log lines about one reason.
#[derive(Clone, Copy, Default)]
struct Warned {
    at: Option<Instant>,
    /// Refused since, without a line.
    since: u64,
}

impl Refusals {
    /// Notes that a connection without TLS was let in, because that is still accepted.
    fn note_plain(&self, peer: SocketAddr) {
        let port = self.port;
        counter!("piccolo_tls_plain_total", "port" => port, "direction" => "from").increment(1);
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(others) = plain.one_more(Instant::now()) else { return };
        drop(plain);
        tracing::warn!(port, %peer, others, "took a connection without TLS");
    }

    fn note(&self, peer: SocketAddr, refusal: Refusal, error: Option<&io::Error>) {
        let port = self.port;
        counter!("piccolo_tls_refused_total", "port" => port, "reason" => refusal.label()).increment(1);
        let place = Refusal::ALL.iter().position(|one| *one == refusal).expect("all are there");
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(others) = warned[place].one_more(Instant::now()) else { return };
        drop(warned);
        let error = error.map(tracing::field::display);
        tracing::warn!(port, %peer, reason = %refusal, error, others, "refused a connection");
    }
}

impl Warned {
    /// Whether this one gets a line, which says how many did not since the last one.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        if self.at.is_some_and(|at| now - at < REFUSED_WARN_INTERVAL) {
            self.since += 1;
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_client_is_told_a_whole_answer() {
        let text = std::str::from_utf8(PLAIN_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{text}");
    }

    #[test]
    fn one_line_a_reason_and_interval_counts_the_others() {
        let (mut warned, start) = (Warned::default(), Instant::now());
        assert_eq!(warned.one_more(start), Some(0));
        for _ in 0..3 {
            assert_eq!(warned.one_more(start + REFUSED_WARN_INTERVAL / 2), None);
        }
        assert_eq!(warned.one_more(start + REFUSED_WARN_INTERVAL), Some(3));
        assert_eq!(warned.one_more(start + REFUSED_WARN_INTERVAL * 2), Some(0));
    }
}
