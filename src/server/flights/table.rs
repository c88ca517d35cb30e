//! What the owner of a key knows of its flight: who has a part of it, who fetches it, how many came. Pure: time and
//! random numbers are arguments.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use piccolo_raft::model::Key;
use rand::Rng;
use rand::seq::{IteratorRandom, SliceRandom};
use serde::{Deserialize, Serialize};

use super::claim::{Claim, Claimant, Ruling};
use super::sample::{PartialHolder, Sample};
use crate::limits::{
    FLIGHT_ZONES_MAX, FLIGHTS_MAX, PARTIAL_HOLDER_TTL, PARTIAL_HOLDERS_SHARED_MAX, PARTIAL_HOLDERS_TOLD_MAX,
};

/// The content of a flight: a key in a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Content {
    /// Group of the nodes.
    pub group: String,
    /// Key of the content.
    #[serde(with = "super::wire::key_text")]
    pub key: Key,
}

/// A node that speaks of its part of a flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Address of its blob server.
    pub address: SocketAddr,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// Contiguous bytes of the content that it has.
    pub have_bytes: u64,
    /// Number of its transfer of the content, by which a late message is told from one of the next transfer. The numbers
    /// of one node grow.
    pub transfer: u64,
}

/// What a node that needs a source says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The node.
    pub node: Node,
    /// Whether its pull begins now.
    pub begins: bool,
    /// Whether the server that it asks knows a complete holder.
    pub is_held: bool,
    /// Whether all sources that it knows bring nothing more.
    pub is_starved: bool,
    /// A source that it has lost.
    pub lost: Option<SocketAddr>,
    /// Claims on other keys that it holds and that have not had a byte yet.
    pub owes: u32,
    /// The number of the attempt that its bytes are of, if it knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
}

impl Question {
    /// Whether the node speaks of an attempt that has ended, if `current` is the one that has not.
    fn is_late(&self, current: u64) -> bool {
        self.attempt.is_some_and(|attempt| attempt < current)
    }

    /// Whether the node has bytes of such an attempt: it has to begin again, and asks then.
    pub(super) fn has_ended_bytes(&self, current: u64) -> bool {
        self.node.have_bytes > 0 && self.is_late(current)
    }
}

/// What a node that receives or fetches says from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// It receives from a node that is `depth - 1` nodes behind the first one.
    Receives {
        /// How many nodes are before it.
        depth: u32,
    },
    /// It fetches from the registry.
    Fetches,
    /// The transfer has ended: it has all of it, or has given up.
    Ended,
    /// It has found that the bytes of this attempt are wrong.
    Wrong {
        /// The number of the attempt.
        attempt: u64,
        /// Whether nodes that have bytes of it go on with them.
        keeps_bytes: bool,
    },
}

/// Where a node may get the content from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// Partial holders of the asker's zone, in random order.
    pub near: Vec<SocketAddr>,
    /// Partial holders of other zones, in random order.
    pub far: Vec<SocketAddr>,
    /// The node that fetches from the registry.
    pub fetcher: Option<SocketAddr>,
    /// The ruling on the claim; `None` if the node has no need of one.
    pub ruling: Option<Ruling>,
    /// How many nodes have come to this flight.
    pub came: u64,
    /// The number of the attempt. Bytes of one with a lower number were found to be wrong.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u64,
}

/// Whether no attempt has ended with wrong bytes: then it is not said, and servers that know none understand.
fn is_zero(attempt: &u64) -> bool {
    *attempt == 0
}

impl Sources {
    /// Up to [`PARTIAL_HOLDERS_TOLD_MAX`] partial holders for one asker at random, those of its zone first, none of
    /// `not`.
    pub fn pick(&self, not: &[SocketAddr], rng: &mut impl Rng) -> Vec<SocketAddr> {
        let mut picked = Vec::with_capacity(PARTIAL_HOLDERS_TOLD_MAX);
        for tier in [&self.near, &self.far] {
            let may_be = tier.iter().copied().filter(|address| !not.contains(address));
            let mut some = may_be.choose_multiple(rng, PARTIAL_HOLDERS_TOLD_MAX - picked.len());
            some.shuffle(rng);
            picked.append(&mut some);
        }
        picked
    }
}

