//! Answers the ports while no worker does: at once, and so that everybody goes on to somebody else.
//! containerd asks its next host after a 404, a peer takes the next holder after a 503.

mod exchange;
mod port;

use std::io;
use std::time::Instant;

use super::handover::Ports;
use super::wait::Wait;
use crate::limits::{RETRY_AFTER_SECONDS, STAND_IN_LAST_LOOK};
use crate::oci::ErrorCode;
use port::Port;

const MESSAGE: &str = "the agent is starting or stopping";

/// The three ports, and the connections that were accepted on them.
#[derive(Debug)]
pub(super) struct StandIn {
    ports: [Port; 3],
    /// False once a worker accepts.
    accepts: bool,
}

impl StandIn {
    /// Begins. The sockets are ours too, so that connections which wait for a dead worker are answered.
    pub(super) fn start(ports: &Ports) -> io::Result<Self> {
        let ports = [
            Port::open(&ports.mirror, not_found())?,
            Port::open(&ports.peer, unavailable())?,
            Port::open(&ports.metrics, unavailable())?,
        ];
        Ok(Self { ports, accepts: true })
    }

    /// Accepts again, whether it had stood back or not.
    pub(super) fn stand_in(&mut self) {
        self.accepts = true;
    }

    /// Accepts no more, because a worker does. Connections that were accepted are still answered.
    pub(super) fn stand_back(&mut self) {
        self.accepts = false;
    }

    /// Whether it has stood back, and all connections have ended.
    pub(super) fn has_ended(&self) -> bool {
        !self.accepts && self.ports.iter().all(Port::is_idle)
    }

    /// Adds what it needs before the next look makes sense.
    pub(super) fn wait_for<'a>(&'a self, wait: &mut Wait<'a>) {
        self.ports.iter().for_each(|port| port.wait_for(wait, self.accepts));
    }

    /// Accepts, reads and answers what is there, without waiting.
    pub(super) fn look(&mut self, now: Instant) {
        self.ports.iter_mut().for_each(|port| port.look(now, self.accepts));
    }

    /// Accepts no more, and waits until all connections have ended.
    pub(super) fn end(mut self) {
        self.stand_back();
        while !self.has_ended() {
            self.look_once(None);
        }
    }

    /// Answers connections that are there already, because nobody else will, then ends.
    pub(super) fn finish(mut self) {
        let end = Instant::now() + STAND_IN_LAST_LOOK;
        while self.accepts && Instant::now() < end {
            self.look_once(Some(end));
        }
        self.end();
    }

    fn look_once(&mut self, until: Option<Instant>) {
        let mut wait = Wait::default();
        self.wait_for(&mut wait);
        until.into_iter().for_each(|until| wait.until(until));
        if let Err(error) = wait.wait() {
            tracing::warn!(%error, "could not wait for connections");
            self.ports.iter_mut().for_each(Port::close_all);
        }
        self.look(Instant::now());
    }
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
mod tests;
