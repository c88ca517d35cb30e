//! Bytes on their way, a piece at a time.

use piccolo::limits::CHILDREN_MAX;
use rand::Rng;

use super::super::events::Event;
use super::super::terms::{PIECES, Terms, share_of};
use super::{ONE_WAY, Site, address};

/// Time within which a new holder is advertised, together with others of its node, seconds.
const ADVERTISED_WITHIN: f64 = 2.0;

impl Site {
    /// Begins to send a piece to each child that lacks one and gets none.
    pub(super) fn send(&mut self, source: usize) {
        let pieces = self.nodes[source].pieces;
        if self.nodes[source].is_gone {
            return;
        }
        // What those take at most that lack a piece.
        let mut takes = [None; CHILDREN_MAX];
        for (position, receiver) in self.nodes[source].receivers.iter().enumerate() {
            let taker = &self.nodes[receiver.node];
            let lacks = taker.source == Some(source) && taker.pieces < pieces && !taker.is_gone;
            takes[position] = lacks.then(|| self.takes(receiver.node));
        }
        let link = self.terms.link * self.nodes[source].speed();
        for (position, takes_most) in takes.into_iter().enumerate() {
            let Some(takes_most) = takes_most else { continue };
            let receiver = &mut self.nodes[source].receivers[position];
            if !std::mem::replace(&mut receiver.is_busy, true) {
                let node = receiver.node;
                let seconds = self.terms.piece_bytes() as f64 / share_of(takes_most, takes, link);
                self.events.after(seconds + ONE_WAY, Event::Piece { node, source });
            }
        }
    }

    /// The rate at which a node can receive.
    fn takes(&self, node: usize) -> f64 {
        self.terms.link.min(self.terms.write) * self.nodes[node].speed()
    }

    /// A piece has come from another node.
    pub(super) fn piece(&mut self, node: usize, source: usize) {
        if self.nodes[source].is_gone {
            return;
        }
        let mut receivers = self.nodes[source].receivers.iter_mut();
        let Some(receiver) = receivers.find(|receiver| receiver.node == node) else { return };
        let is_counted = std::mem::replace(&mut receiver.is_busy, false);
        if is_counted && self.nodes[node].source == Some(source) && !self.nodes[node].is_gone {
            self.count(node, source);
            self.receive(node);
            let have_bytes = self.have_bytes(node);
            self.nodes[source].children.sent(address(node), have_bytes);
            if self.nodes[node].done.is_some() {
                self.detach(node);
            }
        }
        self.send(source);
    }

    fn count(&mut self, node: usize, source: usize) {
        self.nodes[source].sent += 1;
        self.rack_sent[Terms::rack(source)] += u64::from(Terms::rack(source) != Terms::rack(node));
        self.pieces_across_zones += u64::from(self.terms.zone(source) != self.terms.zone(node));
    }

    pub(super) fn piece_from_registry(&mut self, node: usize) {
        if !self.nodes[node].is_gone {
            self.receive(node);
            if self.nodes[node].done.is_none() {
                self.fetch_piece(node);
            }
        }
    }

    /// A piece has come.
    fn receive(&mut self, node: usize) {
        let now = self.time();
        self.nodes[node].pieces += 1;
        let have_bytes = self.have_bytes(node);
        self.nodes[node].follow.received(have_bytes, now);
        if self.nodes[node].pieces == PIECES {
            self.nodes[node].done = Some(now.as_secs_f64());
            self.left -= 1;
            let lag = 2.0 * self.terms.server_lag;
            let known = self.rng.random::<f64>() * ADVERTISED_WITHIN + lag;
            self.events.after(known, Event::Indexed { node });
        }
        self.send(node);
        self.step(node);
    }

    pub(super) fn fetch_piece(&mut self, node: usize) {
        let rate = self.terms.registry.min(self.takes(node));
        self.events.after(self.terms.piece_bytes() as f64 / rate, Event::FromRegistry { node });
    }
}