/// A flight, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlightSummary {
    /// The content.
    pub content: Content,
    /// How many nodes have come.
    pub came: u64,
    /// Most nodes between a partial holder and the first one.
    pub depth: u32,
    /// How often the claim was granted: at most so many copies have left the registry.
    pub grants: u64,
    /// The node that fetches from the registry.
    pub fetcher: Option<SocketAddr>,
}

/// The flights that this server keeps.
#[derive(Debug, Default)]
pub struct FlightTable {
    flights: HashMap<Content, Flight>,
}

#[derive(Debug, Default)]
struct Flight {
    zones: BTreeMap<String, Sample>,
    claim: Claim,
    came: u64,
    used: Duration,
    /// How many attempts have ended because their bytes were wrong.
    attempt: u64,
}

impl FlightTable {
    /// Answers a node that needs a source of `content`, and registers it as a partial holder if it gets one. Of each
    /// tier at most [`PARTIAL_HOLDERS_SHARED_MAX`] holders are named.
    pub fn ask(
        &mut self,
        content: &Content,
        question: &Question,
        now: Duration,
        rng: &mut impl Rng,
    ) -> Sources {
        let flight = self.flight(content, now);
        let Node { address, transfer, .. } = question.node;
        flight.came += u64::from(question.begins);
        // A server that has lost its memory, or has just become the owner, learns the number so.
        flight.attempt = flight.attempt.max(question.attempt.unwrap_or_default());
        if question.has_ended_bytes(flight.attempt) {
            return Sources { came: flight.came, attempt: flight.attempt, ..Sources::default() };
        }
        // Who was lost with the former attempt may be the one that fetches now.
        let lost = question.lost.filter(|_| !question.is_late(flight.attempt));
        let not: Vec<_> = std::iter::once(address).chain(lost).collect();
        let [near, far] = flight.choose(&question.node.zone, &not, now, rng);
        let has_source = question.is_held || !near.is_empty() || !far.is_empty();
        // A node that was granted the claim while others asked has to learn it.
        let is_fetcher = flight.claim.fetcher() == Some(address) && !question.is_held;
        let is_in_need = question.is_starved || lost.is_some() || !has_source;
        let needs_ruling = is_in_need || is_fetcher || flight.claim.is_open(now);
        let ruling = needs_ruling.then(|| {
            let Node { have_bytes, .. } = question.node;
            let claimant = Claimant { address, transfer, have_bytes, owes: question.owes, lost };
            flight.claim.ask(claimant, now)
        });
        // Also to a node that has lost it: the fetcher fetches on, and that node may only have lost a connection.
        let fetcher = flight.claim.fetcher().filter(|fetcher| *fetcher != address);
        if has_source || fetcher.is_some() || ruling == Some(Ruling::Yours) {
            let holder = PartialHolder { address, transfer, depth: 0, seen: now };
            flight.zone(&question.node.zone).put(holder, rng);
        }
        Sources { near, far, fetcher, ruling, came: flight.came, attempt: flight.attempt }
    }

    /// Registers a node that has come and has been told a source already. If nobody is left, what it was told is of an
    /// attempt that has ended: it is no source for others before it asks again.
    pub fn came(&mut self, content: &Content, node: &Node, now: Duration, rng: &mut impl Rng) {
        let flight = self.flight(content, now);
        flight.came += 1;
        if flight.claim.fetcher().is_none() && flight.zones.values().all(Sample::is_empty) {
            return;
        }
        let holder = PartialHolder { address: node.address, transfer: node.transfer, depth: 0, seen: now };
        flight.zone(&node.zone).put(holder, rng);
    }

    /// Notes how far a node is. Returns whether its claim still stands; true for one that claims nothing.
    pub fn progress(&mut self, content: &Content, node: &Node, progress: Progress, now: Duration) -> bool {
        let Node { address, have_bytes, transfer, .. } = *node;
        if progress == Progress::Ended {
            if let Some(flight) = self.flights.get_mut(content) {
                flight.zones.values_mut().for_each(|sample| sample.end(address, transfer));
                flight.claim.ended((address, transfer), have_bytes, now);
            }
            return true;
        }
        let flight = self.flight(content, now);
        let holder = PartialHolder { address, transfer, depth: 0, seen: now };
        match progress {
            Progress::Receives { depth } => {
                flight.zone(&node.zone).renew(PartialHolder { depth, ..holder });
                true
            }
            Progress::Fetches => {
                flight.zone(&node.zone).renew(holder);
                flight.claim.has_grown((address, transfer), have_bytes, now)
            }
            Progress::Wrong { attempt, keeps_bytes } => {
                flight.had_wrong_bytes(attempt, keeps_bytes);
                true
            }
            Progress::Ended => true,
        }
    }

