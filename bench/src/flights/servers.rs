//! The simulated discovery servers: the product's table at each, the way to the owner of the key as in
//! `src/server/flights.rs`, and the index of complete holders.

use std::collections::HashMap;
use std::time::Duration;

use piccolo::limits::{CANDIDATES, FLIGHT_ANSWER_REMEMBERED, FLIGHT_OWNER_AVOIDED, FLIGHT_OWNER_TIMEOUT};
use piccolo::server::flights::claim::Ruling;
use piccolo::server::flights::owner;
use piccolo::server::flights::table::{Content, FlightTable, Sources};
use rand::Rng;
use rand::rngs::StdRng;

use super::terms::{SERVERS, Terms};

/// The three discovery servers of a simulated site, and what each remembers.
pub(super) struct Servers {
    tables: Vec<FlightTable>,
    pub(super) content: Content,
    /// Servers in the order in which they own the key.
    order: Vec<usize>,
    owner_stops: Option<Duration>,
    lag: Duration,
    /// Until when a server leaves another one out.
    avoided: [[Duration; SERVERS]; SERVERS],
    remembered: HashMap<(usize, String), (Duration, Sources)>,
    /// Complete holders, by zone.
    complete: Vec<Vec<usize>>,
    /// Lookups by server and second.
    lookups: HashMap<(usize, u64), u64>,
}

/// Where a message goes.
pub(super) enum Way {
    /// The server that was asked decides.
    Here,
    /// Another one does, and answers in time.
    To(usize),
    /// Another one is asked, and does not answer in time.
    ToSilent(usize),
}

impl Servers {
    pub(super) fn new(terms: &Terms) -> Self {
        let content = Content { group: "default".to_owned(), key: "r/i:1".parse().expect("a tag is a key") };
        let order = owner::order(&content, 0..SERVERS as u64);
        Self {
            tables: (0..SERVERS).map(|_| FlightTable::default()).collect(),
            order: order.into_iter().map(|voter| voter as usize).collect(),
            content,
            owner_stops: terms.owner_stops.map(Duration::from_secs_f64),
            lag: Duration::from_secs_f64(terms.server_lag),
            avoided: [[Duration::ZERO; SERVERS]; SERVERS],
            remembered: HashMap::new(),
            complete: vec![Vec::new(); terms.zones],
            lookups: HashMap::new(),
        }
    }

    /// The table of a server.
    pub(super) fn table(&mut self, server: usize) -> &mut FlightTable {
        &mut self.tables[server]
    }

    /// How many nodes have come, as far as the server that knows most knows.
    pub(super) fn came(&self) -> u64 {
        let summaries = self.tables.iter().flat_map(FlightTable::summaries);
        summaries.map(|flight| flight.came).max().unwrap_or_default()
    }

    /// Whether the machine of `server` has stopped.
    pub(super) fn is_gone(&self, server: usize, now: Duration) -> bool {
        server == self.order[0] && self.owner_stops.is_some_and(|stops| now >= stops)
    }

    /// The owner of the key for `server`.
    pub(super) fn way(&self, server: usize, now: Duration) -> Way {
        let mut may_own = self.order.iter().filter(|owner| self.avoided[server][**owner] <= now);
        match may_own.next() {
            Some(owner) if *owner == server => Way::Here,
            Some(owner) if self.is_gone(*owner, now + self.lag) || 2 * self.lag > FLIGHT_OWNER_TIMEOUT => {
                Way::ToSilent(*owner)
            }
            Some(owner) => Way::To(*owner),
            None => Way::Here,
        }
    }

    /// Notes that `owner` has not answered `server`.
    pub(super) fn avoid(&mut self, server: usize, owner: usize, now: Duration) {
        self.avoided[server][owner] = now + FLIGHT_OWNER_AVOIDED;
    }

    /// The owner's last answer to a node of `zone`, if it is fresh.
    pub(super) fn remembered(&self, server: usize, zone: &str, now: Duration) -> Option<Sources> {
        let (answered, sources) = self.remembered.get(&(server, zone.to_owned()))?;
        (now.saturating_sub(*answered) < FLIGHT_ANSWER_REMEMBERED).then(|| sources.clone())
    }

    /// Remembers an answer that another node may be given, too.
    pub(super) fn remember(&mut self, server: usize, zone: &str, sources: &Sources, now: Duration) {
        if !matches!(sources.ruling, Some(Ruling::Yours | Ruling::Undecided(_))) {
            self.remembered.insert((server, zone.to_owned()), (now, sources.clone()));
        }
    }

    /// Counts a lookup at a server, in the second in which it comes.
    pub(super) fn count(&mut self, server: usize, now: Duration) {
        *self.lookups.entry((server, now.as_secs())).or_default() += 1;
    }

    /// All lookups, and most at one server within a second.
    pub(super) fn lookups(&self) -> (u64, u64) {
        (self.lookups.values().sum(), self.lookups.values().max().copied().unwrap_or_default())
    }

    /// Notes that a node of `zone` has the blob.
    pub(super) fn index(&mut self, node: usize, zone: usize) {
        self.complete[zone].push(node);
    }

    /// Whether a complete holder is known.
    pub(super) fn is_held(&self) -> bool {
        self.complete.iter().any(|holders| !holders.is_empty())
    }

    /// Up to [`CANDIDATES`] complete holders at random, those of `zone` first.
    pub(super) fn holders(&self, zone: usize, rng: &mut StdRng) -> Vec<usize> {
        let mut holders = Vec::new();
        let zones = self.complete.len();
        for zone in (0..zones).map(|further| (zone + further) % zones) {
            let known = &self.complete[zone];
            let count = (CANDIDATES - holders.len()).min(known.len());
            holders.extend(rand::seq::index::sample(rng, known.len(), count).iter().map(|at| known[at]));
        }
        holders
    }

    /// A server that is not `server`.
    pub(super) fn other(server: usize, rng: &mut StdRng) -> usize {
        (server + rng.random_range(1..SERVERS)) % SERVERS
    }
}
