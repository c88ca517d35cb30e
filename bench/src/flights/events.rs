//! What happens on a simulated site, in the order of time.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use piccolo::agent::flight::follow::Probed;
use piccolo::server::flights::table::{Node as Asker, Progress, Question, Sources};

const SLOT_NANOSECONDS: u64 = 1_000_000;

/// Something that happens at one time in a simulated site.
pub(super) enum Event {
    Wakes {
        node: usize,
    },
    /// The machine of a node stops.
    Stops {
        node: usize,
    },
    /// A node asks a source for the blob.
    Applies {
        node: usize,
        source: usize,
    },
    Answered {
        node: usize,
        source: usize,
        answer: Box<Heard>,
    },
    Probes {
        node: usize,
        source: usize,
    },
    Probed {
        node: usize,
        source: usize,
        probed: Option<Box<Probed>>,
    },
    /// A piece has come from another node.
    Piece {
        node: usize,
        source: usize,
    },
    /// A piece has come from the registry.
    FromRegistry {
        node: usize,
    },
    /// A node fetches, and says how far it is.
    Says {
        node: usize,
    },
    /// A source compares its children.
    Looks {
        source: usize,
    },
    /// All servers know that a node has the blob.
    Indexed {
        node: usize,
    },
    /// A message of a node has come to a server.
    Asks(Box<Message>),
    /// A message has come to the owner of the key; `None`: nobody waits for the answer any more.
    AtOwner {
        owner: usize,
        message: Box<Message>,
        is_answered: bool,
    },
    /// An owner has not answered in time.
    OwnerSilent {
        owner: usize,
        message: Box<Message>,
    },
    /// The answer of the owner has come to the server that was asked.
    OwnerAnswered {
        message: Box<Message>,
        sources: Box<Sources>,
    },
    /// The answer of a server has come to the node.
    Told {
        node: usize,
        told: Box<Told>,
    },
    /// The server that a node has asked is gone.
    ServerGone(Box<Message>),
}

/// A message of a node to a server.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) node: usize,
    pub(super) server: usize,
    pub(super) said: Said,
    /// How often the claim was undecided.
    pub(super) undecided: usize,
}

#[derive(Clone)]
pub(super) enum Said {
    Question(Question),
    Progress(Asker, Progress),
}

/// What a server has answered.
pub(super) enum Told {
    Yours,
    Open,
    Sources { all: Vec<usize>, fetcher: Option<usize> },
}

/// What a source has answered.
pub(super) enum Heard {
    Sends,
    Full(Vec<usize>),
    Nothing,
    /// The source is gone.
    Gone,
}

/// Events by time; those of the same time in the order in which they were put. Those of the running slot of about a
/// millisecond are in a heap, which so stays small; later ones wait in no order.
#[derive(Default)]
pub(super) struct Events {
    running: BinaryHeap<Scheduled>,
    slot: u64,
    later: BTreeMap<u64, Vec<Scheduled>>,
    scheduled: u64,
    /// Nanoseconds since the start.
    pub(super) now: u64,
}

struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

impl Events {
    /// Schedules an event in so many seconds.
    pub(super) fn after(&mut self, seconds: f64, event: Event) {
        self.at(self.now + (seconds * 1e9) as u64, event);
    }

    /// Schedules an event, at a time in nanoseconds.
    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        let scheduled = Scheduled { at, number: self.scheduled, event };
        let slot = at / SLOT_NANOSECONDS;
        if slot <= self.slot {
            self.running.push(scheduled);
        } else {
            self.later.entry(slot).or_default().push(scheduled);
        }
    }

    /// The next event; time goes on to it.
    pub(super) fn next(&mut self) -> Option<Event> {
        if self.running.is_empty() {
            let (slot, events) = self.later.pop_first()?;
            (self.slot, self.running) = (slot, events.into());
        }
        let Scheduled { at, event, .. } = self.running.pop()?;
        self.now = at;
        Some(event)
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}