    /// Forgets partial holders that are silent, and flights that nobody is in.
    pub fn expire(&mut self, now: Duration) {
        self.flights.retain(|_, flight| {
            flight.zones.values_mut().for_each(|sample| sample.expire(now));
            flight.zones.retain(|_, sample| !sample.is_empty());
            !flight.zones.is_empty() || now.saturating_sub(flight.used) < PARTIAL_HOLDER_TTL
        });
    }

    /// All flights, by content.
    pub fn summaries(&self) -> Vec<FlightSummary> {
        let mut summaries: Vec<_> =
            self.flights.iter().map(|(content, flight)| flight.summary(content)).collect();
        summaries.sort_by(|a, b| a.content.cmp(&b.content));
        summaries
    }

    /// How many flights there are.
    pub fn count(&self) -> usize {
        self.flights.len()
    }

    /// The flight of `content`, used now. A table that is full forgets the one that was used longest ago.
    fn flight(&mut self, content: &Content, now: Duration) -> &mut Flight {
        if !self.flights.contains_key(content) {
            if self.flights.len() >= FLIGHTS_MAX {
                self.expire(now);
            }
            if self.flights.len() >= FLIGHTS_MAX
                && let Some(oldest) = self.flights.iter().min_by_key(|(_, flight)| flight.used)
            {
                let oldest = oldest.0.clone();
                self.flights.remove(&oldest);
            }
        }
        let flight = self.flights.entry(content.clone()).or_default();
        flight.used = now;
        flight
    }
}

impl Flight {
    /// Ends an attempt whose bytes are wrong, unless it has ended already: whoever has a part of it is told to nobody,
    /// and one node fetches anew. Where nodes go on with their bytes, they still need each other; those without a byte find
    /// nothing at them, and ask for the claim. A server that has lost its memory learns the number of the attempt so.
    fn had_wrong_bytes(&mut self, attempt: u64, keeps_bytes: bool) {
        if attempt < self.attempt {
            return;
        }
        self.attempt = attempt.saturating_add(1);
        if !keeps_bytes {
            self.zones.clear();
            self.claim.had_wrong_bytes();
        }
    }

    /// Partial holders in `zone` and elsewhere, at random.
    fn choose(
        &self,
        zone: &str,
        not: &[SocketAddr],
        now: Duration,
        rng: &mut impl Rng,
    ) -> [Vec<SocketAddr>; 2] {
        let (near, far): (Vec<_>, Vec<_>) = self.zones.iter().partition(|(name, _)| *name == zone);
        [near, far].map(|samples| {
            let holders = samples.into_iter().flat_map(|(_, sample)| sample.fresh(now));
            let holders = holders.filter(|address| !not.contains(address));
            let mut chosen = holders.choose_multiple(rng, PARTIAL_HOLDERS_SHARED_MAX);
            chosen.shuffle(rng);
            chosen
        })
    }

    /// The sample of `zone`. Zones beyond the limit share the one of nodes without a zone.
    fn zone(&mut self, zone: &str) -> &mut Sample {
        let is_kept = self.zones.contains_key(zone) || self.zones.len() < FLIGHT_ZONES_MAX;
        self.zones.entry(if is_kept { zone.to_owned() } else { String::new() }).or_default()
    }

    fn summary(&self, content: &Content) -> FlightSummary {
        let depths = self.zones.values().flat_map(Sample::iter).map(|holder| holder.depth);
        FlightSummary {
            content: content.clone(),
            came: self.came,
            depth: depths.max().unwrap_or_default(),
            grants: self.claim.grants(),
            fetcher: self.claim.fetcher(),
        }
    }
}

#[cfg(test)]
mod tests;
