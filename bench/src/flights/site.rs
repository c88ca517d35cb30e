//! The simulated site: nodes that follow the product's rules, links that are shared, and one registry.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use piccolo::agent::flight::children::{Admission, Applicant, Children, Source};
use piccolo::agent::flight::follow::{Follow, Need, Probed, ServerAnswer, SourceAnswer, Step, Why};
use piccolo::limits::{CANDIDATES, CLAIM_PROGRESS_INTERVAL};
use piccolo::server::flights::claim::Ruling;
use piccolo::server::flights::table::{Content, FlightTable, Node as Asker, Progress, Question};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use super::terms::{Outcome, PIECES, Terms};

/// One way between two nodes, or between a node and a server, seconds.
const ONE_WAY: f64 = 0.000_25;
/// Time between two looks of a source at its children, seconds.
const LOOK_INTERVAL: f64 = 0.25;
/// Address of the first node.
const FIRST_ADDRESS: u32 = 0x0a00_0000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives {
        node: usize,
    },
    Wakes {
        node: usize,
    },
    /// The owner decides on a question.
    Asks {
        node: usize,
        need: Asked,
    },
    /// A node has the owner's answer.
    Told {
        node: usize,
        told: Told,
    },
    /// A source decides on an applicant.
    Applies {
        node: usize,
        source: usize,
    },
    Answered {
        node: usize,
        source: usize,
        answer: Heard,
    },
    Probes {
        node: usize,
        source: usize,
    },
    ProbeAnswered {
        node: usize,
        source: usize,
        have: u64,
        has_source: bool,
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
    /// The fetcher says how far it is.
    Says {
        node: usize,
    },
    Looks {
        source: usize,
    },
}

/// Why a server is asked, as an event carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Begins,
    Sources,
    Starved,
    Lost(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Yours,
    Open,
    Undecided(Asked),
    Sources(Vec<usize>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    Sends,
    Full(Vec<usize>),
    Nothing,
}

/// One node.
struct Node {
    follow: Follow,
    children: Children,
    receivers: Vec<Receiver>,
    source: Option<usize>,
    is_fetching: bool,
    is_attached: bool,
    /// A question or a request is on its way.
    is_waiting: bool,
    wakes: Option<u64>,
    is_looking: bool,
    pieces: u64,
    depth: u32,
    asked: u32,
    came: f64,
    done: Option<f64>,
}

struct Receiver {
    node: usize,
    /// A piece is on its way.
    is_busy: bool,
}

/// The simulation.
pub(super) struct Site {
    terms: Terms,
    nodes: Vec<Node>,
    table: FlightTable,
    content: Content,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    /// Nanoseconds since the start.
    now: u64,
    rng: StdRng,
    copies: usize,
    lookups: u64,
    left: usize,
    /// Nodes that have all of the blob, and are in the index.
    complete: Vec<usize>,
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(FIRST_ADDRESS + node as u32), 7781))
}

fn node_at(address: SocketAddr) -> usize {
    let IpAddr::V4(ip) = address.ip() else { unreachable!("all nodes have IPv4 addresses") };
    (u32::from(ip) - FIRST_ADDRESS) as usize
}

impl Site {
    /// A site whose nodes arrive at random times.
    pub(super) fn new(terms: Terms, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let arrivals: Vec<f64> =
            (0..terms.nodes).map(|_| rng.random::<f64>() * terms.arrive_seconds).collect();
        let nodes = arrivals.iter().enumerate().map(|(node, came)| Node {
            follow: Follow::new(address(node), 0, Duration::from_secs_f64(*came)),
            children: Children::default(),
            receivers: Vec::new(),
            source: None,
            is_fetching: false,
            is_attached: false,
            is_waiting: false,
            wakes: None,
            is_looking: false,
            pieces: 0,
            depth: 0,
            asked: 0,
            came: *came,
            done: None,
        });
        let mut site = Self {
            terms,
            nodes: nodes.collect(),
            table: FlightTable::default(),
            content: Content { group: "default".to_owned(), key: "r/i:1".parse().expect("a tag is a key") },
            events: BinaryHeap::new(),
            scheduled: 0,
            now: 0,
            rng,
            copies: 0,
            lookups: 0,
            left: terms.nodes,
            complete: Vec::new(),
        };
        for (node, came) in arrivals.into_iter().enumerate() {
            site.after(came, Event::Arrives { node });
        }
        site
    }

