//! What nodes say to each other: who takes whom as a child, and how far a source is.

use piccolo::agent::flight::children::{Admission, Applicant, Source};
use piccolo::agent::flight::follow::{Probed, SourceAnswer};
use piccolo::limits::PEER_CONNECT_TIMEOUT;

use super::super::events::{Event, Heard};
use super::{ONE_WAY, Receiver, Site, address, node_at};

/// Time between two looks of a source at its children, seconds.
const LOOK_INTERVAL: f64 = 0.125;

impl Site {
    /// A source decides on an applicant.
    pub(super) fn apply(&mut self, node: usize, source: usize) {
        if self.nodes[source].is_gone {
            let answer = Heard::Gone;
            let wait = PEER_CONNECT_TIMEOUT.as_secs_f64();
            return self.events.after(wait, Event::Answered { node, source, answer: Box::new(answer) });
        }
        let applicant = Applicant {
            address: address(node),
            zone: self.zone(node),
            have_bytes: self.have_bytes(node),
            has_children: !self.nodes[node].receivers.is_empty(),
            has_left_slow: self.nodes[node].follow.has_left_slow(),
        };
        let (now, have_bytes, came) = (self.time(), self.have_bytes(source), self.servers.came());
        let offering = &mut self.nodes[source];
        let is_attached =
            offering.is_attached && offering.follow.instead().is_none() || offering.done.is_some();
        let answer = match offering.children.apply(&applicant, Source { have_bytes, is_attached, came }, now)
        {
            Admission::Admitted => {
                offering.receivers.retain(|receiver| receiver.node != node);
                offering.receivers.push(Receiver { node, is_busy: false });
                if !std::mem::replace(&mut offering.is_looking, true) {
                    self.events.after(LOOK_INTERVAL, Event::Looks { source });
                }
                Heard::Sends
            }
            Admission::Full(children) => Heard::Full(children.into_iter().map(node_at).collect()),
            Admission::NoSource => Heard::Nothing,
        };
        self.events.after(ONE_WAY, Event::Answered { node, source, answer: Box::new(answer) });
    }

    pub(super) fn answered(&mut self, node: usize, source: usize, answer: Heard) {
        let now = self.time();
        let depth = self.nodes[source].depth + 1;
        let state = &mut self.nodes[node];
        state.is_waiting = false;
        let answer = match answer {
            Heard::Sends => {
                (state.source, state.is_attached, state.depth) = (Some(source), true, depth);
                SourceAnswer::Sends
            }
            Heard::Full(children) => {
                state.steps += 1;
                SourceAnswer::Full(children.into_iter().map(address).collect())
            }
            Heard::Gone if state.fetcher == Some(source) => SourceAnswer::FetcherFails,
            Heard::Gone | Heard::Nothing => SourceAnswer::Nothing,
        };
        state.follow.source_answered(address(source), answer, now);
        self.send(source);
        self.step(node);
    }

    /// A node has closed its connection to its source.
    pub(super) fn detach(&mut self, node: usize) {
        if let Some(source) = self.nodes[node].source.take() {
            self.drop_receiver(source, node);
        }
    }

    pub(super) fn drop_receiver(&mut self, source: usize, node: usize) {
        self.nodes[source].children.remove(address(node));
        self.nodes[source].receivers.retain(|receiver| receiver.node != node);
    }

    pub(super) fn probe(&mut self, node: usize, source: usize) {
        if self.nodes[source].is_gone {
            let wait = PEER_CONNECT_TIMEOUT.as_secs_f64();
            return self.events.after(wait, Event::Probed { node, source, probed: None });
        }
        let asked = &self.nodes[source];
        let probed = Some(Probed {
            have_bytes: self.have_bytes(source),
            has_source: asked.source.is_some(),
            should_be_left: asked.children.should_be_left(address(node), &self.zone(source)),
            should_leave: asked.children.should_leave(address(node), self.servers.came()),
            instead: asked.follow.instead(),
        });
        self.events.after(ONE_WAY, Event::Probed { node, source, probed: probed.map(Box::new) });
    }

    pub(super) fn probed(&mut self, node: usize, source: usize, probed: Option<Probed>) {
        let now = self.time();
        self.nodes[node].is_waiting = false;
        if self.nodes[node].source == Some(source) {
            self.nodes[node].follow.probe_answered(probed, now);
            if self.nodes[node].follow.source().is_none() {
                self.detach(node);
            }
        }
        self.step(node);
    }

    /// A source compares its children.
    pub(super) fn look(&mut self, source: usize) {
        let (now, have_bytes) = (self.time(), self.have_bytes(source));
        self.nodes[source].children.look(have_bytes, now);
        if self.nodes[source].receivers.is_empty() || self.nodes[source].is_gone {
            self.nodes[source].is_looking = false;
        } else {
            self.events.after(LOOK_INTERVAL, Event::Looks { source });
        }
    }
}
