//! Whether the worker answers: a real request each interval, because that is what containerd makes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::wait::Wait;
use crate::limits::{
    WORKER_PROBE_ANSWER_BYTES_MAX, WORKER_PROBE_INTERVAL, WORKER_SILENCE_COUNTED_MAX, WORKER_SILENCE_TICK,
    WORKER_SILENT_MAX,
};

const REQUEST: &[u8] =
    b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nUser-Agent: piccolo-supervisor\r\nConnection: close\r\n\r\n";
/// The only good answer. The stand-in, for one, gives others.
const ANSWER: &[u8] = b"HTTP/1.1 200 ";

/// The requests to the worker that serves, and how long it has answered none.
#[derive(Debug)]
pub(super) struct Silence {
    mirror: SocketAddr,
    state: Asking,
}

#[derive(Debug)]
enum Asking {
    /// It has answered; the next request is due at this time.
    Later(Instant),
    Now(Round),
}

/// Requests until an answer, with a further one each interval: one lost connection decides nothing.
#[derive(Debug)]
struct Round {
    requests: Vec<Request>,
    silence: Duration,
    /// The silence at which the next request is sent.
    next_request: Duration,
    ticked: Instant,
}

/// One request on its way.
#[derive(Debug)]
struct Request {
    stream: TcpStream,
    sent_bytes: usize,
    answer: Vec<u8>,
}

/// What the last look at the worker has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It answers, or has time left to do so.
    Alive,
    /// It has not answered for [`WORKER_SILENT_MAX`].
    Silent,
}

impl Silence {
    /// Of the worker that begins to serve behind `mirror` at `now`.
    pub(super) fn of_worker(mirror: SocketAddr, now: Instant) -> Self {
        Self { mirror, state: Asking::Later(now + WORKER_PROBE_INTERVAL) }
    }

    /// Adds what it needs before the next look makes sense.
    pub(super) fn wait_for<'a>(&'a self, wait: &mut Wait<'a>) {
        match &self.state {
            Asking::Later(due) => wait.until(*due),
            Asking::Now(round) => {
                wait.until(round.ticked + WORKER_SILENCE_TICK);
                round.requests.iter().for_each(|request| request.wait_for(wait));
            }
        }
    }

    /// Asks, reads answers and counts silence, without waiting.
    pub(super) fn look(&mut self, now: Instant) -> Found {
        if let Asking::Later(due) = self.state {
            if now < due {
                return Found::Alive;
            }
            self.state = Asking::Now(Round::begin(self.mirror, now));
        }
        let Asking::Now(round) = &mut self.state else { return Found::Alive };
        if round.is_answered() {
            self.state = Asking::Later(now + WORKER_PROBE_INTERVAL);
            return Found::Alive;
        }
        round.count(self.mirror, now);
        if round.silence >= WORKER_SILENT_MAX { Found::Silent } else { Found::Alive }
    }
}

impl Round {
    fn begin(mirror: SocketAddr, now: Instant) -> Self {
        let requests = Request::send(mirror).into_iter().collect();
        Self { requests, silence: Duration::ZERO, next_request: WORKER_PROBE_INTERVAL, ticked: now }
    }

    /// Whether a request has the good answer; those with another one are forgotten.
    fn is_answered(&mut self) -> bool {
        let mut good = false;
        self.requests.retain_mut(|request| match request.answer() {
            Ok(None) => true,
            Ok(Some(is_good)) => {
                good |= is_good;
                false
            }
            Err(_) => false,
        });
        good
    }

    fn count(&mut self, mirror: SocketAddr, now: Instant) {
        let since_tick = now.saturating_duration_since(self.ticked);
        if since_tick < WORKER_SILENCE_TICK {
            return;
        }
        self.silence += counted(since_tick);
        self.ticked = now;
        if self.silence >= self.next_request {
            self.requests.extend(Request::send(mirror));
            self.next_request += WORKER_PROBE_INTERVAL;
        }
    }
}

/// What of the time since the last tick is the worker's.
fn counted(elapsed: Duration) -> Duration {
    elapsed.min(WORKER_SILENCE_COUNTED_MAX)
}

