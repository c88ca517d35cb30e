//! The simulated site: nodes that follow the product's rules, links that are shared, three servers and one registry.

mod lookups;
mod sources;
mod transfer;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use piccolo::agent::flight::children::Children;
use piccolo::agent::flight::follow::{Follow, Step, Why};
use piccolo::limits::CLAIM_PROGRESS_INTERVAL;
use piccolo::server::flights::table::Node as Asker;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::events::{Event, Events};
use super::outcome::Outcome;
use super::servers::Servers;
use super::terms::{PIECES, SERVERS, SLOW_SHARE, Terms};

/// One way between two nodes, or between a node and a server, seconds.
const ONE_WAY: f64 = 0.000_25;
/// Size of a piece for the rules, whose limits are for the steps of 1 MiB in which containerd writes: pieces are larger,
/// and come less evenly.
const PIECE_COUNTS_AS_BYTES: u64 = 4 << 20;
/// Address of the first node.
const FIRST_ADDRESS: u32 = 0x0a00_0000;

/// One node.
struct Node {
    follow: Follow,
    children: Children,
    receivers: Vec<Receiver>,
    source: Option<usize>,
    /// The node that fetches, as a server said last.
    fetcher: Option<usize>,
    server: usize,
    is_fetching: bool,
    is_attached: bool,
    /// A question or a request is on its way.
    is_waiting: bool,
    wakes: Option<u64>,
    is_looking: bool,
    is_slow: bool,
    is_gone: bool,
    pieces: u64,
    sent: u64,
    depth: u32,
    steps: u32,
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
    servers: Servers,
    events: Events,
    rng: StdRng,
    copies: usize,
    /// Nodes that are still to be done.
    left: usize,
    rack_sent: Vec<u64>,
    pieces_across_zones: u64,
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
        let came: Vec<f64> = (0..terms.nodes).map(|_| rng.random::<f64>() * terms.arrive_seconds).collect();
        let mut site = Self {
            terms,
            nodes: came
                .iter()
                .enumerate()
                .map(|(node, came)| Node::new(node, *came, terms, &mut rng))
                .collect(),
            servers: Servers::new(&terms),
            events: Events::default(),
            rng,
            copies: 0,
            left: terms.nodes,
            rack_sent: vec![0; terms.racks()],
            pieces_across_zones: 0,
        };
        for (node, came) in came.into_iter().enumerate() {
            let at = (came * 1e9) as u64;
            site.nodes[node].wakes = Some(at);
            site.events.at(at, Event::Wakes { node });
            if site.rng.random::<f64>() < terms.failing {
                let lasts = site.rng.random::<f64>() * terms.transfer_seconds();
                site.events.after(came + lasts, Event::Stops { node });
            }
        }
        site
    }

    /// Runs until all nodes have the blob.
    pub(super) fn run(mut self) -> Outcome {
        while self.left > 0 {
            let event = self.events.next().expect("a node that waits is woken");
            self.handle(event);
        }
        self.outcome()
    }

    fn outcome(self) -> Outcome {
        let took = |is_slow| {
            let nodes = self.nodes.iter().filter(|node| node.is_slow == is_slow && !node.is_gone);
            let mut took: Vec<f64> = nodes.filter_map(|node| Some(node.done? - node.came)).collect();
            took.sort_by(f64::total_cmp);
            took
        };
        let mut steps: Vec<u32> = self.nodes.iter().map(|node| node.steps).collect();
        steps.sort_unstable();
        let (lookups, lookups_most) = self.servers.lookups();
        Outcome {
            took: took(false),
            slow_took: took(true),
            copies: self.copies,
            depth: self.nodes.iter().map(|node| node.depth).max().unwrap_or_default(),
            steps,
            lookups,
            lookups_most,
            sent: self.nodes.iter().map(|node| node.sent).collect(),
            rack_sent: self.rack_sent,
            across_zones: self.pieces_across_zones as f64 / PIECES as f64,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wakes { node } => {
                if self.nodes[node].wakes == Some(self.events.now) {
                    self.nodes[node].wakes = None;
                    self.step(node);
                }
            }
            Event::Stops { node } => {
                let is_left = self.nodes[node].done.is_none();
                self.left -= usize::from(is_left);
                self.nodes[node].is_gone = true;
            }
            Event::Applies { node, source } => self.apply(node, source),
            Event::Answered { node, source, answer } => self.answered(node, source, *answer),
            Event::Probes { node, source } => self.probe(node, source),
            Event::Probed { node, source, probed } => self.probed(node, source, probed.map(|probed| *probed)),
            Event::Piece { node, source } => self.piece(node, source),
            Event::FromRegistry { node } => self.piece_from_registry(node),
            Event::Says { node } => self.say(node),
            Event::Looks { source } => self.look(source),
            Event::Indexed { node } => self.indexed(node),
            Event::Asks(message) => self.asked(message),
            Event::AtOwner { owner, message, is_answered } => self.at_owner(owner, message, is_answered),
            Event::OwnerSilent { owner, message } => {
                self.servers.avoid(message.server, owner, self.time());
                self.route(message);
            }
            Event::OwnerAnswered { message, sources } => self.decided(message, &sources, true),
            Event::Told { node, told } => self.told(node, *told),
            Event::ServerGone(message) => self.server_gone(*message),
        }
    }

    /// Does what the rules say that `node` does next.
    fn step(&mut self, node: usize) {
        let now = self.time();
        let state = &mut self.nodes[node];
        if state.is_waiting || state.is_fetching || state.done.is_some() || state.is_gone {
            return;
        }
        match state.follow.next(now) {
            Step::AskServer(need) => self.ask(node, need),
            Step::Attach(source) => {
                self.detach(node);
                self.nodes[node].is_waiting = true;
                self.events.after(ONE_WAY, Event::Applies { node, source: node_at(source) });
            }
            Step::Probe(source) => {
                state.is_waiting = true;
                self.events.after(ONE_WAY, Event::Probes { node, source: node_at(source) });
            }
            Step::WaitUntil(time) => {
                let at = (time.as_nanos() as u64).max(self.events.now + 1);
                if state.wakes.is_none_or(|wakes| wakes > at || wakes <= self.events.now) {
                    state.wakes = Some(at);
                    self.events.at(at, Event::Wakes { node });
                }
            }
            Step::GoToRegistry(why) => {
                self.detach(node);
                self.go_to_registry(node, why);
            }
        }
    }

    fn go_to_registry(&mut self, node: usize, why: Why) {
        let is_first = self.copies == 0;
        self.copies += 1;
        let state = &mut self.nodes[node];
        (state.is_fetching, state.is_attached) = (true, true);
        if is_first && why == Why::Claim {
            state.is_slow = false;
            if self.terms.fetcher_fails {
                self.events.after(self.terms.transfer_seconds() / 2.0, Event::Stops { node });
            }
        }
        self.fetch_piece(node);
        self.events.after(CLAIM_PROGRESS_INTERVAL.as_secs_f64(), Event::Says { node });
    }

    fn asker(&self, node: usize) -> Asker {
        let have_bytes = self.have_bytes(node);
        Asker { address: address(node), zone: self.zone(node), have_bytes, transfer: 0 }
    }

    fn zone(&self, node: usize) -> String {
        format!("zone-{}", self.terms.zone(node))
    }

    fn have_bytes(&self, node: usize) -> u64 {
        self.nodes[node].pieces * PIECE_COUNTS_AS_BYTES
    }

    fn time(&self) -> Duration {
        Duration::from_nanos(self.events.now)
    }
}

impl Node {
    fn new(node: usize, came: f64, terms: Terms, rng: &mut StdRng) -> Self {
        Self {
            follow: Follow::new(address(node), 0, Duration::from_secs_f64(came)),
            children: Children::default(),
            receivers: Vec::new(),
            source: None,
            fetcher: None,
            server: rng.random_range(0..SERVERS),
            is_fetching: false,
            is_attached: false,
            is_waiting: false,
            wakes: None,
            is_looking: false,
            is_slow: rng.random::<f64>() < terms.slow,
            is_gone: false,
            pieces: 0,
            sent: 0,
            depth: 0,
            steps: 0,
            came,
            done: None,
        }
    }

    /// The part of the rates of the site that this node has.
    fn speed(&self) -> f64 {
        if self.is_slow { 1.0 / SLOW_SHARE } else { 1.0 }
    }
}
