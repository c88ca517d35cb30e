//! Who receives a blob from this node while it arrives here: who is admitted, what nodes are told, and the connections
//! of those that are children.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Flight, Role, State};
use crate::agent::flight::attempt::{self, Match, Part};
use crate::agent::flight::children::{Admission, Applicant, Children, Source};
use crate::agent::flight::header::{Advice, Known, Told};

/// Why a child is sent no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildEnd {
    /// This node has lost its source, or bytes.
    Lost,
    /// What this node has received is wrong.
    Wrong,
}

/// What a node is answered that asks to receive the blob.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is a child now.
    Admitted(ChildConnection),
    /// It asks elsewhere: what it is told says where.
    Elsewhere(Told),
}

/// The connection to one child. The child is one until this is dropped, or until it connects again.
#[derive(Debug)]
pub(crate) struct ChildConnection {
    pub(crate) flight: Arc<Flight>,
    address: SocketAddr,
    number: u64,
}

impl Flight {
    /// Whether other nodes receive it from this one.
    pub(crate) fn has_children(&self) -> bool {
        !self.state().children.is_empty()
    }

    /// Notes where the children should go instead of this node, if it is slow.
    pub(crate) fn should_be_left_for(&self, better: Option<SocketAddr>) {
        self.state().instead = better;
    }

    /// Sends nothing more to the nodes that are children now.
    pub(crate) fn end_children(&self, why: ChildEnd) {
        self.state().end_children(why);
    }

    /// What the node at `from` is told, which receives from this one, in `zone`, and asks how far it is.
    pub(crate) fn tell_child(&self, from: SocketAddr, zone: &str) -> Told {
        let told = self.tell(Vec::new());
        let state = self.state();
        let advice = Advice {
            should_be_left: state.children.should_be_left(from, zone),
            should_leave: state.children.should_leave(from, state.came),
            instead: state.instead,
        };
        Told { advice, ..told }
    }

    /// What a node is told that is admitted, and knows this. What this node has verified is of any attempt.
    pub(crate) fn tell_admitted(&self, known: Known) -> Told {
        let told = self.tell(Vec::new());
        let is_of_any = told.is_holder || self.growing.is_verified() || told.have_bytes == 0;
        let attempt = if is_of_any { told.attempt.max(known.attempt) } else { told.attempt };
        Told { attempt, ..told }
    }

    /// What a node that is admitted, or sent elsewhere, is told.
    pub(crate) fn tell(&self, children: Vec<SocketAddr>) -> Told {
        let have_bytes = self.have_bytes();
        let state = self.state();
        let (source, waits_for) = match state.role {
            Role::Receives { source } => (Some(source), None),
            Role::Seeks { asks } => (None, asks),
            Role::Fetches { .. } | Role::Late { .. } | Role::Holds | Role::Idle => (None, None),
        };
        let (depth, came) = (state.depth, state.came);
        let (is_holder, advice) = (state.is_held, Advice::default());
        let attempt = state.attempt.unwrap_or_default();
        Told { have_bytes, depth, came, is_holder, source, children, waits_for, advice, attempt }
    }

    /// Decides on a node that asks to receive the blob, and what it knows of the flight.
    pub(crate) fn apply(self: &Arc<Self>, applicant: &Applicant, known: Known) -> Answer {
        let (have_bytes, is_verified) = (self.have_bytes(), self.growing.is_verified());
        let mut state = self.state();
        let asker = Part { attempt: known.attempt, have_bytes: applicant.have_bytes };
        let own = Part { attempt: state.attempt.unwrap_or_default(), have_bytes };
        let fits = match attempt::compare(asker, own, is_verified || state.is_held, self.keeps_bytes()) {
            Match::Fits(_) => !state.is_wrong,
            Match::SourceHasEnded | Match::AskerHasEnded => false,
        };
        // What others say is not passed on.
        let came = state.came.max(known.came);
        let is_attached = fits
            && match state.role {
                // A slow node takes no child that would leave it at once.
                Role::Receives { .. } => state.instead.is_none(),
                Role::Holds => have_bytes > 0,
                Role::Fetches { .. } => self.growing.has_ingest(),
                Role::Seeks { .. } | Role::Late { .. } | Role::Idle => false,
            };
        let source = Source { have_bytes, is_attached, came };
        let now = self.age();
        state.children.look(have_bytes, now);
        let children = match state.children.apply(applicant, source, now) {
            Admission::Admitted => {
                state.connections_made += 1;
                let (address, number) = (applicant.address, state.connections_made);
                state.connections.insert(address, number);
                state.touched = Instant::now();
                return Answer::Admitted(ChildConnection { flight: Arc::clone(self), address, number });
            }
            Admission::Full(children) => children,
            Admission::NoSource => Vec::new(),
        };
        drop(state);
        Answer::Elsewhere(self.tell(children))
    }
}

impl State {
    pub(super) fn end_children(&mut self, why: ChildEnd) {
        self.ended = Some((self.connections_made, why));
        self.children = Children::default();
        self.connections.clear();
    }
}

impl ChildConnection {
    /// Notes that the child has `have_bytes` of the blob by now.
    pub(crate) fn sent(&self, have_bytes: u64) {
        let source_bytes = self.flight.have_bytes();
        let mut state = self.flight.state();
        if state.connections.get(&self.address) == Some(&self.number) {
            state.children.sent(self.address, have_bytes);
            state.children.look(source_bytes, self.flight.age());
        }
    }

    /// Why the child is sent no more, if that is so.
    pub(crate) fn end(&self) -> Option<ChildEnd> {
        let state = self.flight.state();
        state.ended.filter(|(last, _)| self.number <= *last).map(|(_, why)| why)
    }
}

impl Drop for ChildConnection {
    fn drop(&mut self) {
        let mut state = self.flight.state();
        if state.connections.get(&self.address) == Some(&self.number) {
            state.connections.remove(&self.address);
            state.children.remove(self.address);
            state.touched = Instant::now();
        }
    }
}