impl Request {
    /// Begins one; a connection that is refused at once is no answer.
    fn send(mirror: SocketAddr) -> io::Result<Self> {
        let family = if mirror.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &mirror) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { stream: socket.into(), sent_bytes: 0, answer: Vec::new() })
    }

    fn wait_for<'a>(&'a self, wait: &mut Wait<'a>) {
        if self.sent_bytes < REQUEST.len() {
            wait.writable(&self.stream);
        } else {
            wait.readable(&self.stream);
        }
    }

    /// Whether its answer is the good one; `None`: it is not there yet.
    fn answer(&mut self) -> io::Result<Option<bool>> {
        match self.exchange() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            ended => ended.map(|()| Some(self.answer.starts_with(ANSWER))),
        }
    }

    /// Sends and reads until the connection ends.
    fn exchange(&mut self) -> io::Result<()> {
        while self.sent_bytes < REQUEST.len() {
            self.sent_bytes += self.stream.write(&REQUEST[self.sent_bytes..])?;
        }
        let mut chunk = [0; 512];
        while self.answer.len() < WORKER_PROBE_ANSWER_BYTES_MAX {
            match self.stream.read(&mut chunk)? {
                0 => break,
                read => self.answer.extend_from_slice(&chunk[..read]),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// A port that says nothing on its first `silent` connections, and `answer` on the others.
    fn answering(answer: &'static [u8], silent: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut kept = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                if kept.len() < silent {
                    kept.push(stream);
                    continue;
                }
                stream.read_exact(&mut vec![0; REQUEST.len()]).unwrap();
                stream.write_all(answer).unwrap();
            }
        });
        address
    }

    /// What the first round finds, and how long it takes.
    fn first_round(mirror: SocketAddr) -> (Found, Duration) {
        let begun = Instant::now();
        let mut silence = Silence { mirror, state: Asking::Now(Round::begin(mirror, begun)) };
        loop {
            let found = silence.look(Instant::now());
            if found == Found::Silent || matches!(silence.state, Asking::Later(_)) {
                return (found, begun.elapsed());
            }
            let mut wait = Wait::default();
            silence.wait_for(&mut wait);
            wait.wait().unwrap();
        }
    }

    #[test]
    fn an_answer_ends_silence_and_one_lost_connection_decides_nothing() {
        assert_eq!(first_round(answering(b"HTTP/1.1 200 OK\r\n\r\n", 0)).0, Found::Alive);
        assert_eq!(first_round(answering(b"HTTP/1.1 200 OK\r\n\r\n", 2)).0, Found::Alive);
    }

    #[test]
    fn a_port_that_accepts_and_says_nothing_is_silent_in_time() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let (found, took) = first_round(held.local_addr().unwrap());
        assert_eq!(found, Found::Silent);
        // Of a tick that comes late, not all is counted.
        assert!((WORKER_SILENT_MAX..WORKER_SILENT_MAX * 5).contains(&took), "{took:?}");
    }

    #[test]
    fn only_200_is_an_answer() {
        assert_eq!(first_round(answering(b"HTTP/1.1 404 Not Found\r\n\r\n", 0)).0, Found::Silent);
    }

    #[test]
    fn a_port_that_refuses_connections_is_silent() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(first_round(closed).0, Found::Silent);
    }

    #[test]
    fn the_first_request_comes_an_interval_after_the_worker_serves() {
        let now = Instant::now();
        let mut silence = Silence::of_worker("127.0.0.1:1".parse().unwrap(), now);
        assert_eq!(silence.look(now + WORKER_PROBE_INTERVAL / 2), Found::Alive);
        assert!(matches!(silence.state, Asking::Later(_)));
        assert_eq!(silence.look(now + WORKER_PROBE_INTERVAL), Found::Alive);
        assert!(matches!(silence.state, Asking::Now(_)));
    }

    #[test]
    fn a_pause_of_this_process_is_not_the_workers_silence() {
        assert_eq!(counted(WORKER_SILENCE_TICK), WORKER_SILENCE_TICK);
        let paused = counted(Duration::from_secs(3600));
        assert!(paused < WORKER_SILENT_MAX / 4, "{paused:?} of a pause were counted");
    }
}