    /// Runs until all nodes have the blob.
    pub(super) fn run(mut self) -> Outcome {
        while self.left > 0 {
            let Reverse((at, _, event)) = self.events.pop().expect("a node that waits is woken");
            self.now = at;
            self.handle(event);
        }
        let mut took: Vec<f64> =
            self.nodes.iter().map(|node| node.done.expect("all are done") - node.came).collect();
        took.sort_by(f64::total_cmp);
        let mut asked: Vec<u32> = self.nodes.iter().map(|node| node.asked).collect();
        asked.sort_unstable();
        Outcome {
            took,
            copies: self.copies,
            depth: self.nodes.iter().map(|node| node.depth).max().unwrap_or_default(),
            asked_p99: asked[asked.len() * 99 / 100],
            asked_most: asked[asked.len() - 1],
            lookups: self.lookups,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrives { node } => self.step(node),
            Event::Wakes { node } => {
                if self.nodes[node].wakes == Some(self.now) {
                    self.nodes[node].wakes = None;
                    self.step(node);
                }
            }
            Event::Asks { node, need } => self.decide(node, need),
            Event::Told { node, told } => self.told(node, told),
            Event::Applies { node, source } => self.apply(node, source),
            Event::Answered { node, source, answer } => self.answered(node, source, answer),
            Event::Probes { node, source } => {
                let (have, has_source) = (self.nodes[source].pieces, self.nodes[source].source.is_some());
                self.after(ONE_WAY, Event::ProbeAnswered { node, source, have, has_source });
            }
            Event::ProbeAnswered { node, source, have, has_source } => {
                let now = self.time();
                self.nodes[node].is_waiting = false;
                if self.nodes[node].source == Some(source) {
                    let probed = Probed { have_bytes: have, has_source };
                    self.nodes[node].follow.probe_answered(Some(probed), now);
                }
                self.step(node);
            }
            Event::Piece { node, source } => self.piece(node, source),
            Event::FromRegistry { node } => {
                self.receive(node);
                if self.nodes[node].done.is_none() {
                    self.fetch_piece(node);
                }
            }
            Event::Says { node } => self.say(node),
            Event::Looks { source } => {
                let now = self.time();
                let pieces = self.nodes[source].pieces;
                self.nodes[source].children.look(pieces, now);
                if self.nodes[source].receivers.is_empty() {
                    self.nodes[source].is_looking = false;
                } else {
                    self.after(LOOK_INTERVAL, Event::Looks { source });
                }
            }
        }
    }

    /// Does what the rules say that `node` does next.
    fn step(&mut self, node: usize) {
        let now = self.time();
        let state = &mut self.nodes[node];
        if state.is_waiting || state.is_fetching || state.done.is_some() {
            return;
        }
        match state.follow.next(now) {
            Step::AskServer(need) => {
                state.is_waiting = true;
                self.lookups += 1;
                let need = match need {
                    Need::Begins => Asked::Begins,
                    Need::Sources => Asked::Sources,
                    Need::Starved => Asked::Starved,
                    Need::Lost(source) => Asked::Lost(node_at(source)),
                };
                self.after(ONE_WAY, Event::Asks { node, need });
            }
            Step::Attach(source) => {
                state.is_waiting = true;
                state.asked += 1;
                self.after(ONE_WAY, Event::Applies { node, source: node_at(source) });
            }
            Step::Probe(source) => {
                state.is_waiting = true;
                self.after(ONE_WAY, Event::Probes { node, source: node_at(source) });
            }
            Step::WaitUntil(time) => {
                let at = (time.as_nanos() as u64).max(self.now + 1);
                if state.wakes.is_none_or(|wakes| wakes > at || wakes <= self.now) {
                    state.wakes = Some(at);
                    self.at(at, Event::Wakes { node });
                }
            }
            Step::GoToRegistry(why) => {
                // The grant of a claim was counted when it was made.
                self.copies += usize::from(why != Why::Claim);
                state.is_fetching = true;
                state.is_attached = true;
                self.fetch_piece(node);
                self.after(CLAIM_PROGRESS_INTERVAL.as_secs_f64(), Event::Says { node });
            }
        }
    }

    fn decide(&mut self, node: usize, need: Asked) {
        let lost = match need {
            Asked::Lost(source) => Some(address(source)),
            _ => None,
        };
        let question = Question {
            node: self.asker(node),
            begins: need == Asked::Begins,
            is_held: !self.complete.is_empty(),
            is_starved: matches!(need, Asked::Starved | Asked::Lost(_)),
            lost,
            owes: 0,
        };
        let now = self.time();
        let sources = self.table.ask(&self.content, &question, now, &mut self.rng);
        let not: Vec<SocketAddr> = std::iter::once(address(node)).chain(lost).collect();
        let picked = sources.pick(&not, &mut self.rng);
        let complete = self.complete.iter().copied().filter(|holder| *holder != node);
        let mut all = complete.choose_multiple(&mut self.rng, CANDIDATES);
        all.extend(picked.into_iter().chain(sources.fetcher).map(node_at));
        let (wait, told) = match sources.ruling {
            Some(Ruling::Yours) => {
                self.copies += 1;
                (0.0, Told::Yours)
            }
            Some(Ruling::Open) => (0.0, Told::Open),
            Some(Ruling::Undecided(wait)) => (wait.as_secs_f64(), Told::Undecided(need)),
            Some(Ruling::HeldBy(_)) | None => (0.0, Told::Sources(all)),
        };
        self.after(wait + ONE_WAY, Event::Told { node, told });
    }

