//! One port of the stand-in: it accepts, and has so many connections at a time.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Instant;

use super::exchange::Exchange;
use crate::cli::agent::wait::Wait;
use crate::http::{address_share, neighbourhood};
use crate::limits::{ACCEPT_PAUSE, FULL_LISTENER_WARN_INTERVAL, STAND_IN_CONNECTIONS_MAX};

/// A listener, and the connections that were accepted, in that order.
#[derive(Debug)]
pub(super) struct Port {
    listener: TcpListener,
    answer: String,
    exchanges: Vec<Exchange>,
    paused_until: Option<Instant>,
    warned: Option<Instant>,
}

impl Port {
    /// Answers every request on `listener` with `answer`.
    pub(super) fn open(listener: &TcpListener, answer: String) -> io::Result<Self> {
        let listener = listener.try_clone()?;
        Ok(Self { listener, answer, exchanges: Vec::new(), paused_until: None, warned: None })
    }

    /// Whether it has no connection.
    pub(super) fn is_idle(&self) -> bool {
        self.exchanges.is_empty()
    }

    /// Ends all connections.
    pub(super) fn close_all(&mut self) {
        self.exchanges.clear();
    }

    /// Adds what it needs before the next look makes sense.
    pub(super) fn wait_for<'a>(&'a self, wait: &mut Wait<'a>, accepts: bool) {
        self.exchanges.iter().for_each(|exchange| exchange.wait_for(wait));
        match self.paused_until {
            _ if !accepts || !self.may_have_room() => {}
            Some(until) => wait.until(until),
            None => wait.readable(&self.listener),
        }
    }

    /// Goes on with all connections, then accepts more.
    pub(super) fn look(&mut self, now: Instant, accepts: bool) {
        let answer = self.answer.as_str();
        self.exchanges.retain_mut(|exchange| exchange.go_on(answer, now));
        self.paused_until = self.paused_until.filter(|until| *until > now);
        // No more at a time, so that a flood does not keep this process from everything else.
        for _ in 0..STAND_IN_CONNECTIONS_MAX {
            if !accepts || self.paused_until.is_some() || !self.may_have_room() {
                break;
            }
            match self.listener.accept() {
                Ok((stream, peer)) => self.admit(stream, peer.ip(), now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    self.close_longest_waiting(None, now);
                    self.paused_until = Some(now + ACCEPT_PAUSE);
                }
            }
        }
    }

    /// Whether a connection more is possible: all others stay in the queue of the kernel.
    fn may_have_room(&self) -> bool {
        self.exchanges.len() < STAND_IN_CONNECTIONS_MAX || self.exchanges.iter().any(Exchange::is_waiting)
    }

    /// Begins with an accepted connection. Of those that send nothing, the longest silent one makes room for it;
    /// one address is given a share of them only, unless it is this host's own.
    fn admit(&mut self, stream: TcpStream, peer: IpAddr, now: Instant) {
        let address = neighbourhood(peer);
        let own = self.exchanges.iter().filter(|exchange| neighbourhood(exchange.peer()) == address).count();
        let has_share = !address.is_loopback() && own >= address_share(STAND_IN_CONNECTIONS_MAX);
        if has_share || self.exchanges.len() >= STAND_IN_CONNECTIONS_MAX {
            let closed = self.close_longest_waiting(has_share.then_some(address), now);
            if !closed {
                return;
            }
        }
        let begun = Exchange::begin(stream, peer, now).map(|mut exchange| {
            // Its request may be there already: then it never waits, and is never closed for another one.
            exchange.go_on(&self.answer, now).then_some(exchange)
        });
        self.exchanges.extend(begun.ok().flatten());
    }

    /// Of all connections, or of those of one address; false if none is waiting.
    fn close_longest_waiting(&mut self, of: Option<IpAddr>, now: Instant) -> bool {
        let is_meant = |exchange: &Exchange| of.is_none_or(|of| neighbourhood(exchange.peer()) == of);
        let longest = self.exchanges.iter().position(|exchange| exchange.is_waiting() && is_meant(exchange));
        if self.warned.is_none_or(|warned| now - warned >= FULL_LISTENER_WARN_INTERVAL) {
            self.warned = Some(now);
            tracing::warn!(
                open = self.exchanges.len(),
                limit = STAND_IN_CONNECTIONS_MAX,
                address = of.map(tracing::field::display),
                "too many connections on one port: those that wait longest for a request are closed"
            );
        }
        longest.map(|at| self.exchanges.remove(at)).is_some()
    }
}
