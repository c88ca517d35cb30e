//! One connection of the stand-in: a request, one answer, the end.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::Instant;

use crate::cli::agent::wait::Wait;
use crate::limits::{HEADER_BYTES_MAX, STAND_IN_TIMEOUT};

/// Size of one read, bytes.
const CHUNK_BYTES: usize = 1024;
/// Reads and writes of one connection at a time. A client that never ceases to send must not keep the supervisor,
/// which has one thread, from everything else.
const STEPS_AT_A_TIME_MAX: usize = 2 * HEADER_BYTES_MAX / CHUNK_BYTES;

/// A connection that does not block.
#[derive(Debug)]
pub(super) struct Exchange {
    stream: TcpStream,
    peer: IpAddr,
    due: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Of the request so much is there.
    Request(Vec<u8>),
    /// Of the answer so much is sent, and so much is to be sent, bytes.
    Answer {
        sent: usize,
        length: usize,
    },
    /// All is sent. Closed with bytes unread, the socket would send a reset, which can overtake the answer.
    Rest,
    Ended,
}

impl Exchange {
    /// With a connection from `peer` that was accepted at `now`.
    pub(super) fn begin(stream: TcpStream, peer: IpAddr, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, peer, due: now + STAND_IN_TIMEOUT, stage: Stage::Request(Vec::new()) })
    }

    /// Who it is with.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Whether its request is not there yet: such a connection may be closed for another one.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Request(_))
    }

    /// Adds what it needs before it can go on.
    pub(super) fn wait_for<'a>(&'a self, wait: &mut Wait<'a>) {
        wait.until(self.due);
        match self.stage {
            Stage::Answer { .. } => wait.writable(&self.stream),
            Stage::Request(_) | Stage::Rest | Stage::Ended => wait.readable(&self.stream),
        }
    }

    /// Goes on as far as it can; false once it has ended. A client that goes away, or that sends nothing, is no
    /// news.
    pub(super) fn go_on(&mut self, answer: &str, now: Instant) -> bool {
        for _ in 0..STEPS_AT_A_TIME_MAX {
            match self.step(answer) {
                Ok(()) if matches!(self.stage, Stage::Ended) => return false,
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        now < self.due
    }

    fn step(&mut self, answer: &str) -> io::Result<()> {
        let mut chunk = [0; CHUNK_BYTES];
        match &mut self.stage {
            Stage::Request(request) => {
                let read = self.stream.read(&mut chunk)?;
                // The end may have begun in what was there before.
                let new = request.len().saturating_sub(3);
                request.extend_from_slice(&chunk[..read]);
                if request[new..].windows(4).any(|end| end == b"\r\n\r\n") {
                    let head = answer.find("\r\n\r\n").map(|end| end + 4);
                    let head = head.filter(|_| request.starts_with(b"HEAD "));
                    self.stage = Stage::Answer { sent: 0, length: head.unwrap_or(answer.len()) };
                } else if read == 0 || request.len() > HEADER_BYTES_MAX {
                    self.stage = Stage::Ended;
                }
            }
            Stage::Answer { sent, length } => {
                *sent += self.stream.write(&answer.as_bytes()[*sent..*length])?;
                if sent == length {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.stage = Stage::Rest;
                }
            }
            Stage::Rest if self.stream.read(&mut chunk)? > 0 => {}
            Stage::Rest | Stage::Ended => self.stage = Stage::Ended,
        }
        Ok(())
    }
}