    fn told(&mut self, node: usize, told: Told) {
        let answer = match told {
            Told::Yours => ServerAnswer::Yours,
            Told::Open => ServerAnswer::Open,
            Told::Sources(sources) => ServerAnswer::Sources(sources.into_iter().map(address).collect()),
            Told::Undecided(need) => {
                let need = if need == Asked::Begins { Asked::Sources } else { need };
                return self.after(ONE_WAY, Event::Asks { node, need });
            }
        };
        self.nodes[node].is_waiting = false;
        self.nodes[node].follow.server_answered(answer);
        self.step(node);
    }

    fn apply(&mut self, node: usize, source: usize) {
        let applicant = Applicant {
            address: address(node),
            zone: String::new(),
            have_bytes: self.nodes[node].pieces,
            has_children: !self.nodes[node].receivers.is_empty(),
        };
        let came = self.table.summaries().first().map_or(0, |flight| flight.came);
        let now = self.time();
        let offering = &mut self.nodes[source];
        let terms = Source {
            have_bytes: offering.pieces,
            is_attached: offering.is_attached || offering.done.is_some(),
            came,
        };
        let answer = match offering.children.apply(&applicant, terms, now) {
            Admission::Admitted => {
                offering.receivers.retain(|receiver| receiver.node != node);
                offering.receivers.push(Receiver { node, is_busy: false });
                if !std::mem::replace(&mut offering.is_looking, true) {
                    self.after(LOOK_INTERVAL, Event::Looks { source });
                }
                Heard::Sends
            }
            Admission::Full(children) => Heard::Full(children.into_iter().map(node_at).collect()),
            Admission::NoSource => Heard::Nothing,
        };
        self.after(ONE_WAY, Event::Answered { node, source, answer });
    }

    fn answered(&mut self, node: usize, source: usize, answer: Heard) {
        let now = self.time();
        let depth = self.nodes[source].depth + 1;
        let state = &mut self.nodes[node];
        state.is_waiting = false;
        let answer = match answer {
            Heard::Sends => {
                (state.source, state.is_attached, state.depth) = (Some(source), true, depth);
                SourceAnswer::Sends
            }
            Heard::Full(children) => SourceAnswer::Full(children.into_iter().map(address).collect()),
            Heard::Nothing => SourceAnswer::Nothing,
        };
        state.follow.source_answered(address(source), answer, now);
        self.send(source);
        self.step(node);
    }

    /// Begins to send a piece to each child that lacks one and gets none.
    fn send(&mut self, source: usize) {
        let pieces = self.nodes[source].pieces;
        let count = self.nodes[source].receivers.len();
        let seconds = self.terms.piece_seconds(count);
        for position in 0..count {
            let node = self.nodes[source].receivers[position].node;
            let lacks = self.nodes[node].source == Some(source) && self.nodes[node].pieces < pieces;
            if lacks && !self.nodes[source].receivers[position].is_busy {
                self.nodes[source].receivers[position].is_busy = true;
                self.after(seconds + ONE_WAY, Event::Piece { node, source });
            }
        }
    }

    fn piece(&mut self, node: usize, source: usize) {
        let receivers = &mut self.nodes[source].receivers;
        if let Some(receiver) = receivers.iter_mut().find(|receiver| receiver.node == node) {
            receiver.is_busy = false;
        }
        if self.nodes[node].source == Some(source) {
            self.receive(node);
            let pieces = self.nodes[node].pieces;
            self.nodes[source].children.sent(address(node), pieces);
            if self.nodes[node].done.is_some() {
                self.nodes[node].source = None;
                self.nodes[source].children.remove(address(node));
                self.nodes[source].receivers.retain(|receiver| receiver.node != node);
            }
        }
        self.send(source);
    }

    /// A piece has come.
    fn receive(&mut self, node: usize) {
        let now = self.time();
        let state = &mut self.nodes[node];
        state.pieces += 1;
        state.follow.received(state.pieces, now);
        if state.pieces == PIECES {
            state.done = Some(now.as_secs_f64());
            self.complete.push(node);
            self.left -= 1;
        }
        self.send(node);
        self.step(node);
    }

    fn fetch_piece(&mut self, node: usize) {
        let rate = self.terms.registry.min(self.terms.link).min(self.terms.write);
        self.after(self.terms.bytes / PIECES as f64 / rate, Event::FromRegistry { node });
    }

    fn say(&mut self, node: usize) {
        let is_done = self.nodes[node].done.is_some();
        let progress = if is_done { Progress::Ended } else { Progress::Fetches };
        let (asker, now) = (self.asker(node), self.time());
        self.table.progress(&self.content, &asker, progress, now);
        if !is_done {
            self.after(CLAIM_PROGRESS_INTERVAL.as_secs_f64(), Event::Says { node });
        }
    }

    fn asker(&self, node: usize) -> Asker {
        Asker { address: address(node), zone: String::new(), have_bytes: self.nodes[node].pieces }
    }

    fn time(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    fn after(&mut self, seconds: f64, event: Event) {
        self.at(self.now + (seconds * 1e9) as u64, event);
    }

    fn at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }
}
